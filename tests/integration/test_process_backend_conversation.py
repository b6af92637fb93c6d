"""Replicas as real processes that obey commands: start-up, answers, ends, output, limits."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from clipper.contract import wire
from clipper_platform.backends.base import LaunchSpec, Replica, StartError
from clipper_platform.backends.process.backend import ProcessBackend
from clipper_platform.types import BundleDigest, FunctionId, ReplicaId
from tests.support.replicas import FAKE_REPLICA, Recorder, ask, invoke, launch_spec, process_backend
from tests.support.waiting import has_ended, until


class Sink:
    """Where replicas' lines go."""

    def __init__(self) -> None:
        self.records: list[wire.LogRecord] = []

    def __call__(self, function: FunctionId, replica: ReplicaId, records: Sequence[wire.LogRecord]) -> None:
        self.records += records

    @property
    def messages(self) -> list[str]:
        return [record.message for record in self.records]


@asynccontextmanager
async def opened(tmp_path: Path, sink: Any = None) -> AsyncIterator[ProcessBackend]:
    backend = process_backend(tmp_path / "home", sink or Sink(), command=FAKE_REPLICA)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[ProcessBackend]:
    async with opened(tmp_path) as opened_backend:
        yield opened_backend


async def launched(backend: ProcessBackend, spec: LaunchSpec) -> tuple[Replica, Recorder]:
    replica, recorder = await backend.launch(spec), Recorder()
    replica.attach(recorder)
    return replica, recorder


def files_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


