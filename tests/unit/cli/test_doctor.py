from __future__ import annotations

import stat
from pathlib import Path

import pytest

from clipper.cli import doctor, platform_extra
from clipper.cli.problems import CommandFailed


def test_an_old_python_is_a_failure_with_a_fix() -> None:
    check = doctor.check_python((3, 10, 2))
    assert check.result == "fail"
    assert "3.11" in check.fix


def test_this_python_is_fine() -> None:
    assert doctor.check_python((3, 13, 0)).result == "ok"


@pytest.mark.parametrize(("free", "result"), [(10 * 2**30, "ok"), (1 * 2**30, "warn"), (10 * 2**20, "fail")])
def test_disk_space_is_judged_by_what_environments_take(free: int, result: str, tmp_path: Path) -> None:
    check = doctor.check_disk(tmp_path / "not" / "there", free)
    assert check.result == result
    assert bool(check.fix) == (result != "ok")


@pytest.mark.parametrize(
    ("limits", "result", "fix"),
    [
        ((1024, 4096), "ok", ""),
        ((-1, -1), "ok", ""),
        ((256, 4096), "warn", "ulimit -n 1024"),
        ((256, 512), "warn", "ulimit -n 512"),
        ((256, -1), "warn", "ulimit -n 1024"),
    ],
)
def test_a_low_limit_of_open_files_is_raised_as_far_as_it_goes(limits: tuple[int, int], result: str, fix: str) -> None:
    check = doctor.check_open_files(limits)
    assert (check.result, check.fix) == (result, fix)


def test_a_home_that_is_a_file_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    assert doctor.check_home(tmp_path / "home").result == "fail"


def test_a_home_that_is_not_there_yet_is_judged_by_where_it_would_be(tmp_path: Path) -> None:
    assert doctor.check_home(tmp_path / "a" / "b").result == "ok"
    assert not (tmp_path / "a").exists()


def test_without_uv_the_fix_is_to_install_it() -> None:
    assert "install uv" in doctor.check_uv(None).fix


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_uv_that_does_not_run_is_a_failure(tmp_path: Path) -> None:
    check = doctor.check_uv(script(tmp_path / "uv", "echo broken >&2; exit 3"))
    assert check.result == "fail"
    assert "broken" in check.detail


def test_interpreters_are_listed_once_and_in_order(tmp_path: Path) -> None:
    uv = script(
        tmp_path / "uv",
        "printf 'cpython-3.13.1-linux-x86_64-gnu  /a\\ncpython-3.9.7-linux-x86_64-gnu  /b\\n"
        "cpython-3.13.1-linux-x86_64-gnu  /c -> /a\\n'",
    )
    assert doctor.check_interpreters(uv).detail == "3.9.7, 3.13.1"


def test_no_interpreter_is_a_warning_with_the_command_that_installs_one(tmp_path: Path) -> None:
    check = doctor.check_interpreters(script(tmp_path / "uv", "exit 0"))
    assert (check.result, "uv python install" in check.fix) == ("warn", True)


def test_without_the_platform_the_finding_is_a_warning_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> None:
        raise CommandFailed("The platform is not installed here: there is no module 'uvloop'", hint="pip install it")

    monkeypatch.setattr(platform_extra, "load", missing)
    check = doctor.check_platform_extra()
    assert (check.result, check.fix) == ("warn", "pip install it")
    assert "no module 'uvloop'; this machine can call a platform" in check.detail
