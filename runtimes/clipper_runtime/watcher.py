"""The thread that reads the channel and sends log lines while user code keeps the main thread busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from clipper_runtime.channel import Channel

__all__ = ["Watcher"]

TICK_S: Final = 0.02
_PARK_AFTER_S: Final = 1.0


class Watcher:
    """Ticks while the replica works; sleeps until it is woken after the replica was idle for a second.

    A tick sends the waiting log lines. It reads the channel when bytes have waited in the socket since the last tick
    and no thread has read since then. So pings, cancellations and the end of the channel are handled during a long
    call, and a short call never moves work between threads. Once no thread has read for a whole tick although there is
    work, the watcher waits for the channel instead, and reads what comes at once.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        read: Callable[[], None],
        flush: Callable[[], None],
        busy: Callable[[], bool],
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._channel = channel
        self._read = read
        self._flush = flush
        self._busy = busy
        self._fatal = fatal
        self._unread_since: int | None = None  # channel.reads when bytes were first seen waiting
        self.parked = False
        self._wake = threading.Event()
        self._stopped = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="clip-watcher", daemon=True).start()

    def stop(self) -> None:
        """Before an orderly exit: the platform may close the channel now."""
        self._stopped = True

    def wake(self) -> None:
        """Resume ticking, if the watcher is `parked`. Safe to call re-entrantly."""
        if self.parked:
            self.parked = False
            self._wake.set()

    def _run(self) -> None:
        try:
            active_at, reads = time.monotonic(), -1
            while True:
                long_call = reads == self._channel.reads and self._busy()
                reads = self._channel.reads
                if not long_call:
                    time.sleep(TICK_S)
                elif self._channel.readable(TICK_S):
                    reads = -1  # where another thread holds the read lock, the bytes stay: sleep before the next look
                if self._stopped:
                    return
                self._tick(at_once=long_call)
                now = time.monotonic()
                if self._busy():
                    active_at = now
                elif now - active_at > _PARK_AFTER_S:
                    self._park()
                    active_at, reads = time.monotonic(), -1
        except BaseException as error:  # noqa: BLE001 - without the watcher the replica cannot go on
            self._fatal(error)

    def _tick(self, *, at_once: bool) -> None:
        self._flush()
        if not self._channel.readable():
            self._unread_since = None
        elif at_once or self._unread_since == self._channel.reads:
            self._read()
        else:
            self._unread_since = self._channel.reads

    def _park(self) -> None:
        # The thread that brings work makes the replica busy first and checks `parked` second. Here the order is the
        # other way round, so one of the two threads sees the other's change.
        self._wake.clear()
        self.parked = True
        if self._busy():
            self.parked = False
            return
        self._wake.wait()
