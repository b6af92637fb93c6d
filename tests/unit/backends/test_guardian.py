"""Processes are found and ended by the marker in their environment, and no others."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from clipper_platform.backends.process.guardian import MARKER, kill_marked, marked_processes
from clipper_platform.backends.process.orphans import marker
from tests.support.sleeper import sleeper, unique


def test_only_processes_with_all_of_the_entries_are_found_and_killed() -> None:
    mine, other = unique(), unique()
    environments = [{MARKER: mine, "CLIP_REPLICA": "r1"}, {MARKER: mine}, {MARKER: other}, {"X" + MARKER: mine}]
    with ExitStack() as stack:
        one, two, three, four = (stack.enter_context(sleeper(**environ)) for environ in environments)
        both = frozenset([marker(mine), b"CLIP_REPLICA=r1"])
        assert list(marked_processes(both)) == [one.pid]
        assert kill_marked(both) == 1
        assert one.wait(10) == -9
        assert two.poll() is None
        assert kill_marked(frozenset([marker(mine)])) == 1
        assert two.wait(10) == -9
        assert (three.poll(), four.poll()) == (None, None)


def test_a_marker_that_only_begins_alike_is_not_the_same() -> None:
    mine = unique()
    with sleeper(**{MARKER: mine + "0"}) as process:
        assert kill_marked(frozenset([marker(mine)])) == 0
        assert process.poll() is None


def test_nothing_to_look_for_is_refused_rather_than_everything_killed() -> None:
    with pytest.raises(ValueError, match="nothing to look for"):
        kill_marked(frozenset())
