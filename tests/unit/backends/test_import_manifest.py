"""Which modules zygotes import: read from reports that user code may have written, kept with the environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipper_platform.backends.process.import_manifest import (
    MAX_MODULES_CHARS,
    MAX_REPORT_BYTES,
    ImportManifest,
    build_identity,
    manifest_file,
    read_report,
)
from clipper_platform.environments.virtual import VirtualEnvironment
from clipper_platform.types import EnvironmentId


@pytest.fixture
def environment(tmp_path: Path) -> VirtualEnvironment:
    return VirtualEnvironment(id=EnvironmentId("e"), python=tmp_path / "bin" / "python", path=tmp_path)


def report(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "report.json"
    path.write_text(text)
    return read_report(path)


def test_a_manifest_is_read_as_it_was_written(environment: VirtualEnvironment) -> None:
    assert ImportManifest.read(environment, "demo") == ImportManifest()
    manifest = ImportManifest(["numpy", "sklearn.base"], {"torch": "it started 1 threads"})
    manifest.write(environment, "demo")
    assert ImportManifest.read(environment, "demo") == manifest
    assert [path.name for path in environment.path.iterdir()] == [manifest_file(environment, "demo").name]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"modules": 1, "skipped": {}}', '{"modules": [], "skipped": []}'])
def test_a_manifest_that_is_damaged_is_empty(environment: VirtualEnvironment, text: str) -> None:
    manifest_file(environment, "demo").write_text(text)
    assert ImportManifest.read(environment, "demo") == ImportManifest()


def test_an_environment_that_cannot_be_written_goes_without_one(environment: VirtualEnvironment) -> None:
    gone = VirtualEnvironment(id=environment.id, python=environment.python, path=environment.path / "gone")
    ImportManifest(["numpy"]).write(gone, "demo")
    assert ImportManifest.read(gone, "demo") == ImportManifest()


def test_new_names_are_appended_in_their_order() -> None:
    manifest = ImportManifest(["numpy", "json"])
    assert not manifest.add(["json", "numpy"])
    assert manifest.add(["scipy", "json", "abc"])
    assert manifest.modules == ["numpy", "json", "scipy", "abc"]


def test_modules_of_a_skipped_package_are_not_imported() -> None:
    manifest = ImportManifest(["torch", "torch.cuda", "torchvision", "numpy"], {"torch": "it started 1 threads"})
    assert manifest.importable() == ["torchvision", "numpy"]


def test_only_names_of_modules_are_taken_from_a_report(tmp_path: Path) -> None:
    names = ["numpy", "os.path", "_abc", "a-b", "1x", "x;y", "a..b", "x\n", "", 7, None, ["numpy"]]
    assert report(tmp_path, json.dumps(names)) == ["numpy", "os.path", "_abc"]


@pytest.mark.parametrize("text", ["", "no json", '{"numpy": 1}', '"numpy"'])
def test_what_is_no_report_has_no_names(tmp_path: Path, text: str) -> None:
    assert report(tmp_path, text) == []
    assert read_report(tmp_path / "missing") == []


def test_a_report_is_bounded_in_bytes_and_in_characters_of_names(tmp_path: Path) -> None:
    assert report(tmp_path, json.dumps(["x" * MAX_REPORT_BYTES])) == []
    names = [f"module_{number:05}" for number in range(20_000)]
    taken = report(tmp_path, json.dumps(names))
    assert taken == names[: len(taken)]
    assert MAX_MODULES_CHARS - 20 < sum(len(name) + 4 for name in taken) <= MAX_MODULES_CHARS


def test_another_build_has_another_identity(environment: VirtualEnvironment) -> None:
    assert build_identity(environment) == (0, 0)
    config = environment.path / "pyvenv.cfg"
    config.write_text("one")
    first = build_identity(environment)
    assert build_identity(environment) == first
    (environment.path / "new").write_text("two, in another file")
    (environment.path / "new").rename(config)
    assert build_identity(environment) != first
