"""Processes are found and ended by the marker in their environment, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from clipper_platform.backends.process.guardian import MARKER, kill_marked, marked_processes
from clipper_platform.backends.process.orphans import InstanceRecord, marker, sweep_abandoned, tmp_prefix
from clipper_platform.backends.process.procfs import boot_id, start_time, tree_rss


@contextmanager
def sleeper(**environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with that environment, which has begun to run."""
    code = "print('up', flush=True); import time; time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], env=environ, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def unique() -> str:
    return os.urandom(8).hex()


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


def test_the_sweep_ends_what_dead_platforms_left_and_spares_those_of_living_ones(tmp_path: Path) -> None:
    run, tmp = tmp_path / "run", tmp_path / "tmp"
    dead, alive = unique(), unique()
    for instance in (dead, alive):
        (tmp / f"{tmp_prefix(instance)}x").mkdir(parents=True)
    InstanceRecord(dead, os.getpid(), 1, boot_id()).write(run)  # the pid is in use again, by another process
    kept = InstanceRecord.of_this_process(alive).write(run)
    (run / "instance-broken.json").write_text("{")
    with sleeper(**{MARKER: dead}) as orphan, sleeper(**{MARKER: alive}) as spared:
        assert sweep_abandoned(run, tmp) == 1
        assert orphan.wait(10) == -9
        assert spared.poll() is None
    assert list(run.iterdir()) == [kept]
    assert [path.name for path in tmp.iterdir()] == [f"{tmp_prefix(alive)}x"]
    assert sweep_abandoned(run, tmp) == 0


def test_a_record_of_an_earlier_boot_is_not_alive() -> None:
    record = InstanceRecord.of_this_process(unique())
    assert record.alive
    assert not InstanceRecord(record.instance, record.pid, record.started, "another boot").alive


def test_the_memory_of_a_tree_counts_children_and_ends_with_it() -> None:
    with sleeper() as process:
        alone = tree_rss(process.pid)
        assert alone is not None
        assert alone > 1 << 20
        assert (tree_rss(os.getpid()) or 0) > alone
        assert start_time(process.pid) is not None
        process.kill()
        process.wait()
        assert tree_rss(process.pid) is None
        assert start_time(process.pid) is None
