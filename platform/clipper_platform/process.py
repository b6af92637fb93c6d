"""What the platform's process owes the operating system: descriptors, orphans, signals, and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["handle_signals", "reap_orphans", "sweep_orphans"]

logger = logging.getLogger(__name__)

REAP_PERIOD_S: Final = 5.0
# After a second signal: for answers and log lines that are on their way. The guardian ends the replicas.
HURRY_S: Final = 1.0


def handle_signals(stop: Callable[[str], bool], hurry: Callable[[], None]) -> None:
    """Call `stop(name)` at SIGINT, SIGTERM and SIGHUP, which a closing terminal sends; it returns whether it was called
    before. Then `hurry` is called, and a moment later the process ends without waiting for anything."""
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop(number.name):
            logger.warning("a second %s: stopping without waiting", number.name)
            hurry()
            loop.call_later(HURRY_S, leave, 128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
            continue  # nohup: the terminal's end is none of ours
        loop.add_signal_handler(number, on_signal, number)


def leave(status: int) -> None:
    """End the process now."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # its reader is gone
    os._exit(status)


async def reap_orphans() -> None:
    """As process 1 of a container: adopt orphaned processes, and reap them when they have ended. Else do nothing."""
    if os.getpid() != 1:
        return
    seen: set[int] = set()
    while True:
        await asyncio.sleep(REAP_PERIOD_S)
        seen = sweep_orphans(seen)


def sweep_orphans(seen: set[int]) -> set[int]:
    """Reap ended children that were there in the sweep before too; returns those of this one.

    The platform's own children are reaped at once, by what started them, so one that has waited for a whole period is
    somebody else's.
    """
    ended = set(filter(_has_ended, _children()))
    for pid in ended & seen:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass  # reaped meanwhile
    return ended - seen


def _children() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found += [int(pid) for pid in (task / "children").read_text().split()]
        except OSError:
            pass  # the thread ended, or the kernel has no such file
    return found


def _has_ended(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rindex(b")") + 2 :][:1] == b"Z"
