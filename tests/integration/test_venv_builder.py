"""Environments are really built here, by uv, small ones; and killed, shared, cancelled and refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from clipper.contract.spec import EnvironmentSpec
from clipper_platform.environments.venv import VenvBuilder, measure
from clipper_platform.environments.virtual import VirtualEnvironment
from clipper_platform.errors import DeployFailed
from clipper_platform.types import EnvironmentId
from tests.support.waiting import has_ended, until

PLAIN = EnvironmentSpec()
# A build of this one takes forever: its package's setup script sleeps.
SLOW_SETUP = "import os, time\nopen({started!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"


def quiet(_: str) -> None:
    return None


def found(builder: VenvBuilder, environment: EnvironmentId) -> VirtualEnvironment:
    """An environment that is there."""
    virtual = builder.find(environment)
    assert virtual is not None
    return virtual


def versions_in(environment: VirtualEnvironment, *modules: str) -> str:
    code = f"import {', '.join(modules)}, sys; print(sys.version.split()[0])"
    return subprocess.run(
        [environment.python, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()


def slow_package(directory: Path) -> tuple[EnvironmentSpec, Path]:
    """A requirement whose build writes its pid to a file and then hangs."""
    package, started = directory / "slow", directory / "started"
    package.mkdir()
    (package / "backend.py").write_text(
        "def get_requires_for_build_wheel(c=None): return []\n"
        "def build_wheel(*a, **k):\n    " + SLOW_SETUP.format(started=str(started)).replace("\n", "\n    ") + "pass\n"
        "def prepare_metadata_for_build_wheel(*a, **k): return build_wheel()\n"
    )
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "slow"\ndynamic = ["version"]\n'
    )
    return EnvironmentSpec(requirements=(f"slow @ file://{package}",)), started


def pid_in(path: Path) -> int | None:
    """The pid that the slow package wrote, once it has."""
    return int(path.read_text()) if path.exists() and path.read_text() else None


async def appears(path: Path) -> int:
    await until(lambda: pid_in(path), timeout_s=60)
    return pid_in(path) or 0


def directories(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir()]


def start_platform(root: Path, spec: EnvironmentSpec) -> subprocess.Popen[bytes]:
    """A process of its own that builds `spec`."""
    return subprocess.Popen([sys.executable, "-c", PLATFORM, root, spec.requirements[0]], stdout=subprocess.PIPE)


async def test_what_was_asked_for_can_be_imported_and_is_recorded(tmp_path: Path) -> None:
    builder, lines = VenvBuilder(tmp_path), list[str]()
    spec = EnvironmentSpec(requirements=("six==1.17.0",))
    environment = await builder.build(spec, lines.append)
    assert environment == builder.identify(spec) == found(builder, environment).id
    assert versions_in(found(builder, environment), "six", "msgspec", "cloudpickle") == sys.version.split()[0]
    assert any("six==1.17.0" in line for line in lines)
    record = json.loads((tmp_path / environment / ".complete").read_text())
    assert "six==1.17.0" in record["packages"]
    assert record["python"] == sys.version.split()[0]
    (facts,) = await builder.stored()
    assert (facts.id, facts.complete) == (environment, True)
    assert facts.bytes > 100_000


async def test_a_second_build_of_the_same_is_the_first_and_says_nothing(tmp_path: Path) -> None:
    first = await VenvBuilder(tmp_path).build(PLAIN, quiet)
    marker = tmp_path / first / ".complete"
    created = marker.read_text()
    lines: list[str] = []
    assert await VenvBuilder(tmp_path).build(PLAIN, lines.append) == first
    assert lines == []
    assert marker.read_text() == created


async def test_builds_of_the_same_at_the_same_time_are_one_also_across_builders(tmp_path: Path) -> None:
    one, other = VenvBuilder(tmp_path), VenvBuilder(tmp_path)
    lines: list[list[str]] = [[], [], []]
    built = await asyncio.gather(
        one.build(PLAIN, lines[0].append), one.build(PLAIN, lines[1].append), other.build(PLAIN, lines[2].append)
    )
    assert len(set(built)) == 1
    builds = [sum("Creating an environment" in line for line in each) for each in lines]
    assert builds[0] == builds[1]  # the two that shared a task got the same lines
    assert builds[0] + builds[2] == 1  # and only one of the two builders built


async def test_what_a_kill_left_half_built_is_built_again(tmp_path: Path) -> None:
    builder = VenvBuilder(tmp_path)
    left = tmp_path / builder.identify(PLAIN)
    (left / "bin").mkdir(parents=True)
    (left / "bin" / "python").symlink_to(sys.executable)
    (left / "stale").write_text("half")
    environment = found(builder, await builder.build(PLAIN, quiet))
    assert environment.path == left
    assert not (left / "stale").exists()
    assert versions_in(environment, "msgspec")


async def test_an_environment_whose_interpreter_is_gone_is_built_again(tmp_path: Path) -> None:
    builder = VenvBuilder(tmp_path)
    environment = found(builder, await builder.build(PLAIN, quiet))
    environment.python.unlink()
    environment.python.symlink_to(tmp_path / "uninstalled")
    assert builder.find(environment.id) is None
    assert versions_in(found(builder, await builder.build(PLAIN, quiet)), "msgspec")


async def test_a_bad_requirement_fails_with_uvs_own_words(tmp_path: Path) -> None:
    requirement, says, hint = "six==99", "no version of six==99", "version of the package that exists"
    builder, lines = VenvBuilder(tmp_path), list[str]()
    with pytest.raises(DeployFailed, match=says) as caught:
        await builder.build(EnvironmentSpec(requirements=(requirement,)), lines.append)
    assert caught.value.details["phase"] == "environment"
    assert hint in caught.value.details["hint"]
    assert any(says in line for line in caught.value.details["log"])
    assert any(says in line for line in lines)
    assert str(tmp_path) not in caught.value.message
    assert await builder.stored() == []
    assert directories(tmp_path) == []


async def test_a_build_that_fails_fails_for_all_that_wait_for_it(tmp_path: Path) -> None:
    builder, spec = VenvBuilder(tmp_path), EnvironmentSpec(requirements=("six==99",))
    errors = await asyncio.gather(*(builder.build(spec, quiet) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in errors] == [DeployFailed] * 3


async def test_cancelling_the_last_waiter_ends_uv_and_its_children_and_leaves_nothing(tmp_path: Path) -> None:
    builder = VenvBuilder(tmp_path / "root")
    spec, started = slow_package(tmp_path)
    first = asyncio.create_task(builder.build(spec, quiet))
    pid = await appears(started)
    second = asyncio.create_task(builder.build(spec, quiet))
    await asyncio.sleep(0.05)
    first.cancel()
    await asyncio.wait([first])
    assert psutil.pid_exists(pid)  # somebody still waits
    second.cancel()
    await asyncio.wait([second])
    assert second.cancelled()
    assert has_ended(pid)
    assert not (tmp_path / "root" / builder.identify(spec)).exists()


async def test_a_build_that_takes_too_long_fails_and_leaves_nothing(tmp_path: Path) -> None:
    spec, started = slow_package(tmp_path)
    builder = VenvBuilder(tmp_path / "root", build_timeout_s=3.0)
    with pytest.raises(DeployFailed, match="not built within 3 s"):
        await builder.build(spec, quiet)
    if started.exists():
        assert has_ended(int(started.read_text()))
    assert not (tmp_path / "root" / builder.identify(spec)).exists()


PLATFORM = """
import asyncio, sys
from pathlib import Path
from clipper.contract.spec import EnvironmentSpec
from clipper_platform.environments.venv import VenvBuilder
asyncio.run(VenvBuilder(Path(sys.argv[1])).build(EnvironmentSpec(requirements=(sys.argv[2],)), print))
"""


async def test_a_killed_platforms_build_dies_and_the_next_platform_starts_over(tmp_path: Path) -> None:
    spec, started = slow_package(tmp_path)
    root = tmp_path / "root"
    with start_platform(root, spec) as platform:
        pid = await appears(started)
        uv = psutil.Process(platform.pid).children()[0]
        platform.send_signal(signal.SIGKILL)
    assert has_ended(uv.pid)
    left = root / VenvBuilder(root).identify(spec)
    assert left.exists()
    assert not (left / ".complete").exists()
    # The package's build, uv's child, is the guardian's to end; here it stands for what still holds the lock.
    os.kill(pid, signal.SIGKILL)
    started.unlink()
    again = asyncio.create_task(VenvBuilder(root).build(spec, quiet))
    await appears(started)
    again.cancel()
    await asyncio.wait([again])
    assert not left.exists()


async def test_while_an_orphan_of_a_killed_build_lives_no_other_build_begins(tmp_path: Path) -> None:
    spec, started = slow_package(tmp_path)
    root = tmp_path / "root"
    with start_platform(root, spec) as platform:
        pid = await appears(started)
        platform.send_signal(signal.SIGKILL)
    lines: list[str] = []
    waiting = asyncio.create_task(VenvBuilder(root).build(spec, lines.append))
    try:
        await until(lambda: any("Waiting for another process" in line for line in lines))
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])
        os.kill(pid, signal.SIGKILL)


async def test_a_removed_environment_is_gone_and_can_be_built_again(tmp_path: Path) -> None:
    builder = VenvBuilder(tmp_path)
    environment = await builder.build(PLAIN, quiet)
    assert await builder.remove(environment)
    assert not (tmp_path / environment).exists()
    assert builder.find(environment) is None
    assert await builder.stored() == []
    assert not await builder.remove(environment)
    assert versions_in(found(builder, await builder.build(PLAIN, quiet)), "msgspec")


async def test_an_environment_that_another_platform_uses_is_not_removed(tmp_path: Path) -> None:
    one, other = VenvBuilder(tmp_path), VenvBuilder(tmp_path)
    environment = await one.build(PLAIN, quiet)
    assert not await other.remove(environment)
    assert other.find(environment) is not None
    one.retain([])
    assert not await one.remove(environment)
    other.retain([])
    assert await one.remove(environment)


async def test_what_is_retained_counts_as_used_now(tmp_path: Path) -> None:
    builder = VenvBuilder(tmp_path)
    environment = await builder.build(PLAIN, quiet)
    os.utime(tmp_path / environment / ".complete", (1.0, 1.0))
    assert [facts.last_used_at for facts in await builder.stored()] == [1.0]
    builder.retain([environment, EnvironmentId("f" * 20)])
    assert (await builder.stored())[0].last_used_at > 1.0


async def test_what_an_interrupted_build_left_is_listed_and_can_be_removed(tmp_path: Path) -> None:
    builder = VenvBuilder(tmp_path)
    left = tmp_path / ("a" * 20)
    left.mkdir()
    (left / "half").write_bytes(b"123")
    (facts,) = await builder.stored()
    assert (facts.id, facts.bytes, facts.complete) == (left.name, 3, False)
    assert await builder.remove(EnvironmentId(left.name))
    assert not left.exists()


def test_a_file_that_environments_share_counts_once(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own").write_bytes(b"12")
    (tmp_path / "one" / "shared").write_bytes(b"12345")
    (tmp_path / "other" / "shared").hardlink_to(tmp_path / "one" / "shared")
    assert measure([tmp_path / "one", tmp_path / "other"]) == [7, 2]
    assert measure([tmp_path / "other"]) == [7]


@pytest.mark.parametrize("name", ["..", "../other", "", "x" * 20, "0123456789abcdef0123/.."])
async def test_only_environments_can_be_removed(tmp_path: Path, name: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ValueError, match="not the id of an environment"):
        await VenvBuilder(tmp_path / "root").remove(EnvironmentId(name))
    assert other.exists()


async def test_the_id_tells_pythons_requirements_and_the_runtimes_own_apart(tmp_path: Path) -> None:
    builder = VenvBuilder(tmp_path)
    same = EnvironmentSpec(requirements=("Six", "numpy"))
    assert builder.identify(same) == builder.identify(EnvironmentSpec(requirements=("numpy", "six")))
    ids = {
        builder.identify(PLAIN),
        builder.identify(same),
        VenvBuilder(tmp_path, ("msgspec>=0.20",)).identify(PLAIN),
    }
    assert len(ids) == 3


async def test_a_root_that_cannot_be_written_is_a_clear_failure(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DeployFailed, match="cannot be written"):
        await VenvBuilder(file / "root").build(PLAIN, quiet)


async def test_the_platforms_pythons_are_listed_with_their_full_versions(tmp_path: Path) -> None:
    assert sys.version.split()[0] in VenvBuilder(tmp_path).pythons()


async def test_a_python_that_can_be_neither_found_nor_fetched_is_refused_with_both_reasons(tmp_path: Path) -> None:
    builder = VenvBuilder(tmp_path, environ={**os.environ, "UV_OFFLINE": "1"})
    with pytest.raises(
        DeployFailed, match=r"Python 3\.99 is not on .* it has 3\..*; uv could not fetch it: \w"
    ) as refused:
        await builder.build(EnvironmentSpec(python="3.99"), quiet)
    assert refused.value.details["log"]
    assert refused.value.details["phase"] == "environment"
