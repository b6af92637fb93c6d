"""Page faults ahead of time, in a child that no launch waits for yet.

After a fork the first write to each page costs a fault and a copy. The start and the first prediction of a scikit-learn
classifier meet 800 of them. The zygote finds the pages that an earlier child wrote to, and the next child copies those
before it is needed. Then about thirty faults are left.
That takes the processor time of the first answer from 6.6 to 4.7 ms with a snapshot and from 11.6 to 7.5 ms with a warm
zygote (`python -m tests.benchmarks.cold_start`, two busy cores, medians of 40 rounds interleaved with a variant that
copies none); its p50 from 19 to 16 ms and from 32 to 18 ms.

Two further steps were measured the same way and left out, because each saved under 5%: to map the pages of shared
libraries (the kernel maps sixteen at a fault), and to run a start on a function of our own.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from array import array
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

__all__ = ["MAX_WRITTEN_BYTES", "Span", "better_known", "own_pages", "prefault", "written_pages"]

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
MAX_WRITTEN_BYTES: Final = 12 * 1024 * 1024
"""The most that a child copies; a start and a first prediction with scikit-learn write to 740 pages, 3 MiB."""

# Larger mappings hold data: what is written there differs from call to call, and looking takes long.
_MAX_MAPPING: Final = 64 * 1024 * 1024
_POPULATE_WRITE: Final = 23  # Linux 5.14; older kernels refuse it, and the faults come later
_PRESENT_OR_SWAPPED: Final = 0b11 << 62
_FILE_OR_SHARED: Final = 1 << 61
_EXCLUSIVE: Final = 1 << 56


class Span(NamedTuple):
    """Addresses, in bytes: `start` up to `end`."""

    start: int
    end: int


def prefault(spans: Iterable[Span]) -> None:
    """Copy these pages, as a write to each would."""
    madvise = ctypes.CDLL(None).madvise
    for start, end in spans:
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _POPULATE_WRITE)


def written_pages(child: int, ours: Iterable[Span]) -> list[Span]:
    """Pages of `ours`, this process's memory from before the fork, that `child` has copied because it wrote to them.

    At most MAX_WRITTEN_BYTES; empty where the kernel does not tell. Linear in the size of `ours`, about 20 ms per GiB.
    """
    found: list[Span] = []
    left = MAX_WRITTEN_BYTES // PAGE
    try:
        with open(f"/proc/{child}/pagemap", "rb", buffering=0) as file:
            for span in ours:
                size, at = ((number // PAGE) * 8 for number in (span.end - span.start, span.start))
                entries = array("Q", os.pread(file.fileno(), size, at))
                for copied in _runs(entries):
                    taken = min(left, len(copied))
                    left -= taken
                    if taken:
                        found.append(Span(span.start + copied.start * PAGE, span.start + (copied.start + taken) * PAGE))
    except (OSError, ValueError):
        return []  # it has ended
    return found


def better_known(before: list[Span], found: list[Span]) -> list[Span]:
    """The newer of two results of `written_pages`, unless it is empty or fills the bound: a child that is shutting down
    writes to nearly all of its pages."""
    full = sum(span.end - span.start for span in found) >= MAX_WRITTEN_BYTES
    return before if before and (full or not found) else found


def _runs(entries: array[int]) -> Iterator[range]:
    """Ranges of neighbouring entries whose pages are in memory, anonymous, and no other process's."""
    own = (e & _EXCLUSIVE and e & _PRESENT_OR_SWAPPED and not e & _FILE_OR_SHARED for e in entries)
    position = 0
    for copied, group in itertools.groupby(map(bool, own)):
        count = sum(1 for _ in group)
        if copied:
            yield range(position, position + count)
        position += count


def own_pages() -> list[Span]:
    """This process's private writable memory, without mappings so large that they must hold data."""
    found = []
    with open("/proc/self/maps") as file:
        for line in file:
            bounds, access, _, _, _, path = [*line.split(maxsplit=5), ""][:6]
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            if access == "rw-p" and end - start <= _MAX_MAPPING and path.strip() not in ("[stack]", "[vvar]"):
                found.append(Span(start, end))
    return found
