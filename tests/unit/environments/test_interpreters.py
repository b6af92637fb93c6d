"""Which Pythons are offered, which one is chosen, and how a Python that is not there is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from clipper_platform.environments.interpreters import LISTING_TTL_S, Interpreter, Interpreters, candidates
from clipper_platform.errors import DeployFailed

OWN = sys.version_info[:3]


class FakeClock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


def fake_python(directory: Path, version: tuple[int, int, int], *, implementation: str = "cpython") -> Path:
    """A script that answers as a Python of that version would."""
    path = directory / f"{'.'.join(map(str, version))}-{implementation}" / "bin" / "python3"
    path.parent.mkdir(parents=True)
    description = (
        f'{{"version": {list(version)}, "final": true, "implementation": "{implementation}", '
        f'"machine": "x86_64", "free_threaded": false, "path": "{path}"}}'
    )
    path.write_text(f"#!/bin/sh\necho asked >> {directory}/asked\necho '{description}'\n")
    path.chmod(0o755)
    return path


def finder(*paths: Path, clock: FakeClock | None = None) -> Interpreters:
    return Interpreters(clock=clock or FakeClock(), find=lambda _: paths)


def test_without_a_wish_the_platforms_own_python_is_used() -> None:
    chosen = finder().find(None)
    assert chosen.version == OWN
    assert chosen.path == Path(os.path.realpath(sys._base_executable))  # type: ignore[attr-defined]  # not in typeshed


def test_the_platforms_own_python_goes_before_a_newer_patch_of_the_same_minor(tmp_path: Path) -> None:
    newer = (OWN[0], OWN[1], OWN[2] + 50)
    python = finder(fake_python(tmp_path, newer))
    assert python.find(f"{OWN[0]}.{OWN[1]}").version == OWN
    assert python.find(".".join(map(str, newer))).version == newer


def test_the_newest_patch_of_another_minor_is_chosen(tmp_path: Path) -> None:
    pythons = finder(*(fake_python(tmp_path, version) for version in [(3, 98, 2), (3, 98, 10), (3, 97, 30)]))
    assert pythons.find("3.98").version == (3, 98, 10)
    assert [i.name for i in pythons.list() if i.version != OWN] == ["3.98.10", "3.98.2", "3.97.30"]


def test_the_refusal_of_a_python_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    pythons = finder(fake_python(tmp_path, (3, 98, 1)))
    with pytest.raises(
        DeployFailed, match=r"Python 3\.77 is not on the platform's machine; it has 3\.98\.1, "
    ) as caught:
        pythons.find("3.77")
    assert caught.value.details["phase"] == "environment"
    assert "3.98.1" in caught.value.details["hint"]


def test_the_refusal_of_a_python_that_is_too_old_says_so() -> None:
    with pytest.raises(DeployFailed, match=r"Python 3\.8 is too old: functions run on CPython 3\.11 or newer"):
        finder().find("3.8")


def test_old_foreign_broken_and_missing_interpreters_are_not_offered(tmp_path: Path) -> None:
    broken = fake_python(tmp_path, (3, 98, 5))
    broken.write_text("#!/bin/sh\nexit 127\n")
    babble = fake_python(tmp_path, (3, 98, 6))
    babble.write_text("#!/bin/sh\necho hello\n")
    pythons = finder(
        fake_python(tmp_path, (3, 10, 4)),
        fake_python(tmp_path, (3, 98, 7), implementation="pypy"),
        tmp_path / "nowhere" / "python3",
        broken,
        babble,
    )
    assert [i.version for i in pythons.list()] == [OWN]


def test_the_listing_is_renewed_after_a_minute_and_unchanged_interpreters_are_asked_once(tmp_path: Path) -> None:
    clock, paths = FakeClock(), [fake_python(tmp_path, (3, 98, 1))]
    pythons = Interpreters(clock=clock, find=lambda _: tuple(paths))
    pythons.list()
    paths.append(fake_python(tmp_path, (3, 98, 2)))
    clock.now += LISTING_TTL_S - 1
    assert len(pythons.list()) == 2
    clock.now += 2
    assert len(pythons.list()) == 3
    assert (tmp_path / "asked").read_text().count("asked") == 2


def test_candidates_are_pyenvs_versions_uvs_own_and_those_on_path_but_no_shims(tmp_path: Path) -> None:
    pyenv, managed, bin_ = tmp_path / "pyenv", tmp_path / "managed", tmp_path / "bin"
    wanted = [pyenv / "versions/3.12.1/bin/python3", managed / "cpython-3.13/bin/python3", bin_ / "python3.11"]
    for path in [*wanted, pyenv / "shims/python3", bin_ / "python3.11-config", bin_ / "python3-not"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        path.chmod(0o755)
    environ = {
        "PATH": f"{pyenv}/shims:{bin_}:{tmp_path}/missing",
        "PYENV_ROOT": str(pyenv),
        "UV_PYTHON_INSTALL_DIR": str(managed),
        "HOME": str(tmp_path),
    }
    assert list(candidates(environ)) == wanted


@pytest.mark.parametrize(
    ("asked", "fits"), [("3.11", True), ("3.11.7", True), ("3.11.8", False), ("3.1", False), ("3.12", False)]
)
def test_a_version_is_compared_by_its_numbers(asked: str, fits: bool) -> None:
    assert Interpreter((3, 11, 7), Path("/python")).satisfies(asked) is fits
