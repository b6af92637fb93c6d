"""Time as a Protocol, so that tests can move it."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds that only grow; for deadlines and durations."""
        ...

    def time(self) -> float:
        """Unix time in seconds; for people and other machines."""
        ...


class SystemClock:
    """The machine's clocks. Its attributes are the functions of `time` themselves: they are called several times per
    request, and a Python function around each would take longer than the call itself."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)
