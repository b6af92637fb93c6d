"""Requirements that move, are locked or secret, from the project's files to the answer of the function."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.platform import PlatformProcess, write_project
from tests.support.wheels import write_wheel

APP = """
import clipper

@clipper.function()
def value() -> int:
    import moving
    return moving.VALUE
"""
BACKEND = """
import os, zipfile
def get_requires_for_build_wheel(config_settings=None): return []
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "moving-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        wheel.write("moving.py")
        wheel.writestr("moving-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: moving\\nVersion: 1.0\\n")
        wheel.writestr("moving-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("moving-1.0.dist-info/RECORD", "")
    return name
"""
PYPROJECT = '[project]\nname = "moving"\nversion = "1.0"\n[build-system]\nrequires = []\nbuild-backend = "backend"\n'


def commit(repository: Path, value: int) -> None:
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    (repository / "moving.py").write_text(f"VALUE = {value}\n")
    subprocess.run([*git, "add", "."], check=True, timeout=30)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True, timeout=30)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    directory = tmp_path / "repository"
    directory.mkdir()
    (directory / "backend.py").write_text(BACKEND)
    (directory / "pyproject.toml").write_text(PYPROJECT + 'backend-path = ["."]\n')
    subprocess.run(["git", "-C", str(directory), "init", "-q", "-b", "main"], check=True, timeout=30)
    commit(directory, 1)
    return directory


def test_a_branch_is_looked_up_at_each_deploy_and_a_version_keeps_what_it_meant(
    platform: PlatformProcess, tmp_path: Path, repository: Path
) -> None:
    toml = f'name = "moves"\n[environment]\nrequirements = ["moving @ git+file://{repository}@main"]\n'
    directory = write_project(tmp_path / "p", APP, toml)
    try:
        platform.deploy(directory)
        assert platform.call("moves/value") == 1
        assert platform.deploy(directory).json()["state"] == "unchanged"
        commit(repository, 2)
        assert platform.deploy(directory).json()["version"] == 2
        assert platform.call("moves/value") == 2
        head = (repository / ".git" / "refs" / "heads" / "main").read_text().strip()
        assert head in platform.api("GET", "/projects/moves/config").text
        platform.clip("rollback", "moves")
        assert platform.call("moves/value") == 1
    finally:
        platform.clip("delete", "moves", "--yes", check=False)


def test_rebuild_takes_the_newest_version_that_fits_and_later_deploys_stay_with_it(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    write_wheel(index, "moving", "1.0", files={"moving.py": "VALUE = 1\n"})
    directory = write_project(tmp_path / "p", APP, 'name = "again"\n[environment]\nrequirements = "requirements.txt"\n')
    try:
        (directory / "requirements.txt").write_text(f"--find-links {index.as_uri()}\nmoving>=1\n")
        platform.deploy(directory)
        write_wheel(index, "moving", "1.1", files={"moving.py": "VALUE = 2\n"})
        assert platform.deploy(directory).json()["state"] == "unchanged"
        rebuilt = platform.clip("deploy", directory, "--rebuild", "--json").json()
        assert (rebuilt["state"], rebuilt["version"]) == ("succeeded", 2)
        assert platform.call("again/value") == 2
        (directory / "app.py").write_text(APP + "\n# changed\n")
        assert platform.deploy(directory).json()["version"] == 3
        environments = {v["number"]: v["environment"] for v in versions(platform, "again")}
        assert environments[3] == environments[2]
    finally:
        platform.clip("delete", "again", "--yes", check=False)


def test_a_changed_requirement_and_a_changed_file_of_the_same_name_are_installed_by_the_next_deploy(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    directory = write_project(tmp_path / "p", APP, 'name = "stale"\n[environment]\nrequirements = "requirements.txt"\n')
    requirements = directory / "requirements.txt"

    def deployed(line: str, *options: str) -> int:
        requirements.write_text(line + "\n")
        result = platform.clip("deploy", directory, "--json", *options).json()
        assert result["state"] == "succeeded", result
        value: int = platform.call("stale/value")
        return value

    try:
        write_wheel(directory / "wheels", "moving", "1.0", files={"moving.py": "VALUE = 1\n"})
        write_wheel(directory / "wheels", "moving", "2.0", files={"moving.py": "VALUE = 2\n"})
        assert deployed("--find-links wheels\nmoving==1.0") == 1
        assert deployed("--find-links wheels\nmoving==2.0") == 2
        write_wheel(directory / "wheels", "moving", "2.0", files={"moving.py": "VALUE = 3\n"})
        assert deployed("--find-links wheels\nmoving==2.0") == 3
        write_wheel(outside, "moving", "1.0", files={"moving.py": "VALUE = 5\n"})
        assert deployed(f"--find-links {outside.as_uri()}\nmoving==1.0") == 5
        write_wheel(outside, "moving", "1.0", files={"moving.py": "VALUE = 6\n"})
        assert deployed(f"--find-links {outside.as_uri()}\nmoving==1.0", "--rebuild") == 6
        platform.clip("rollback", "stale", "1")
        assert platform.call("stale/value") == 1
    finally:
        platform.clip("delete", "stale", "--yes", check=False)


def versions(platform: PlatformProcess, project: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = platform.api("GET", f"/projects/{project}/versions").json()["versions"]
    return found


def test_credentials_of_an_index_are_shown_nowhere(platform: PlatformProcess, tmp_path: Path) -> None:
    toml = (
        'name = "masked"\n[environment]\nrequirements = ["--extra-index-url http://me:${TOKEN}@127.0.0.1:9/simple"]\n'
    )
    directory = write_project(tmp_path / "p", "import clipper\n\n@clipper.function()\ndef one() -> int: ...\n", toml)
    assert "TOKEN is not set" in platform.clip("deploy", directory, check=False).err
    platform.env["TOKEN"] = "hush-hush"
    try:
        results = [
            platform.clip("deploy", directory), platform.clip("config", "show", directory),
            platform.clip("config", "show", directory, "--json"), platform.clip("versions", "masked", "--json"),
        ]  # fmt: skip
        pages = [platform.api("GET", f"/projects/masked{rest}").text for rest in ("", "/versions", "/config")]
        for text in (*pages, *(result.out + result.err for result in results), platform.log()):
            assert "hush-hush" not in text
        assert "****@127.0.0.1" in results[1].out
        for path in (platform.home / "environments").rglob("*"):
            assert not path.is_file() or b"hush-hush" not in path.read_bytes(), path
    finally:
        del platform.env["TOKEN"]
        platform.clip("delete", "masked", "--yes", check=False)


def test_a_project_with_a_lock_file_gets_the_locked_packages(platform: PlatformProcess, tmp_path: Path) -> None:
    directory = write_project(tmp_path / "p", APP, 'name = "locked"\n[environment]\nrequirements = "pyproject.toml"\n')
    write_wheel(directory / "wheels", "moving", "1.0", files={"moving.py": "VALUE = 1\n"})
    (directory / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["moving"]\n'
        '[tool.uv]\nno-index = true\nfind-links = ["wheels"]\n'
    )
    subprocess.run(
        [Path(sys.executable).with_name("uv"), "lock"], cwd=directory, check=True, capture_output=True, timeout=60
    )
    write_wheel(directory / "wheels", "moving", "2.0", files={"moving.py": "VALUE = 2\n"})
    try:
        platform.deploy(directory)
        assert platform.call("locked/value") == 1
    finally:
        platform.clip("delete", "locked", "--yes", check=False)


def test_a_python_that_is_not_there_and_cannot_be_fetched_is_a_clear_failure(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    directory = write_project(tmp_path / "p", APP, 'name = "python"\n[environment]\npython = "3.77"\n')
    result = platform.clip("deploy", directory, check=False)
    assert "Python 3.77 is not on the platform's machine" in result.err
