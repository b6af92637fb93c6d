"""The guardian: a small process that ends a platform's processes once the platform is gone, for whatever reason.

The platform holds the write end of the guardian's standard input. When the platform dies, even by SIGKILL, the kernel
closes that end; the guardian reads the end of file and kills every process whose environment has the platform's
marker, until none is left. The marker is inherited, so it also finds processes that user code moved into a session of
their own, out of reach of a process group. (Not found: a process that was started with an emptied environment *and*
left its process group.)

Run as a script (`python -I -S guardian.py --instance ID`) it needs the standard library only. The platform imports
`kill_marked` for its own sweeps.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

__all__ = ["MARKER", "kill_marked", "marked_processes"]

MARKER = "CLIP_PLATFORM_INSTANCE"
"""Environment variable that every process of a platform's replicas has: the id of that run of the platform."""

_PAUSE_S = 0.02
# A process in the middle of exec shows an empty environment for a moment, so one empty scan proves nothing.
_EMPTY_SCANS = 2


def marked_processes(entries: frozenset[bytes]) -> Iterator[int]:
    """Processes, this one excepted, whose environment at exec held all `entries` (`b"NAME=value"`)."""
    own = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != own and entries <= _environment(int(name)):
            yield int(name)


def kill_marked(entries: frozenset[bytes], timeout_s: float = 10.0) -> int:
    """Kill all that `marked_processes` finds until there are none. Returns how many were killed.

    Raises ValueError if `entries` is empty, because every process would fit.
    """
    if not entries:
        raise ValueError("nothing to look for")
    deadline, killed, empty = time.monotonic() + timeout_s, set(), 0
    while empty < _EMPTY_SCANS and time.monotonic() < deadline:
        found = [pid for pid in marked_processes(entries) if _kill(pid, entries)]
        killed.update(found)
        empty = 0 if found else empty + 1
        time.sleep(_PAUSE_S)
    return len(killed)


def _environment(pid: int) -> set[bytes]:
    """Environment entries; empty for a zombie, a kernel thread, another user's process and one that is gone."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return set(file.read().split(b"\0"))
    except OSError:
        return set()


def _kill(pid: int, entries: frozenset[bytes]) -> bool:
    """Kill `pid` if it still is the same process: the descriptor pins it, so the second look at its environment is
    certain."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not entries <= _environment(pid):
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] != "--instance" or not arguments[1]:
        sys.stderr.write("usage: guardian.py --instance ID\n")
        return 2
    # Ctrl-C in the platform's terminal, or a stop of its whole service, must not end the guardian before its work.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    kill_marked(frozenset([f"{MARKER}={arguments[1]}".encode()]), timeout_s=60.0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
