"""Page faults paid ahead of time, in a child that nobody waits for yet.

After a fork each first touch of a page costs a fault: to map one of a shared library, or to copy one that is written
to. The start and the first prediction of a scikit-learn classifier meet 1,800 of them. Those of libraries are known;
the ones that are written to are learnt from an earlier sibling. Then about ten are left.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from array import array
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

__all__ = ["MAX_WRITTEN_BYTES", "Span", "map_libraries", "own_pages", "prefault", "written_pages"]

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
MAX_WRITTEN_BYTES: Final = 12 * 1024 * 1024
"""That a spare child copies at most; a start and a first prediction with scikit-learn write to 740 pages, 3 MiB."""

# Larger mappings hold data: what is written there differs from call to call, and looking takes long.
_MAX_MAPPING: Final = 64 * 1024 * 1024
_POPULATE_READ: Final = 22  # Linux 5.14; before, they are refused and nothing is lost
_POPULATE_WRITE: Final = 23
_PRESENT_OR_SWAPPED: Final = 0b11 << 62
_FILE_OR_SHARED: Final = 1 << 61
_EXCLUSIVE: Final = 1 << 56


class Span(NamedTuple):
    """Addresses, in bytes: `start` up to `end`."""

    start: int
    end: int


class _Mapping(NamedTuple):
    span: Span
    access: str  # as "r-xp"
    path: str


def _mappings(pid: int | str = "self") -> Iterator[_Mapping]:
    with open(f"/proc/{pid}/maps") as file:
        for line in file:
            bounds, access, _, _, _, path = [*line.split(maxsplit=5), ""][:6]
            start, end = bounds.split("-")
            yield _Mapping(Span(int(start, 16), int(end, 16)), access, path.strip())


def map_libraries() -> None:
    """A fork leaves the pages of shared libraries to be mapped one fault at a time, thousands of them. Map what they
    only read in one go; it is in memory anyway, so it costs page table entries only."""
    _advise((m.span for m in _mappings() if m.path.startswith("/") and m.access in ("r-xp", "r--p")), _POPULATE_READ)


def prefault(spans: Iterable[Span]) -> None:
    """Get own copies of these pages, as a write to each would."""
    _advise(spans, _POPULATE_WRITE)


def _advise(spans: Iterable[Span], advice: int) -> None:
    madvise = ctypes.CDLL(None).madvise
    for start, end in spans:
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)


def written_pages(child: int, ours: Iterable[Span]) -> list[Span]:
    """Pages of `ours`, this process's memory from before the fork, of which the child `child` has its own copies: it
    wrote to them. At most MAX_WRITTEN_BYTES; empty where the kernel does not say. Linear in the size of `ours`, about
    20 ms per GiB.
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


def _runs(entries: array[int]) -> Iterator[range]:
    """Where neighbouring entries say: in memory, anonymous, and nobody else's."""
    own = (e & _EXCLUSIVE and e & _PRESENT_OR_SWAPPED and not e & _FILE_OR_SHARED for e in entries)
    position = 0
    for copied, group in itertools.groupby(map(bool, own)):
        count = sum(1 for _ in group)
        if copied:
            yield range(position, position + count)
        position += count


def own_pages() -> list[Span]:
    """This process's private writable memory, without mappings so large that they must be data."""
    return [
        m.span
        for m in _mappings()
        if m.access == "rw-p" and m.span.end - m.span.start <= _MAX_MAPPING and m.path not in ("[stack]", "[vvar]")
    ]
