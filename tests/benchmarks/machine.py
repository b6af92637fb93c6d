"""The machine that a benchmark runs on: what it is, and who uses its processors meanwhile."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

__all__ = ["Processors", "cpu_s", "describe", "family"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def describe() -> dict[str, str]:
    """Facts that a reader of the numbers needs, in words."""
    cores = len(os.sched_getaffinity(0))
    return {
        "processor": f"{cores} cores, {_cpu_model()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def family(pid: int) -> list[psutil.Process]:
    """The process and all its living descendants; none if it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Seconds that these have spent on a processor, exact to 10 ms for each. The gone count nothing."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _busy_s() -> float:
    """Seconds that all processors together were not idle since the start of the machine."""
    with open("/proc/stat") as file:
        fields = list(map(int, file.readline().split()[1:9]))
    return (sum(fields) - fields[3] - fields[4]) / _TICKS_PER_S  # without idle and iowait


class Processors:
    """`with Processors() as processors:` — afterwards `foreign` is the share of the machine that went to processes
    which are not the benchmark's: where it is high, the measurement means less."""

    def __init__(self) -> None:
        self.foreign = 0.0

    def __enter__(self) -> Self:
        self._ours = {process.pid: (process, cpu_s([process])) for process in family(os.getpid())}
        self._reaped = _reaped_s()
        self._busy, self._began = _busy_s(), time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        passed = time.monotonic() - self._began
        busy = _busy_s() - self._busy
        now = {process.pid: (process, cpu_s([process])) for process in family(os.getpid())}
        ours = sum(spent - self._ours.get(pid, (process, 0.0))[1] for pid, (process, spent) in now.items())
        ours += _reaped_s() - self._reaped
        available = passed * (os.cpu_count() or 1)
        self.foreign = min(1.0, max(0.0, (busy - ours) / available)) if available > 0 else 0.0


def _reaped_s() -> float:
    """Of children that ended, such as a load generator."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
