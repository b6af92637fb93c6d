"""A platform that starts ends what earlier platforms of the home left behind."""

from __future__ import annotations

import os
from pathlib import Path

from clipper_platform.backends.process.guardian import MARKER
from clipper_platform.backends.process.orphans import InstanceRecord, sweep_abandoned, tmp_prefix
from clipper_platform.backends.process.procfs import boot_id
from tests.support.sleeper import sleeper, unique


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
