"""Whether the platform takes requests: starting, ready, draining."""

from __future__ import annotations

import asyncio
from typing import Literal

__all__ = ["Lifecycle", "LifecycleState"]

LifecycleState = Literal["starting", "ready", "draining"]


class Lifecycle:
    """Moved by the composition root; read by `/readyz` and by streams that would otherwise hold the server open."""

    def __init__(self) -> None:
        self._state: LifecycleState = "starting"
        self._draining = asyncio.Event()

    @property
    def state(self) -> LifecycleState:
        return self._state

    def ready(self) -> None:
        """Everything was brought back. Without effect once draining."""
        if self._state == "starting":
            self._state = "ready"

    def drain(self) -> None:
        """No new requests should come; open streams end now."""
        self._state = "draining"
        self._draining.set()

    async def drained(self) -> None:
        """Wait until `drain` is called."""
        await self._draining.wait()
