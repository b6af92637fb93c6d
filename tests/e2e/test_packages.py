"""Packages as projects ask for them, from the requirements file to the answer of the function."""

from __future__ import annotations

from pathlib import Path

from clipper.packaging import bundle_files
from tests.support.platform import PlatformProcess, write_project
from tests.support.wheels import write_wheel

APP = """
import importlib.metadata
import clipper

@clipper.function()
def version(package: str) -> str:
    return importlib.metadata.version(package)
"""


def project(directory: Path, requirements: str, name: str) -> Path:
    write_wheel(directory / "wheels", "tinypkg", "2.0")
    write_wheel(directory / "wheels", "tinypkg2", "1.0")
    toml = f'name = "{name}"\n[environment]\nrequirements = "requirements.txt"\n'
    return write_project(directory, APP, toml, requirements__txt=requirements)


def test_the_package_that_was_asked_for_is_installed_with_its_hash(platform: PlatformProcess, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "p" / "wheels", "tinypkg", "1.0")
    text = f"--find-links wheels\ntinypkg==1.0 \\\n    --hash=sha256:{wheel.sha256}\n    # via -r requirements.in\n"
    platform.deploy(project(tmp_path / "p", text, "hashed"))
    try:
        assert platform.call("hashed/version", package="tinypkg") == "1.0"
    finally:
        platform.clip("delete", "hashed", "--yes")


def test_the_platform_refuses_what_a_client_of_its_own_sends(platform: PlatformProcess) -> None:
    bundle = bundle_files({"app.py": APP.encode()})
    platform.api("PUT", f"/bundles/{bundle.digest}", content=bundle.data)
    for line, reason in (
        ("tinypkg 2", "not allowed"), ("./../../etc", "outside"), ("--find-links ../x", "outside"),
        ("a @ file:///etc/x.zip", "outside"), ("-r other.txt", "send its lines"), ("https://${HOME}/x.zip", "HOME"),
    ):  # fmt: skip
        manifest = {
            "project": "own", "bundle": bundle.digest, "environment": {"requirements": [line]},
            "functions": [{"name": "version", "entrypoint": "app:version"}],
        }  # fmt: skip
        answer = platform.api("POST", "/projects/own/deployments", json=manifest)
        assert (answer.status_code, reason in answer.text) == (400, True), (line, answer.text)


def test_a_line_that_pip_refuses_is_refused_by_name_and_nothing_is_installed(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    result = platform.clip("deploy", project(tmp_path / "p", "--find-links wheels\ntinypkg 2\n", "blank"), check=False)
    assert result.code != 0
    assert "requirement 'tinypkg 2' is not allowed" in result.err
    assert "blank" not in platform.clip("list").out


def test_a_deploy_names_files_that_look_like_secrets_and_modules_that_lose(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    app = "import clipper\n\n@clipper.function()\ndef one() -> int:\n    return 1\n"
    directory = write_project(tmp_path, app, 'name = "named"', queue__py="X = 1\n")
    (directory / ".env").write_text("KEY=1")
    try:
        result = platform.deploy(directory)
        assert "looks like secrets: .env" in result.err
        assert "queue.py has the name of a module of Python" in result.err
        assert result.json()["state"] == "succeeded"
    finally:
        platform.clip("delete", "named", "--yes")
