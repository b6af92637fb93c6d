"""Builds of packages that run code: uv takes what it would take anyway, and nothing of the build reaches others."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from clipper.contract.spec import EnvironmentSpec
from clipper_platform.environments.venv import VenvBuilder
from clipper_platform.errors import DeployFailed
from tests.support.confined_builds import confined_builder, machine_probe
from tests.support.wheels import write_wheel

pytestmark = pytest.mark.skipif(machine_probe().mode == "none", reason="this machine offers no isolation")

# A build backend without packages of its own. As it builds, it writes wherever it can.
BACKEND = """
import glob, os, zipfile
def get_requires_for_build_wheel(config_settings=None): return []
def build_wheel(directory, config_settings=None, metadata_directory=None):
    for place in PLACES:
        for path in (place + "/poison", *glob.glob(place + "/archive-v*/*/tinywheel/__init__.py")):
            try:
                with open(path, "a") as file:
                    file.write("POISON = 1")
            except OSError:
                pass
    name = "tinypkg-2.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        wheel.writestr("tinypkg.py", "VERSION = 2")
        wheel.writestr("tinypkg-2.0.dist-info/METADATA", "Metadata-Version: 2.2\\nName: tinypkg\\nVersion: 2.0\\n")
        wheel.writestr("tinypkg-2.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("tinypkg-2.0.dist-info/RECORD", "")
    return name
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tinypkg"
version = "2.0"
"""


class World:
    """A project with `links`, a cache of uv, and environments."""

    def __init__(self, tmp_path: Path) -> None:
        self.project = tmp_path / "project"
        self.links = self.project / "links"
        self.links.mkdir(parents=True)
        self.cache = tmp_path / "cache"
        self.cache.mkdir()
        self.root = tmp_path / "environments"
        self.lines: list[str] = []
        self.builder: VenvBuilder = confined_builder(
            self.root, environ={**os.environ, "UV_CACHE_DIR": str(self.cache), "XDG_CACHE_HOME": str(tmp_path)}
        )

    def add_source(self) -> None:
        """tinypkg 2.0, which has to be built."""
        places = [str(self.cache), str(self.root), str(self.project)]
        source = self.project.parent / "tinypkg-2.0"
        source.mkdir()
        (source / "backend.py").write_text(BACKEND.replace("PLACES", json.dumps(places)))
        (source / "pyproject.toml").write_text(PROJECT)
        (source / "PKG-INFO").write_text("Metadata-Version: 2.2\nName: tinypkg\nVersion: 2.0\n")
        with tarfile.open(self.links / "tinypkg-2.0.tar.gz", "w:gz") as archive:
            archive.add(source, "tinypkg-2.0")

    async def build(self, *requirements: str) -> Path:
        spec = EnvironmentSpec(requirements=("--find-links ./links", *requirements))
        found = self.builder.find(await self.builder.build(spec, self.lines.append, self.project))
        assert found is not None
        return found.python


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def answers(python: Path, code: str) -> str:
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


async def test_the_newest_version_is_taken_also_if_only_it_must_be_built(world: World) -> None:
    write_wheel(world.links, "tinypkg", "1.0")
    world.add_source()
    python = await world.build("tinypkg")
    assert answers(python, "import importlib.metadata as m; print(m.version('tinypkg'))") == "2.0"


async def test_what_needs_no_build_shares_its_files_with_the_cache(world: World) -> None:
    write_wheel(world.links, "tinypkg", "1.0")
    world.add_source()
    python = await world.build("tinypkg==1.0", "msgspec")
    assert not any("Building" in line for line in world.lines)
    assert int(answers(python, "import msgspec, os; print(os.stat(msgspec.__file__).st_nlink)")) > 1


async def test_a_build_writes_nowhere_but_into_its_environment(world: World) -> None:
    write_wheel(world.links, "tinywheel", "1.0")
    await world.build("tinywheel")  # fills the cache
    world.add_source()
    python = await world.build("tinywheel", "tinypkg")
    assert answers(python, "import tinypkg; print(tinypkg.VERSION)") == "2"
    assert not list(world.project.parent.rglob("poison"))
    cached = [path for path in world.cache.rglob("*.py") if "POISON" in path.read_text()]
    assert not cached
    assert sorted(path.name for path in world.cache.glob("builds-v*/*")) == []


async def test_a_package_that_replaces_the_interpreter_is_refused(world: World) -> None:
    wheel = write_wheel(world.links, "tinypkg", "1.0")
    with zipfile.ZipFile(wheel.path, "a") as file:
        file.writestr("tinypkg-1.0.data/data/pyvenv.cfg", "home = /tmp/evil\n")
    with pytest.raises(DeployFailed, match="replaces the interpreter"):
        await world.build("tinypkg")


async def test_a_failed_build_says_why_once(world: World) -> None:
    world.add_source()
    source = world.project.parent / "tinypkg-2.0"
    (source / "backend.py").write_text("raise ValueError('no compiler here')\n")
    with tarfile.open(world.links / "tinypkg-2.0.tar.gz", "w:gz") as archive:
        archive.add(source, "tinypkg-2.0")
    with pytest.raises(DeployFailed, match="no compiler here"):
        await world.build("tinypkg")
    assert sum("error:" in line for line in world.lines) <= 1
