"""Pages that a forked child wrote to, and copies of them ahead of time: with real forks."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from clipper_runtime.prefault import MAX_WRITTEN_BYTES, PAGE, Span, better_known

PROGRAM = """
import ctypes, json, mmap, os, signal, sys
from clipper_runtime import prefault
from clipper_runtime.prefault import PAGE, Span

held = mmap.mmap(-1, 64 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(64):
    held[page * PAGE] = 1
start = ctypes.addressof(ctypes.c_char.from_buffer(held))
span = Span(start, start + 64 * PAGE)
inside = any(s.start <= span.start and span.end <= s.end for s in prefault.own_pages())

def look(act):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        act()
        os.write(writing, b"x")
        signal.pause()
    os.read(reading, 1)
    found = prefault.written_pages(pid, [span])
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return [[(s.start - start) // PAGE, (s.end - start) // PAGE] for s in found], prefault.written_pages(pid, [span])

def write():
    for page in (3, 4, 5, 40):
        held[page * PAGE] = 2

def ahead():
    prefault.prefault([Span(start + 10 * PAGE, start + 12 * PAGE)])

def read():
    sum(held[page * PAGE] for page in range(64))

answers = {"written": look(write), "ahead": look(ahead), "read": look(read), "inside": inside}
prefault.MAX_WRITTEN_BYTES = 2 * PAGE
answers["bounded"] = look(write)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_pages_that_a_child_wrote_to_are_found_as_runs(seen: dict[str, Any]) -> None:
    assert seen["written"][0] == [[3, 6], [40, 41]]


def test_reading_leaves_pages_shared(seen: dict[str, Any]) -> None:
    assert seen["read"][0] == []


def test_pages_can_be_copied_ahead_of_the_write(seen: dict[str, Any]) -> None:
    assert seen["ahead"][0] == [[10, 12]]


def test_the_number_of_pages_is_bounded(seen: dict[str, Any]) -> None:
    assert seen["bounded"][0] == [[3, 5]]


def test_a_child_that_is_gone_has_no_pages(seen: dict[str, Any]) -> None:
    assert seen["written"][1] == []


def test_memory_that_a_program_allocates_is_examined(seen: dict[str, Any]) -> None:
    assert seen["inside"]


def test_a_child_that_was_shutting_down_does_not_replace_what_is_known() -> None:
    known, more, everything = [Span(0, PAGE)], [Span(0, 2 * PAGE)], [Span(0, MAX_WRITTEN_BYTES)]
    assert better_known([], known) == known
    assert better_known(known, more) == more
    assert better_known(known, []) == known
    assert better_known(known, everything) == known
    assert better_known([], everything) == everything
