"""Facts from /proc: memory of a process tree, identity across pid reuse, the kernel's out-of-memory kills."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["boot_id", "out_of_memory_kills", "own_rss", "start_time", "tree_rss"]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def tree_rss(pid: int) -> int | None:
    """Resident bytes of a process and its descendants; None when it is gone.

    Shared pages count once for each process: an upper bound. Proportional shares (smaps_rollup) would be exact, but
    the kernel walks every page table for them, which takes milliseconds for each GiB.
    """
    total, found, seen = 0, False, set()
    stack = [pid]
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        resident = own_rss(current)
        if resident is not None:
            total, found = total + resident, True
            stack += _children(current)
    return total if found else None


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which the process started; with its pid they identify a process. None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The second field, the command in parentheses, may itself hold spaces and parentheses.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def boot_id() -> str:
    """Changes with every start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def out_of_memory_kills() -> int:
    """How many processes the kernel has killed for want of memory since boot, in all cgroups. 0 if it does not tell."""
    try:
        text = Path("/proc/vmstat").read_bytes()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(b"oom_kill "):
            return int(line.split()[1])
    return 0


def own_rss(pid: int) -> int | None:
    """Resident bytes of a process without its descendants; None when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            resident = int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return None
    return resident or None  # a zombie has none


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                children += map(int, file.read().split())
    except OSError:
        pass  # gone meanwhile, or a kernel built without the list
    return children
