"""The thread that keeps the channel served while user code holds the main thread."""

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
    """Ticks while the replica works, sleeps for good once it has been idle for a second.

    A tick flushes log lines, and takes over reading when bytes waited in the socket since the tick before and nobody
    read: so a long call costs nobody their Pong, their cancellation or the news that the platform is gone, and a
    short one never hands work between threads.
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
        """Before an orderly exit: the platform closing the channel is no loss any more."""
        self._stopped = True

    def wake(self) -> None:
        """There is work; nothing unless the watcher is `parked`. Safe to call re-entrantly."""
        if self.parked:
            self.parked = False
            self._wake.set()

    def _run(self) -> None:
        try:
            active_at = time.monotonic()
            while True:
                time.sleep(TICK_S)
                if self._stopped:
                    return
                self._tick()
                now = time.monotonic()
                if self._busy():
                    active_at = now
                elif now - active_at > _PARK_AFTER_S:
                    self._park()
                    active_at = time.monotonic()
        except BaseException as error:  # noqa: BLE001 - the channel broke, or a defect: either way nobody watches now
            self._fatal(error)

    def _tick(self) -> None:
        self._flush()
        if not self._channel.readable():
            self._unread_since = None
        elif self._unread_since is None or self._unread_since != self._channel.reads:
            self._unread_since = self._channel.reads
        else:
            self._read()

    def _park(self) -> None:
        # Whoever brings work makes us busy first and looks at `parked` second; here it is the other way round, so one
        # of the two sees the other.
        self._wake.clear()
        self.parked = True
        if self._busy():
            self.parked = False
            return
        self._wake.wait()
