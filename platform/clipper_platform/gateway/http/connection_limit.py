"""The limit of client connections: beyond it a connection is refused with 503, in place of a reset by the kernel."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

__all__ = ["Admission", "ConnectionLimit"]

logger = logging.getLogger(__name__)

LOG_PERIOD_S: Final = 10.0


class Admission(Enum):
    ADMITTED = 1
    REFUSED = 2  # it is told so, and closed when it has read it
    CLOSED = 3  # closed at once: half of the reserve is taken too


class ConnectionLimit:
    """`descriptors`: connections have lower descriptors than this. `limit`: that of the process."""

    def __init__(
        self, descriptors: int, limit: int, *, now: Callable[[], float], on_refused: Callable[[], None]
    ) -> None:
        self._refused_from = descriptors
        self._closed_from = (descriptors + limit) // 2
        self._limit = limit
        self._now = now
        self._on_refused = on_refused
        self._log_at = -math.inf

    @classmethod
    def none(cls) -> ConnectionLimit:
        return cls(sys.maxsize, sys.maxsize, now=lambda: 0.0, on_refused=lambda: None)

    def admit(self, transport: Any) -> Admission:
        """Whether a connection that was accepted may stay."""
        sock = transport.get_extra_info("socket")
        descriptor = -1 if sock is None else sock.fileno()
        if descriptor < self._refused_from:
            return Admission.ADMITTED
        self._on_refused()
        if self._now() >= self._log_at:
            self._log_at = self._now() + LOG_PERIOD_S
            logger.warning(
                "connections are refused: the process may have %d open files, and the rest of them is for replicas; "
                "raise the limit (ulimit -n, LimitNOFILE)",
                self._limit,
            )
        return Admission.REFUSED if descriptor < self._closed_from else Admission.CLOSED
