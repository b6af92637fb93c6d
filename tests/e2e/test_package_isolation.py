"""Packages that look around: as an interpreter starts, as they are imported, as they are built. Their code is no more
trusted than that of functions."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.confined_platforms import KINDS, KINDS_OF_USERS, confined_platform
from tests.support.platform import PlatformProcess, eventually, write_project

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the isolation is Linux'")

# `HOME_DIR` and `OWNER` of the platform stand in a file that everybody may read, because the code runs anywhere.
LOOK = '''
    import json, os, signal

    def look() -> list[str]:
        """What it could do and must not."""
        facts = json.load(open(FACTS))
        home, owner = facts["home"], facts["owner"]
        tries = {
            "read the key": lambda: open(home + "/api_key").read(),
            "read the database": lambda: open(home + "/clipper.db", "rb").read(),
            "read another bundle": lambda: os.listdir(facts["bundle"]),
            "list the logs": lambda: os.listdir(home + "/logs"),
            "write into the home": lambda: open(home + "/mine", "w"),
            "write into the runtime": lambda: open(facts["runtime"] + "/mine", "w"),
            "write into the platform": lambda: open(facts["platform"], "a"),
            "write into another environment": lambda: open(facts["environment"] + "/mine", "w"),
            "read the platform's variables": lambda: open(f"/proc/{owner}/environ").read(),
            "read through the platform": lambda: open(f"/proc/{owner}/root{home}/api_key").read(),
            "walk out of the directory": lambda: open("../../../api_key").read(),
        }
        if facts["signals"]:
            tries["signal the platform"] = lambda: os.kill(owner, 0)
        done = []
        for name, attempt in tries.items():
            try:
                attempt()
                done.append(name)
            except OSError:
                pass
        return done
'''
APP = """
    import os
    import clipper
    import nosy

    @clipper.function()
    def started() -> list[str]:
        return nosy.STARTED

    @clipper.function()
    def imported() -> list[str]:
        return nosy.FOUND

    @clipper.function()
    def forked() -> bool:
        return nosy.PID != os.getpid()

    @clipper.function()
    def built() -> list[str]:
        return nosy.BUILT
"""
NOSY = """
    import os
    import nosy_look
    FOUND, PID = nosy_look.look(), os.getpid()
    STARTED = getattr(nosy_look, "started", ["never ran"])
"""
PTH = "import nosy_look; nosy_look.started = nosy_look.look()\n"
SETUP = """
    import json
    from setuptools import setup
    exec(open("nosy_look.py").read())
    with open("nosy.py", "a") as file:
        file.write("\\nBUILT = " + json.dumps(look()))
    setup(name="nosy", version="1.0", py_modules=["nosy", "nosy_look"])
"""


def look_at(facts: Path) -> str:
    return textwrap.dedent(LOOK).replace("FACTS", repr(str(facts)))


def nosy_wheel(directory: Path, facts: Path) -> None:
    files = {"nosy.py": textwrap.dedent(NOSY), "nosy_look.py": look_at(facts), "nosy.pth": PTH}
    info = "nosy-1.0.dist-info"
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: nosy\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(directory / "nosy-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)


def nosy_source(directory: Path, facts: Path) -> None:
    (directory / "nosy").mkdir()
    files = {"nosy.py": textwrap.dedent(NOSY), "nosy_look.py": look_at(facts), "setup.py": textwrap.dedent(SETUP)}
    for name, text in files.items():
        (directory / "nosy" / name).write_text(text)


@pytest.fixture(scope="module", params=(*KINDS, *KINDS_OF_USERS))
def platform(request: pytest.FixtureRequest) -> Iterator[PlatformProcess]:
    import clipper_platform.errors

    with confined_platform(request.param) as started:
        place = started.home.parent
        other = write_project(
            place / "other",
            "import clipper\n@clipper.function()\ndef ok() -> bool:\n    return True\n",
            'name = "other"\n',
        )
        started.deploy(other)
        (runtime,) = (path for path in (started.home / "runtime").iterdir() if path.is_dir())
        (environment,) = (path for path in (started.home / "environments").iterdir() if path.is_dir())
        (bundle,) = (started.home / "bundles" / "trees").glob("?" * 64)
        info = started.api("GET", "/info").json()["isolation"]
        facts = {
            "home": str(started.home),
            "owner": started.pid,
            "runtime": str(runtime),
            "environment": str(environment),
            "bundle": str(bundle),
            "platform": clipper_platform.errors.__file__,
            "signals": not info["fix"].startswith("a kernel"),
        }
        (place / "facts.json").write_text(json.dumps(facts))
        (place / "facts.json").chmod(0o644)
        yield started


def deploy(platform: PlatformProcess, name: str, requirement: str, make: Any) -> None:
    place = platform.home.parent
    toml = f'name = "{name}"\n[environment]\nwarm_pool_size = 1\nrequirements = ["{requirement}"]\n'
    project = write_project(place / name, textwrap.dedent(APP), toml)
    make(project, place / "facts.json")
    platform.deploy(project)


def test_a_wheel_gets_nothing_as_it_starts_and_as_a_zygote_imports_it(platform: PlatformProcess) -> None:
    deploy(platform, "wheel", "./nosy-1.0-py3-none-any.whl", nosy_wheel)
    assert platform.call("wheel/started") == []
    assert platform.call("wheel/imported") == []

    def forked() -> bool:
        return bool(platform.call("wheel/forked")) or platform.clip("restart", "wheel/forked").code != 0

    eventually(forked, within_s=60, every_s=0.5)
    for function in ("started", "imported"):
        platform.clip("restart", f"wheel/{function}")
        assert platform.call(f"wheel/{function}") == []


@pytest.mark.skipif(os.environ.get("UV_OFFLINE") == "1", reason="setuptools comes from an index")
def test_a_package_gets_nothing_as_it_is_built(platform: PlatformProcess) -> None:
    if platform.env["CLIP_ISOLATION"] == "none":
        pytest.skip("without mounts and Landlock builds are root's")
    deploy(platform, "source", "./nosy", nosy_source)
    assert platform.call("source/built") == []
