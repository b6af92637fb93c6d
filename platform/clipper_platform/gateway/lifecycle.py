"""Whether the platform takes requests: starting, ready, draining."""

from __future__ import annotations

import asyncio
from typing import Literal

__all__ = ["Lifecycle", "LifecycleState"]

LifecycleState = Literal["starting", "ready", "draining"]


class Lifecycle:
    """Set by `main`; read by `/readyz`, and by streams, which would otherwise keep the server from stopping."""

    def __init__(self) -> None:
        self._state: LifecycleState = "starting"
        self._draining = asyncio.Event()

    @property
    def state(self) -> LifecycleState:
        return self._state

    def ready(self) -> None:
        """The functions run again. Has no effect after `drain`."""
        if self._state == "starting":
            self._state = "ready"

    def drain(self) -> None:
        """Clients should send no more requests; open streams end now."""
        self._state = "draining"
        self._draining.set()

    async def drained(self) -> None:
        """Wait until `drain` is called."""
        await self._draining.wait()
