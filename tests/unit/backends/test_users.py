"""Users of projects: which numbers they get, and what is in their way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipper_platform.backends.process.users import Users, closed_path, make_private, missing_capabilities
from clipper_platform.types import IdRange

RANGE = IdRange(61184, 61199)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives users")


def users(home: Path) -> Users:
    home.mkdir(exist_ok=True)
    found = Users(home, RANGE)
    found.open()
    return found


def test_a_range_is_divided_between_users_and_groups() -> None:
    assert list(RANGE.users) == list(range(61184, 61192))
    assert list(RANGE.groups) == list(range(61192, 61200))
    assert str(RANGE) == "61184..61199"


@needs_root
def test_a_project_keeps_its_user(tmp_path: Path) -> None:
    first = users(tmp_path / "home")
    one, two = first.of("one"), first.of("two")
    assert one.uid != two.uid
    assert {one.uid, two.uid} <= set(RANGE.users)
    assert one.home.stat().st_uid == one.home.stat().st_gid == one.uid
    assert one.home.stat().st_mode & 0o777 == 0o700
    later = users(tmp_path / "home")
    assert (later.of("two"), later.of("one")) == (two, one)


@needs_root
def test_a_directory_that_is_not_the_projects_is_no_record(tmp_path: Path) -> None:
    found = users(tmp_path / "home")
    (tmp_path / "home" / "users" / "roots").mkdir()
    with pytest.raises(OSError, match="belongs to the user 0"):
        found.of("roots")


@needs_root
def test_a_range_that_is_used_up_says_what_to_remove(tmp_path: Path) -> None:
    found = users(tmp_path / "home")
    assert len({found.of(f"p{number}").uid for number in range(len(RANGE.users))}) == len(RANGE.users)
    with pytest.raises(OSError, match="remove directories of"):
        found.of("one-too-many")


@needs_root
def test_the_home_can_be_passed_through_and_not_listed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "bundles").mkdir(parents=True)
    (home / "logs").mkdir()
    (home / "home_id").write_text("x")
    users(home)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (home, *home.iterdir())}
    assert modes == {
        "home": 0o711, "bundles": 0o711, "environments": 0o711, "users": 0o711, "logs": 0o700, "home_id": 0o600,
    }  # fmt: skip


@needs_root
def test_a_private_directory_is_its_users(tmp_path: Path) -> None:
    user = users(tmp_path / "home").of("one")
    found = make_private(tmp_path, "r", user).stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (user.uid, user.uid, 0o700)


def test_a_closed_directory_is_named_also_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "closed" / "in").mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "closed" / "in")
    assert str(tmp_path) in closed_path([tmp_path / "link" / "file"])
    assert closed_path([Path("/usr")]) == ""


def test_capabilities_that_no_process_has_are_missing() -> None:
    assert missing_capabilities({"CAP_NONE": 63}) == ["CAP_NONE"]
