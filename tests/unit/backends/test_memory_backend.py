"""The in-memory backend keeps the promises of the real one, so that tests above it mean something."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from clipper.contract import wire
from clipper_platform.backends.base import Exit, LaunchSpec, StartError
from tests.support.memory_backend import InMemoryBackend, InMemoryReplica
from tests.support.replicas import Recorder, ask, invoke, launch_spec


async def launched(backend: InMemoryBackend, tmp_path: Path) -> tuple[InMemoryReplica, Recorder]:
    replica, recorder = await backend.launch(launch_spec(tmp_path)), Recorder()
    replica.attach(recorder)
    return replica, recorder


async def never(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
    await asyncio.Event().wait()
    raise AssertionError("not reached")


async def raises(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
    raise OSError("scripted")


async def test_it_echoes_and_never_answers_from_within_a_send(tmp_path: Path) -> None:
    replica, recorder = await launched(InMemoryBackend(), tmp_path)
    replica.send_invoke(invoke(b"a", b"b"), [b"a", b"b"])
    replica.send_ping(5)
    assert recorder.events == []
    assert await recorder.answers.get() == (
        wire.Result(1, [wire.Outcome(0, 0, "text/plain", 1), wire.Outcome(1, 0, "text/plain", 1)]),
        [b"a", b"b"],
    )
    assert (await recorder.pongs.get()).nonce == 5


async def test_a_crash_loses_what_ran_and_is_reported_once_and_last(tmp_path: Path) -> None:
    backend = InMemoryBackend(never)
    replica, recorder = await launched(backend, tmp_path)
    replica.send_invoke(invoke(b"a"), [b"a"])
    replica.send_ping(1)
    await asyncio.sleep(0)
    replica.crash()
    replica.crash()
    replica.kill()
    assert (await recorder.exit()).reason == "crashed"
    for _ in range(10):
        await asyncio.sleep(0)
    assert recorder.events[-1] == recorder.exits[0]
    assert len(recorder.exits) == 1
    assert backend.alive == []
    assert replica.memory_bytes() is None


async def test_an_exit_before_attach_is_reported_at_attach(tmp_path: Path) -> None:
    replica = await InMemoryBackend().launch(launch_spec(tmp_path))
    replica.crash(Exit("oom", "killed"))
    recorder = Recorder()
    replica.attach(recorder)
    assert await recorder.exit() == Exit("oom", "killed")


async def test_a_behaviour_that_raises_is_a_crash(tmp_path: Path) -> None:
    replica, recorder = await launched(InMemoryBackend(raises), tmp_path)
    replica.send_invoke(invoke(b"a"), [b"a"])
    assert (await recorder.exit()).message == "OSError: scripted"


async def test_stop_waits_for_what_runs_and_kills_what_does_not_end(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def gated(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        await gate.wait()
        return wire.Result(invoke.batch, []), []

    replica, recorder = await launched(InMemoryBackend(gated), tmp_path)
    replica.send_invoke(invoke(b"a"), [b"a"])
    stopping = asyncio.create_task(replica.stop(10))
    await asyncio.sleep(0)
    gate.set()
    await stopping
    assert (await recorder.exit()).reason == "exited"
    assert isinstance(recorder.events[0], wire.Result)
    stuck, recorder = await launched(InMemoryBackend(never), tmp_path)
    stuck.send_invoke(invoke(b"a"), [b"a"])
    await stuck.stop(0)
    assert (await recorder.exit()).reason == "killed"


async def test_a_start_can_be_refused_or_held_back(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def before_ready(spec: LaunchSpec) -> None:
        await gate.wait()

    backend = InMemoryBackend(start_error=lambda spec: StartError("import", "no"), before_ready=before_ready)
    launching = asyncio.create_task(backend.launch(launch_spec(tmp_path)))
    await asyncio.sleep(0)
    assert (len(backend.launches), backend.replicas) == (1, [])
    gate.set()
    with pytest.raises(StartError, match="no"):
        await launching
    assert backend.replicas == []


async def test_ask_goes_through_the_channel_like_any_client_of_a_replica(tmp_path: Path) -> None:
    replica, recorder = await launched(InMemoryBackend(), tmp_path)
    assert await ask(replica, recorder, b"x", b"") == [b"x", b""]
