"""The backend with the real runtime in a real environment: code that answers, crashes, hangs and wants too much."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from clipper.contract import wire
from clipper.contract.spec import EnvironmentSpec, FunctionSpec
from clipper_platform.backends.base import Replica, StartError
from clipper_platform.backends.process.backend import ProcessBackend
from clipper_platform.environments.venv import VenvBuilder
from clipper_platform.types import EnvironmentId, FunctionId, ReplicaId
from tests.support.replicas import Recorder, invoke, launch_spec, process_backend
from tests.support.waiting import has_ended

ROOT = Path(__file__).parents[2]

APP = """
import ctypes, os, subprocess, sys, time

def add(a: int, b: int = 1) -> int:
    print("adding", a, b)
    return a + b

def leave(status: int) -> None:
    print("about to leave", flush=True)
    os._exit(status)

def segfault() -> None:
    ctypes.string_at(0)

def allocate(size: int) -> int:
    return len(bytearray(size))

def shout(lines: int) -> int:
    for number in range(lines):
        print("x" * 200)
    return lines

def where() -> dict[str, str]:
    import clipper, msgspec
    return {"cwd": os.getcwd(), "clipper": clipper.__file__, "msgspec": msgspec.__file__, "prefix": sys.prefix,
            "token": os.environ.get("TOKEN", "")}

def spawn() -> int:
    code = "import time; time.sleep(600)"
    return subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True).pid

class Slow:
    def __init__(self) -> None:
        time.sleep(600)
    def __call__(self) -> None: ...
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> EnvironmentId:
    root = tmp_path_factory.mktemp("environments")
    id = asyncio.run(VenvBuilder(root).build(EnvironmentSpec(), lambda _: None))
    return EnvironmentId(str(root / id))


class Project:
    """A bundle of APP whose functions can be launched one by one."""

    def __init__(self, tmp_path: Path, environment: EnvironmentId, backend: ProcessBackend) -> None:
        self.environment = environment
        self.backend = backend
        self.records: list[wire.LogRecord] = []
        self._tmp_path = tmp_path

    async def launch(self, function: str, **changes: Any) -> tuple[Replica, Recorder]:
        spec = FunctionSpec(name=function, entrypoint=changes.pop("entrypoint", f"app:{function}"))
        asked = launch_spec(self._tmp_path, environment=self.environment, spec=spec.to_dict(), **changes)
        replica, recorder = await self.backend.launch(asked), Recorder()
        replica.attach(recorder)
        return replica, recorder

    @property
    def lines(self) -> list[str]:
        return [record.message for record in self.records]


@pytest.fixture
async def project(tmp_path: Path, environment: EnvironmentId) -> AsyncIterator[Project]:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "app.py").write_text(APP)
    (tmp_path / "bundle" / "broken.py").write_text("import frobnicator\ndef f() -> None: ...\n")

    def sink(function: FunctionId, replica: ReplicaId, records: Sequence[wire.LogRecord]) -> None:
        started.records += records

    backend = process_backend(tmp_path / "home", sink)
    started = Project(tmp_path, environment, backend)
    await backend.open()
    yield started
    await backend.close()


def send(replica: Replica, **arguments: Any) -> None:
    payload = msgspec.json.encode(arguments)
    replica.channel.send_invoke(invoke(payload, content_type="application/json"), [payload])


async def call(pair: tuple[Replica, Recorder], **arguments: Any) -> tuple[wire.Outcome, Any]:
    replica, recorder = pair
    send(replica, **arguments)
    result, payloads = await recorder.answers.get()
    outcome = result.outcomes[0]
    return outcome, msgspec.json.decode(payloads[0]) if outcome.status == wire.Status.OK else None


async def test_a_function_answers_and_its_output_is_the_log_with_the_request_id(project: Project) -> None:
    pair = await project.launch("add")
    assert (await call(pair, a=2, b=40))[1] == 42
    await pair[0].stop(10)
    assert pair[1].exits[0].reason == "exited"
    record = next(record for record in project.records if record.message == "adding 2 40")
    assert (record.stream, record.request_id) == ("stdout", "request-0")


async def test_the_phases_of_the_start_are_measured_and_the_launch_among_them(project: Project) -> None:
    replica, _ = await project.launch("add")
    assert {"launch", "import", "load", "setup"} <= replica.ready.phases.keys()
    assert replica.ready.phases["launch"] > 0.01