async def test_a_replica_answers_batches_and_pings_and_ends_when_it_is_asked_to(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    replica, recorder = await launched(backend, launch_spec(tmp_path))
    assert replica.ready.concurrency == 4
    assert replica.ready.phases["launch"] > 0
    assert (replica.memory_bytes() or 0) > 1 << 20
    assert await ask(replica, recorder, b"one", b"", b"three") == [b"one", b"", b"three"]
    replica.channel.send_ping(9)
    assert (await asyncio.wait_for(recorder.pongs.get(), 10)).nonce == 9
    pid = replica.details["pid"]
    await replica.stop(10)
    assert recorder.exits[0].reason == "exited"
    assert recorder.events[-1] is recorder.exits[0]
    assert has_ended(pid, 0.1)
    assert (replica.details, replica.memory_bytes()) == ({}, None)
    await replica.stop(10)
    replica.kill()
    assert len(recorder.exits) == 1


async def test_a_large_payload_goes_there_and_back_whole(backend: ProcessBackend, tmp_path: Path) -> None:
    replica, recorder = await launched(backend, launch_spec(tmp_path))
    large = bytes(range(256)) * (40 * 1024)
    assert await ask(replica, recorder, large, b"small") == [large, b"small"]


async def test_it_also_runs_on_uvloop(tmp_path: Path) -> None:
    async def conversation() -> None:
        sink = Sink()
        async with opened(tmp_path, sink) as backend:
            replica, recorder = await launched(backend, launch_spec(tmp_path))
            large = b"x" * 5_000_000
            assert await ask(replica, recorder, large, b"small") == [large, b"small"]
            replica.channel.send_invoke(invoke(b"crash"), [b"crash"])
            assert (await recorder.exit()).message == "killed by SIGSEGV"
            stopped, recorder = await launched(backend, launch_spec(tmp_path))
            assert await ask(stopped, recorder, b"print:to the log") == [b"print:to the log"]
            await stopped.stop(10)
            assert recorder.exits[0].reason == "exited"
            with pytest.raises(StartError) as caught:
                await backend.launch(launch_spec(tmp_path, "hang-in-setup", startup_timeout_s=1.0))
            assert caught.value.phase == "timeout"
        assert "to the log" in sink.messages
        assert "Fatal Python error: Segmentation fault" in sink.messages

    await asyncio.to_thread(uvloop.run, conversation())


REFUSED_STARTS = [
    ("exit-first", "launch", "exit status 3 before it said hello", "no such module: frobnicator"),
    ("garbage-first", "handshake", "protocol violation: a frame of", None),
    ("ready-first", "handshake", "protocol violation: Ready came out of turn", None),
    ("close-first", "handshake", "closed its connection", None),
    ("future", "handshake", "speaks versions 7 to 9 of the protocol, the platform 1 to 1", None),
    ("fail", "import", "No module named 'frobnicator'", "Traceback"),
    ("crash-in-setup", "setup", "killed by SIGSEGV while importing, loading or setting up", "in crash"),
]


@pytest.mark.parametrize(("mode", "phase", "words", "line"), REFUSED_STARTS, ids=[row[0] for row in REFUSED_STARTS])
async def test_a_replica_that_does_not_start_says_why_and_leaves_nothing(
    backend: ProcessBackend, tmp_path: Path, mode: str, phase: str, words: str, line: str | None
) -> None:
    with pytest.raises(StartError) as caught:
        await backend.launch(launch_spec(tmp_path, mode))
    assert caught.value.phase == phase
    assert words in caught.value.message
    if line is not None:
        assert any(line in each for each in caught.value.log), caught.value.log
    assert marked(backend) == []


async def test_a_failed_start_brings_the_exceptions_type_and_traceback(backend: ProcessBackend, tmp_path: Path) -> None:
    with pytest.raises(StartError) as caught:
        await backend.launch(launch_spec(tmp_path, "fail"))
    assert (caught.value.error_type, caught.value.traceback) == ("ModuleNotFoundError", "Traceback …")


@pytest.mark.parametrize(
    ("mode", "doing", "where"),
    [("mute", "starting the interpreter", "in main"), ("hang-in-setup", "setting up", "in hang_in_setup")],
)
async def test_a_start_that_hangs_ends_in_time_and_the_log_says_where_it_was(
    backend: ProcessBackend, tmp_path: Path, mode: str, doing: str, where: str
) -> None:
    with pytest.raises(StartError) as caught:
        await backend.launch(launch_spec(tmp_path, mode, startup_timeout_s=3.0))
    assert caught.value.phase == "timeout"
    assert "not ready within 3 s (startup_timeout_s)" in caught.value.message
    assert doing in caught.value.message
    assert any(where in line for line in caught.value.log)
    assert marked(backend) == []


async def test_cancelling_a_launch_leaves_nothing(backend: ProcessBackend, tmp_path: Path) -> None:
    launching = asyncio.create_task(backend.launch(launch_spec(tmp_path, "hang-in-setup")))
    await until(lambda: marked(backend))
    launching.cancel()
    await asyncio.wait([launching])
    assert launching.cancelled()
    assert marked(backend) == []
    assert list(backend.temporary_root.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bundle": BundleDigest("/no/such/bundle")}, "is not a directory"),
        ({"env": {"BAD": "nul\0byte"}}, "cannot be started"),
    ],
)
async def test_what_cannot_be_started_is_a_start_error(
    backend: ProcessBackend, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(StartError, match=words) as caught:
        await backend.launch(launch_spec(tmp_path, **change))
    assert caught.value.phase == "launch"


ENDS = [
    (b"exit:0", "exited", "exit status 0"),
    (b"exit:3", "crashed", "exit status 3"),
    (b"crash", "crashed", "killed by SIGSEGV"),
    (b"signal:9", "killed_externally", "killed by SIGKILL"),
    (b"signal:34", "crashed", "killed by "),
    (b"hang-up", "lost", "closed its connection"),
    (b"garbage", "lost", "protocol violation: a frame of 4294967295 bytes"),
    (b"short", "lost", "protocol violation: payloads of 9 bytes do not make the body of 3 bytes"),
]


@pytest.mark.parametrize(("command", "reason", "words"), ENDS, ids=[repr(row[0]) for row in ENDS])
async def test_however_a_replica_ends_its_exit_is_reported_once_with_reason_and_message(
    backend: ProcessBackend, tmp_path: Path, command: bytes, reason: str, words: str
) -> None:
    replica, recorder = await launched(backend, launch_spec(tmp_path))
    replica.channel.send_invoke(invoke(command), [command])
    exit = await recorder.exit(5)
    assert exit.reason == reason
    assert words in exit.message
    await replica.stop(5)
    assert recorder.exits == [exit]
    assert marked(backend) == []


async def test_a_replica_that_hangs_and_is_killed_exits_as_killed(backend: ProcessBackend, tmp_path: Path) -> None:
    replica, recorder = await launched(backend, launch_spec(tmp_path))
    replica.channel.send_invoke(invoke(b"hang"), [b"hang"])
    replica.kill()
    assert (await recorder.exit()).reason == "killed"


async def test_a_replica_that_ignores_the_drain_is_killed_when_its_time_is_up(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    replica, recorder = await launched(backend, launch_spec(tmp_path, "ignore-drain"))
    await replica.stop(0.3)
    assert recorder.exits[0].reason == "killed"
    assert "0.3 s after it was asked to stop" in recorder.exits[0].message


async def test_cancelling_a_stop_kills(backend: ProcessBackend, tmp_path: Path) -> None:
    replica, recorder = await launched(backend, launch_spec(tmp_path, "ignore-drain"))
    stopping = asyncio.create_task(replica.stop(60))
    await asyncio.sleep(0.05)
    stopping.cancel()
    await asyncio.wait([stopping])
    assert (await recorder.exit(5)).reason == "killed"


async def test_an_end_before_attach_is_reported_at_attach_and_only_one_may_listen(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    replica, recorder = await backend.launch(launch_spec(tmp_path)), Recorder()
    replica.kill()
    await until(lambda: not replica.details)
    replica.attach(recorder)
    assert recorder.exits == []  # not from within attach
    assert (await recorder.exit()).reason == "killed"
    with pytest.raises(RuntimeError, match="has a listener already"):
        replica.attach(Recorder())


async def test_grandchildren_do_not_survive_their_replica_whatever_their_session(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    replica, recorder = await launched(backend, launch_spec(tmp_path))
    pids = [int(answer) for answer in await ask(replica, recorder, b"spawn:", b"spawn:session")]
    assert all(psutil.pid_exists(pid) for pid in pids)
    replica.channel.send_invoke(invoke(b"exit:1"), [b"exit:1"])
    await recorder.exit(5)
    await replica.stop(5)
    assert all(has_ended(pid, 1) for pid in pids)


async def test_output_of_pipes_and_frames_reaches_the_log(tmp_path: Path) -> None:
    sink = Sink()
    async with opened(tmp_path, sink) as backend:
        replica, recorder = await launched(backend, launch_spec(tmp_path))
        await ask(replica, recorder, b"print:hello from user code")
        await replica.stop(10)
    assert sink.messages[0] == f"starting demo/obey@3 in {tmp_path}/bundle"
    by_frame = next(record for record in sink.records if record.message == "by frame")
    assert (by_frame.stream, by_frame.request_id, by_frame.logger) == ("log", "r-1", "app")
    assert {"hello from user code", "closed"} <= set(sink.messages)


async def test_a_flood_of_output_is_bounded_and_its_last_words_are_kept(tmp_path: Path) -> None:
    sink = Sink()
    async with opened(tmp_path, sink) as backend:
        replica, recorder = await launched(backend, launch_spec(tmp_path))
        await ask(replica, recorder, b"flood:60000000")
        await replica.stop(10)
    assert sum(map(len, sink.messages)) < 10_000_000
    assert any("lines were dropped" in message for message in sink.messages)


async def test_a_log_that_fails_costs_lines_and_no_replica(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(function: FunctionId, replica: ReplicaId, records: Sequence[wire.LogRecord]) -> None:
        raise OSError("disk full")

    async with opened(tmp_path, broken) as backend:
        replica, recorder = await launched(backend, launch_spec(tmp_path))
        assert await ask(replica, recorder, b"print:x") == [b"print:x"]
    assert "the log does not take them" in caplog.text


async def test_the_process_sees_its_directories_and_leaves_the_bundle_clean(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    replica, recorder = await launched(backend, launch_spec(tmp_path, env={"TOKEN": "secret"}))
    (answer,) = await ask(replica, recorder, b"environ")
    seen = dict(line.split("=", 1) for line in answer.decode().splitlines() if "=" in line)
    assert seen["TOKEN"] == "secret"
    assert seen["CLIP_PLATFORM_INSTANCE"] == backend.instance_id
    tmp = Path(seen["TMPDIR"])
    assert psutil.Process(replica.details["pid"]).cwd() == str(tmp_path / "bundle")
    assert tmp.is_dir()  # noqa: ASYNC240  a local directory in a test
    await replica.stop(10)
    assert not tmp.exists()  # noqa: ASYNC240  as above
    assert files_in(tmp_path / "bundle") == []


async def test_memory_is_limited_and_a_function_that_wants_more_gets_a_memory_error(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    limit = 300 * 1024 * 1024
    replica, recorder = await launched(backend, launch_spec(tmp_path, memory_bytes=limit))
    assert await ask(replica, recorder, b"limits") == [repr(((limit, limit), (0, 0))).encode()]
    assert await ask(replica, recorder, b"allocate:%d" % (2 * limit), b"allocate:1000") == [b"MemoryError", b"1000"]
    unlimited, recorder = await launched(backend, launch_spec(tmp_path))
    assert await ask(unlimited, recorder, b"limits") == [
        repr((resource.getrlimit(resource.RLIMIT_DATA), (0, 0))).encode()
    ]


async def test_closing_the_backend_ends_all_that_run_and_all_that_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as backend:
        replica, recorder = await launched(backend, launch_spec(tmp_path))
        starting = asyncio.create_task(backend.launch(launch_spec(tmp_path, "hang-in-setup")))
        await until(lambda: len(marked(backend)) == 2)
    assert (await recorder.exit()).reason == "killed"
    with pytest.raises(StartError):
        await starting
    assert marked(backend) == []
    with pytest.raises(StartError, match="not open"):
        await backend.launch(launch_spec(tmp_path))
    assert files_in(tmp_path / "home" / "run") == []
    assert replica.details == {}


async def test_many_replicas_start_and_end_side_by_side(backend: ProcessBackend, tmp_path: Path) -> None:
    pairs = await asyncio.gather(*(launched(backend, launch_spec(tmp_path)) for _ in range(6)))
    answers = await asyncio.gather(*(ask(replica, recorder, b"%d" % n) for n, (replica, recorder) in enumerate(pairs)))
    assert answers == [[b"%d" % n] for n in range(6)]
    await asyncio.gather(*(replica.stop(10) for replica, _ in pairs))
    assert [recorder.exits[0].reason for _, recorder in pairs] == ["exited"] * 6


def marked(backend: ProcessBackend) -> list[int]:
    """Living processes of the backend's replicas. Those that compile bytecode belong to no replica."""
    found = []
    for process in psutil.process_iter():
        try:
            environ = process.environ()
            if environ.get("CLIP_PLATFORM_INSTANCE") == backend.instance_id and "CLIP_REPLICA" in environ:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found
