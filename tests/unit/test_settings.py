"""The platform's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipper_platform.errors import InvalidSpec
from clipper_platform.settings import Settings


def test_the_platform_sets_the_size_of_warm_pools_that_declare_none(tmp_path: Path) -> None:
    assert Settings.load(environ={"CLIP_HOME": str(tmp_path)}).warm_pool_size == 0
    assert Settings.load(environ={"CLIP_HOME": str(tmp_path), "CLIP_WARM_POOL_SIZE": "2"}).warm_pool_size == 2
    with pytest.raises(InvalidSpec, match="warm_pool_size"):
        Settings.load(environ={"CLIP_HOME": str(tmp_path), "CLIP_WARM_POOL_SIZE": "17"})


def test_a_user_without_a_home_directory_is_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> object:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(InvalidSpec, match="CLIP_HOME"):
        Settings.load(environ={})
    assert Settings.load(environ={"CLIP_HOME": "/srv/clip"}).home == Path("/srv/clip")


@pytest.mark.parametrize(
    "value", ["on", "100..200", "61184..61190", "65519..61184", "61184", "61184..", "1000..9999999999"]
)
def test_a_range_of_users_that_cannot_be_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(InvalidSpec, match="isolation_uids"):
        Settings.load(environ={"CLIP_ISOLATION_UIDS": value}, home=tmp_path)


def test_users_of_projects_come_from_the_range(tmp_path: Path) -> None:
    found = {
        value: Settings.load(environ={"CLIP_ISOLATION_UIDS": value}, home=tmp_path).project_ids
        for value in ("auto", "off", "70000..70099")
    }
    assert {value: str(ids) for value, ids in found.items()} == {
        "auto": "61184..65519", "off": "None", "70000..70099": "70000..70099",
    }  # fmt: skip
