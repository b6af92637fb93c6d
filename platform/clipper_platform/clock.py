"""Time as a Protocol: the shell asks a clock, so that tests can move it."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds that only grow; for deadlines and durations."""
        ...

    def time(self) -> float:
        """Unix time in seconds; for what people and other machines read."""
        ...


class SystemClock:
    """The machine's clocks. The functions themselves: asked several times per request, a call around each would cost
    more than the answer."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)
