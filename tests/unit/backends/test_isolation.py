"""What a launch gets of the machine's isolation, and the words for it."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path

import pytest

from clipper.contract.confinement import Mode, Probe
from clipper_platform.backends.process.isolation import Isolation, probe_machine
from clipper_platform.backends.process.temporary import MAX_ROOT_CHARACTERS, TemporaryRoot, remove_tmp, sweep_roots
from clipper_platform.backends.process.users import Users
from clipper_platform.types import IdRange
from tests.support.replicas import launch_on, launch_spec


def isolation(home: Path, mode: Mode = "mounts", **found: bool | int | dict[str, str]) -> Isolation:
    probe = Probe(mode=mode, **{"landlock": 7, "signals": True, "memory": True, **found})  # type: ignore[arg-type]
    return Isolation(probe=probe, hidden=(home, home / "tmp"), runtime=home / "runtime", environ={"HOME": str(home)})


def test_a_replica_gets_its_bundle_read_only_and_its_directory_writable(tmp_path: Path) -> None:
    home = tmp_path / "home"
    launch = launch_on(launch_spec(tmp_path))
    confinement = isolation(home).of(launch, home / "tmp" / "own")
    assert confinement.writable == [str(home / "tmp" / "own")]
    assert {str(launch.bundle), str(launch.environment.path), str(home / "runtime")} <= set(confinement.read_only)
    assert str(home) in confinement.hidden
    assert str(home / "tmp") not in confinement.hidden  # it lies in the home


def test_landlock_gets_no_read_only_directory_above_a_hidden_one(tmp_path: Path) -> None:
    launch = launch_on(launch_spec(tmp_path))
    confinement = isolation(launch.environment.path / "home", "landlock").of(launch, tmp_path / "own")
    assert str(launch.environment.path) not in confinement.read_only


@pytest.mark.parametrize(
    ("found", "words", "fix"),
    [
        (isolation(Path("/h")), "mount namespace", ""),
        (isolation(Path("/h"), signals=False, landlock=5), "not: signals", "6.12"),
        (isolation(Path("/h"), "landlock", reasons={"mounts": "unshare: not permitted"}), "not permitted", "CLIP_HOME"),
        (isolation(Path("/h"), "none", reasons={"landlock": "the kernel has no Landlock"}), "no Landlock", "5.13"),
    ],
)
def test_the_state_says_what_holds_and_what_would_do_better(found: Isolation, words: str, fix: str) -> None:
    state = found.state()
    assert state.mode == found.probe.mode
    assert words in state.detail
    assert fix in state.fix
    assert bool(fix) == bool(state.fix)


def test_the_state_says_that_projects_have_users_or_why_not() -> None:
    users = Users(Path("/h"), IdRange(61184, 65519))
    alone = dataclasses.replace(isolation(Path("/h"), "none"), users=users).state()
    assert (alone.mode, "61184..65519" in alone.detail, bool(alone.fix)) == ("users", True, True)
    beside = dataclasses.replace(isolation(Path("/h")), users=users).state()
    assert (beside.mode, beside.detail.startswith("a user for each project"), beside.fix) == ("mounts", True, "")
    refused = dataclasses.replace(isolation(Path("/h"), "none"), users_refused="/root is closed").state()
    assert refused.mode == "none"
    assert "/root is closed" in refused.detail


def test_switched_off_nothing_is_tried(tmp_path: Path) -> None:
    probe = probe_machine(tmp_path / "no runtime", tmp_path, "none")
    assert (probe.mode, list(probe.reasons)) == ("none", ["setting"])


def test_a_probe_that_cannot_run_says_so(tmp_path: Path) -> None:
    probe = probe_machine(tmp_path, tmp_path / "no directory")
    assert (probe.mode, list(probe.reasons)) == ("none", ["probe"])


def test_temporary_directories_lie_in_the_home_unless_its_path_is_too_long(tmp_path: Path) -> None:
    assert TemporaryRoot(Path("/srv/clip")).path == Path("/srv/clip/tmp")
    outside = TemporaryRoot(Path("/srv") / ("h" * 60)).path
    assert len(str(outside)) <= MAX_ROOT_CHARACTERS
    assert outside != TemporaryRoot(Path("/srv") / ("i" * 60)).path


def test_a_temporary_root_is_its_users_alone_and_goes_when_it_is_empty(tmp_path: Path) -> None:
    root = TemporaryRoot(tmp_path / ("h" * 60))
    root.open()
    assert root.path.stat().st_mode & 0o777 == 0o700
    root.close()
    assert not root.path.exists()


def test_a_temporary_root_that_is_a_link_is_refused(tmp_path: Path) -> None:
    root = TemporaryRoot(tmp_path / ("h" * 60))
    os.symlink(tmp_path, root.path)
    try:
        with pytest.raises(PermissionError, match="another user"):
            root.open()
    finally:
        root.path.unlink()


def test_the_last_directory_of_an_area_takes_the_area_with_it(tmp_path: Path) -> None:
    area = tmp_path / "instance-area"
    for name in ("tx", "ry"):
        (area / name).mkdir(parents=True)
    remove_tmp(area / "tx")
    assert area.exists()
    remove_tmp(area / "ry")
    assert not area.exists()


def test_what_a_killed_platform_left_goes_with_the_next_start_of_any_and_a_running_ones_stays(tmp_path: Path) -> None:
    killed, running, other = (TemporaryRoot(tmp_path / (letter * 60)) for letter in "kro")
    for root in (killed, running):
        root.open()
        (root.path / "replica").mkdir()
    os.close(killed._lock)  # as the kernel does at the end of a process
    try:
        other.open()
        assert not killed.path.exists()
        assert (running.path / "replica").exists()
        assert running.path not in sweep_roots()
    finally:
        other.close()
        remove_tmp(running.path / "replica")
        running.close()
    assert not running.path.exists()


def test_directories_with_other_names_are_left_alone() -> None:
    path = Path(tempfile.mkdtemp(prefix="clip-"))
    try:
        sweep_roots()
        assert path.exists()
    finally:
        path.rmdir()