async def test_user_code_runs_in_its_bundle_and_environment_with_the_staged_sdk(
    project: Project, tmp_path: Path
) -> None:
    _, seen = await call(await project.launch("where", env={"TOKEN": "secret"}))
    assert seen["cwd"] == str(tmp_path / "bundle")
    assert seen["clipper"].startswith(str(tmp_path / "home" / "runtime"))
    assert seen["msgspec"].startswith(project.environment)
    assert (seen["prefix"], seen["token"]) == (project.environment, "secret")
    files = {path.name for path in (tmp_path / "bundle").iterdir()}
    assert files - {"__pycache__"} == {"app.py", "broken.py"}


async def test_leaving_by_os_exit_is_a_crash_with_its_status(project: Project) -> None:
    replica, recorder = await project.launch("leave")
    send(replica, status=7)
    exit = await recorder.exit()
    assert (exit.reason, exit.message) == ("crashed", "exit status 7")


async def test_a_segmentation_fault_is_named_and_its_stack_is_in_the_log(project: Project) -> None:
    replica, recorder = await project.launch("segfault")
    send(replica)
    exit = await recorder.exit()
    assert (exit.reason, exit.message) == ("crashed", "killed by SIGSEGV")
    assert any("in segfault" in line for line in project.lines)


async def test_memory_over_the_limit_fails_the_invocation_and_not_the_replica(project: Project) -> None:
    pair = await project.launch("allocate", memory_bytes=512 * 1024 * 1024)
    outcome, _ = await call(pair, size=1 << 30)
    assert (outcome.status, outcome.error_type) == (wire.Status.FUNCTION_ERROR, "MemoryError")
    assert (await call(pair, size=1_000_000))[1] == 1_000_000


async def test_huge_output_is_bounded_and_slows_its_writer_for_a_short_time_only(project: Project) -> None:
    pair = await project.launch("shout")
    assert (await call(pair, lines=100_000))[1] == 100_000
    await pair[0].stop(10)
    assert sum(map(len, project.lines)) < 10_000_000
    assert any("dropped" in line for line in project.lines)


async def test_a_setup_that_hangs_ends_in_time_and_shows_the_users_line(project: Project) -> None:
    with pytest.raises(StartError) as caught:
        await project.launch("Slow", startup_timeout_s=6.0)
    assert caught.value.phase == "timeout"
    assert "setting up" in caught.value.message
    assert any("app.py" in line and "in __init__" in line for line in caught.value.log), caught.value.log


async def test_an_import_that_fails_brings_the_exception(project: Project) -> None:
    with pytest.raises(StartError) as caught:
        await project.launch("f", entrypoint="broken:f")
    assert (caught.value.phase, caught.value.error_type) == ("import", "ModuleNotFoundError")
    assert "frobnicator" in caught.value.message
    assert "broken.py" in caught.value.traceback


async def test_a_grandchild_in_its_own_session_ends_with_its_replica(project: Project) -> None:
    pair = await project.launch("spawn")
    _, pid = await call(pair)
    assert psutil.pid_exists(pid)
    pair[0].kill()
    await pair[0].stop(5)
    assert has_ended(pid, 1)


PLATFORM = """
import asyncio, sys
from pathlib import Path
import msgspec
from clipper.contract.spec import FunctionSpec
from clipper_platform.types import EnvironmentId
from tests.support.replicas import Recorder, invoke, launch_spec, process_backend

async def main(home, environment):
    backend = process_backend(home / "home")
    await backend.open()
    spec = FunctionSpec(name="spawn", entrypoint="app:spawn").to_dict()
    launch = launch_spec(home, environment=EnvironmentId(environment), spec=spec)
    replica, recorder = await backend.launch(launch), Recorder()
    replica.attach(recorder)
    replica.channel.send_invoke(invoke(b"{}", content_type="application/json"), [b"{}"])
    _, payloads = await recorder.answers.get()
    print(replica.details["pid"], payloads[0].decode(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


def test_after_kill_9_of_the_platform_neither_replica_nor_grandchild_is_left(
    tmp_path: Path, environment: EnvironmentId
) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "app.py").write_text(APP)
    command = [sys.executable, "-c", PLATFORM, tmp_path, environment]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as platform:
        try:
            assert platform.stdout is not None
            pids = [int(word) for word in platform.stdout.readline().split()]
            assert len(pids) == 2
        finally:
            platform.send_signal(signal.SIGKILL)
    assert all(has_ended(pid) for pid in pids)
