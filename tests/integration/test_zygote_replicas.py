"""Replicas forked from zygotes and templates, by the real backend and runtime: alike to fresh ones, apart from each
other, and replaced by fresh ones whenever forking is not possible."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import textwrap
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from clipper.contract import wire
from clipper.contract.spec import FunctionSpec
from clipper_platform.backends.base import Exit, Replica
from clipper_platform.backends.process.import_manifest import manifest_file
from clipper_platform.types import BundleDigest, EnvironmentId, FunctionId, ReplicaId
from tests.support.replicas import Recorder, environment_at, invoke, launch_spec, process_backend
from tests.support.waiting import has_ended

LOOK = """
    import json, os, random, signal, socket, sys, tempfile
    import numpy

    STARTED = os.getpid()

    def look(what: str) -> str:
        if what == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "exit":
            os._exit(7)
        if what == "daemon":
            if (pid := os.fork()) == 0:
                os.setsid()
                signal.pause()
            return str(pid)
        links = {}
        for n in os.listdir("/proc/self/fd"):
            try:
                links[n] = os.readlink(f"/proc/self/fd/{n}")
            except OSError:
                pass  # that of the listing
        return json.dumps({
            "seeds": [random.random(), float(numpy.random.random())],
            "sockets": sorted(n for n, target in links.items() if target.startswith("socket:")),
            "pidfds": sorted(n for n, target in links.items() if "pidfd" in target),
            "session": os.getsid(0) == os.getpid(),
            "threads": len(os.listdir("/proc/self/task")),
            "environ": {k: v for k, v in os.environ.items() if k.startswith(("CLIP_", "TMPDIR", "KEY"))},
            "marked": f"CLIP_REPLICA={os.environ['CLIP_REPLICA']}" in open("/proc/self/environ").read().split(chr(0)),
            "tmp": tempfile.gettempdir(),
            "cwd": os.getcwd(),
            "parent": os.getppid(),
            "pid": os.getpid(),
            "imported_here": STARTED == os.getpid(),
        })
"""


class Place:
    """A backend with one environment and the logs of its replicas."""

    def __init__(self, tmp_path: Path, **options: Any) -> None:
        self.path = tmp_path
        self.lines: list[str] = []
        self.backend = process_backend(tmp_path / "home", self._log, **options)
        self.environment = tmp_path / "environment"
        self.environment.mkdir(exist_ok=True)
        self.replicas: list[Replica] = []

    def _log(self, _function: FunctionId, _replica: ReplicaId, records: Any) -> None:
        self.lines += [record.message for record in records]

    @property
    def manifest(self) -> Path:
        return manifest_file(environment_at(EnvironmentId(str(self.environment))), "demo")

    async def launch(self, app: str = LOOK, entrypoint: str = "app:look", **changes: Any) -> tuple[Replica, Recorder]:
        bundle = self.path / f"bundle-{abs(hash(app))}"
        bundle.mkdir(exist_ok=True)
        (bundle / "app.py").write_text(textwrap.dedent(app))
        options = changes.pop("options", {})
        spec = FunctionSpec.parse("look", entrypoint, options).to_dict()
        places = {"bundle": BundleDigest(str(bundle)), "environment": EnvironmentId(str(self.environment))}
        launch = launch_spec(self.path, spec=spec, **places, **changes)
        replica, recorder = await self.backend.launch(launch), Recorder()
        replica.attach(recorder)
        return replica, recorder

    async def warm(self, app: str = LOOK, **changes: Any) -> tuple[Replica, Recorder]:
        """Launch, and wait until the environment has a zygote."""
        launched = await self.launch(app, **changes)
        await self.until(lambda: any(zygote.usable for zygote in self.backend.zygotes.running))
        return launched

    async def until_spare(self) -> int:
        """Wait until the only zygote has a child ahead of time; its pid."""
        (zygote,) = self.backend.zygotes.running
        await self.until(lambda: zygote.spare_pid is not None)
        assert zygote.spare_pid is not None
        return zygote.spare_pid

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.02)


@asynccontextmanager
async def place(tmp_path: Path, **options: Any) -> AsyncIterator[Place]:
    opened = Place(tmp_path, **options)
    await opened.backend.open()
    try:
        yield opened
    finally:
        await opened.backend.close()


async def look(replica: Replica, recorder: Recorder, what: str = "") -> dict[str, Any]:
    answer = json.loads(await call(replica, recorder, {"what": what}))
    found: dict[str, Any] = json.loads(answer)
    return found


async def call(replica: Replica, recorder: Recorder, arguments: Mapping[str, Any]) -> bytes:
    payload = json.dumps(arguments).encode()
    replica.channel.send_invoke(invoke(payload, content_type="application/json"), [payload])
    async with asyncio.timeout(20):
        result, answers = await recorder.answers.get()
    assert result.outcomes[0].status == wire.Status.OK, result.outcomes[0].message
    return answers[0]


async def ended(replica: Replica, recorder: Recorder, what: str) -> Exit:
    payload = json.dumps({"what": what}).encode()
    replica.channel.send_invoke(invoke(payload, content_type="application/json"), [payload])
    return await recorder.exit()


def forked(replica: Replica) -> bool:
    return "fork" in replica.ready.phases and "launch" not in replica.ready.phases


async def test_without_a_pool_each_replica_is_a_fresh_process(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        for _ in range(2):
            replica, _ = await here.launch()
            assert not forked(replica)
        assert here.backend.zygotes.running == ()
        assert not here.manifest.exists()


async def test_forked_replicas_share_nothing_that_two_processes_should_not(tmp_path: Path) -> None:
    async with place(tmp_path, warm_pool_size=1) as here:
        fresh = await look(*await here.warm())
        (zygote,) = here.backend.zygotes.running
        views = []
        for _ in range(4):
            replica, recorder = await here.launch(env={"KEY": "value"})
            assert forked(replica)
            assert {"place", "fork", "import", "load", "setup"} <= set(replica.ready.phases)
            views.append(await look(replica, recorder))
            assert views[-1]["pid"] == replica.details["pid"]
        for index in range(2):
            assert len({view["seeds"][index] for view in [fresh, *views]}) == 5
        for view in views:
            assert len(view["sockets"]) == 1, "the channel only"
            assert view["pidfds"] == []
            assert view["session"]
            assert view["threads"] == 2, "the one that calls and the runtime's watcher"
            assert view["parent"] == zygote.pid
            assert view["imported_here"], "the bundle itself is never preloaded"
            assert view["marked"]
            assert view["environ"]["KEY"] == "value"
            assert view["tmp"] == view["environ"]["TMPDIR"]
            assert set(view["environ"]) - {"KEY"} == set(fresh["environ"])
        assert len({view["tmp"] for view in views}) == 4


@pytest.mark.parametrize("snapshot", [False, True])
async def test_how_a_forked_replica_ended_is_known_as_of_any_other(tmp_path: Path, snapshot: bool) -> None:
    async with place(tmp_path, warm_pool_size=1) as here:
        await here.warm()
        options = {"snapshot": snapshot}
        crash = await ended(*await here.launch(options=options), "segfault")
        assert (crash.reason, crash.message) == ("crashed", "killed by SIGSEGV")
        left = await ended(*await here.launch(options=options), "exit")
        assert (left.reason, left.message) == ("crashed", "exit status 7")
        replica, recorder = await here.launch(options=options)
        assert forked(replica)
        await replica.stop(10)
        assert (await recorder.exit()).reason == "exited"
        replica, recorder = await here.launch(options=options)
        pid = replica.details["pid"]
        replica.kill()
        assert (await recorder.exit()).reason == "killed"
        assert pid is not None
        assert has_ended(pid)


async def test_what_a_forked_replica_left_in_a_session_of_its_own_dies_with_it(tmp_path: Path) -> None:
    async with place(tmp_path, warm_pool_size=1) as here:
        await here.warm()
        replica, recorder = await here.launch()
        other, others = await here.launch()
        assert forked(replica)
        assert forked(other)
        daemon = int(json.loads(await call(replica, recorder, {"what": "daemon"})))
        assert psutil.pid_exists(daemon)
        await replica.stop(10)
        await here.until(lambda: has_ended(daemon, 0))
        assert (await look(other, others))["pid"] == other.details["pid"]


async def test_a_zygote_that_is_killed_costs_no_replica_and_is_replaced(tmp_path: Path) -> None:
    async with place(tmp_path, warm_pool_size=1) as here:
        await here.warm()
        survivor, recorder = await here.launch()
        (zygote,) = here.backend.zygotes.running
        os.kill(zygote.pid, signal.SIGKILL)
        replica, others = await here.launch()
        assert (await look(replica, others))["pid"] == replica.details["pid"]
        assert (await look(survivor, recorder))["pid"] == survivor.details["pid"]
        end = await ended(survivor, recorder, "exit")
        assert end.reason == "crashed"
        assert "not known" in end.message
        await here.until(lambda: any(z.usable and z.pid != zygote.pid for z in here.backend.zygotes.running))
        assert forked((await here.launch())[0])


async def test_a_zygote_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipper_platform.backends.process.zygotes.FORK_TIMEOUT_S", 0.2)
    async with place(tmp_path, warm_pool_size=1) as here:
        await here.warm()
        (zygote,) = here.backend.zygotes.running
        await here.until_spare()
        os.kill(zygote.pid, signal.SIGSTOP)
        try:
            assert forked((await here.launch())[0]), "the spare child needs nothing of its zygote"
            replica, recorder = await here.launch()
            assert not forked(replica)
            assert (await look(replica, recorder))["pid"] == replica.details["pid"]
        finally:
            os.kill(zygote.pid, signal.SIGCONT)
        # The child of the fork that came too late is dropped.
        await here.until(lambda: len(psutil.Process(zygote.pid).children()) <= 2)


async def test_an_environment_that_was_built_anew_gets_new_zygotes(tmp_path: Path) -> None:
    async with place(tmp_path, warm_pool_size=1) as here:
        (here.environment / "pyvenv.cfg").write_text("one")
        await here.warm()
        (old,) = here.backend.zygotes.running
        (here.environment / "pyvenv.cfg").unlink()
        here.manifest.unlink()
        (here.environment / "pyvenv.cfg.new").write_text("two, in another file")
        (here.environment / "pyvenv.cfg.new").rename(here.environment / "pyvenv.cfg")
        replica, _ = await here.launch()
        assert not forked(replica)
        await here.until(lambda: has_ended(old.pid, 0))
        await here.until(lambda: any(z.usable for z in here.backend.zygotes.running))
        assert forked((await here.launch())[0])


async def test_modules_are_learnt_kept_with_the_environment_and_grow_with_a_projects_functions(
    tmp_path: Path,
) -> None:
    async with place(tmp_path, warm_pool_size=1) as here:
        await here.warm("import colorsys\ndef look(what: str) -> str:\n    return what\n")
        kept = json.loads(here.manifest.read_text())
        assert "colorsys" in kept["modules"]
        assert not {"app", "clipper", "clipper_runtime", "__main__"} & set(kept["modules"])
        assert "fractions" not in kept["modules"]
        other = "import fractions\ndef look(what: str) -> str:\n    return what\n"
        await here.launch(other, function=FunctionId("demo", "other", 1))
        await here.until(lambda: any(z.usable and "fractions" in z.modules for z in here.backend.zygotes.running))


async def test_a_bundle_with_a_module_that_is_preloaded_is_started_afresh(tmp_path: Path) -> None:
    async with place(tmp_path, warm_pool_size=1) as here:
        await here.warm("import colorsys\ndef look(what: str) -> str:\n    return what\n")
        app = "import colorsys\ndef look(what: str) -> str:\n    return colorsys.__file__\n"
        bundle = here.path / f"bundle-{abs(hash(app))}"
        bundle.mkdir()
        (bundle / "colorsys.py").write_text("")
        replica, recorder = await here.launch(app)
        assert not forked(replica)
        assert json.loads(await call(replica, recorder, {"what": ""})) == str(bundle / "colorsys.py")


HEAVY = """
    import os

    SETUP_IN = []

    class Look:
        def __init__(self):
            self.setup_in = os.getpid()
            self.data = bytearray(b"x") * 1000
            print("setting up")

        def __call__(self, what: str) -> list[int]:
            return [self.setup_in, os.getpid(), os.getppid()]
"""


async def test_snapshot_replicas_are_forks_of_one_setup(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        found = []
        for _ in range(3):
            replica, recorder = await here.launch(HEAVY, "app:Look", options={"snapshot": True})
            assert set(replica.ready.phases) == {"place", "fork"}
            found.append(json.loads(await call(replica, recorder, {"what": ""})))
            assert found[-1][1] == replica.details["pid"]
        assert len({setup for setup, _, _ in found}) == 1
        assert len({pid for _, pid, _ in found}) == 3
        assert {setup for setup, _, parent in found} == {parent for _, _, parent in found}
        assert here.lines.count("setting up") == 1


async def test_another_version_or_another_secret_gets_a_template_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipper_platform.backends.process.snapshots.SUPERSEDED_IDLE_S", 0.0)
    async with place(tmp_path) as here:
        setups = []
        for version, key in ((3, "a"), (3, "b"), (4, "b")):
            replica, recorder = await here.launch(
                HEAVY, "app:Look", options={"snapshot": True}, env={"KEY": key},
                function=FunctionId("demo", "obey", version),
            )  # fmt: skip
            setups.append(json.loads(await call(replica, recorder, {"what": ""}))[0])
            await replica.stop(10)
        assert len(set(setups)) == 3
        here.backend.zygotes.trim(pressed=False, budget_bytes=1 << 40)
        assert not has_ended(setups[2], 0)
        await here.until(lambda: has_ended(setups[0], 0) and has_ended(setups[1], 0))


async def test_a_spare_child_that_is_killed_is_replaced_and_costs_no_launch(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        replica, _ = await here.launch(HEAVY, "app:Look", options={"snapshot": True})
        spare = await here.until_spare()
        os.kill(spare, signal.SIGKILL)
        assert has_ended(spare)
        second, recorder = await here.launch(HEAVY, "app:Look", options={"snapshot": True})
        assert forked(second)
        assert json.loads(await call(second, recorder, {"what": ""}))[1] == second.details["pid"] != spare
        assert await here.until_spare() not in {spare, second.details["pid"], replica.details["pid"]}


FAULTS = """
    import mmap, os, resource

    class Look:
        def __init__(self):
            os.environ["SET_IN_SETUP"] = "yes"
            self.pages = mmap.mmap(-1, 1000 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self.pages.madvise(mmap.MADV_NOHUGEPAGE)
            self.pages.write(b"x" * len(self.pages))

        def __call__(self, what: str) -> list[str]:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for page in range(1000):
                self.pages[page * 4096] = 1
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            return [str(faults), os.environ.get("SET_IN_SETUP", ""), os.environ["CLIP_REPLICA"], os.environ["TMPDIR"]]
"""


async def test_later_replicas_of_a_snapshot_have_the_pages_that_the_first_one_wrote_to(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        faults, directories = [], set()
        for _ in range(3):
            replica, recorder = await here.launch(FAULTS, "app:Look", options={"snapshot": True})
            found = json.loads(await call(replica, recorder, {"what": ""}))
            faults.append(int(found[0]))
            assert found[1] == "yes", "what the setup did to the environment is part of the snapshot"
            assert found[2] == replica.id
            directories.add(found[3])
            await here.until_spare()
        assert len(directories) == 3
        assert faults[0] >= 1000
        assert faults[2] < 100


REFUSED = {
    "threads": (
        "import threading\nEVENT = threading.Event()",
        "threading.Thread(target=EVENT.wait, name='poller', daemon=True).start()",
        "poller",
    ),
    "processes": ("import subprocess, sys", "self.child = subprocess.Popen(['sleep', '60'])", "1 processes"),
    "sockets": ("import socket", "self.pair = socket.socketpair()", "must not share"),
    "files": ("import tempfile", "self.file = tempfile.TemporaryFile()", "open"),
    "gpu": (
        "import sys, types",
        "cuda = sys.modules['torch.cuda'] = types.ModuleType('torch.cuda'); cuda.is_initialized = lambda: True",
        "GPU context",
    ),
    "pipes": ("import os", "self.pipe = os.pipe()", "must not share"),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(REFUSED))
async def test_a_setup_that_cannot_be_forked_is_refused_in_words_and_started_afresh(tmp_path: Path, what: str) -> None:
    imports, act, words = REFUSED[what]
    app = (
        f"{imports}\nclass Look:\n    def __init__(self):\n        {act}\n"
        "    def __call__(self, what: str) -> str:\n        return what\n"
    )
    async with place(tmp_path) as here:
        for _ in range(2):
            replica, recorder = await here.launch(app, "app:Look", options={"snapshot": True})
            assert not forked(replica)
            assert await call(replica, recorder, {"what": "still served"}) == b'"still served"'
        refusals = [line for line in here.lines if line.startswith("no snapshot of ")]
        assert len(refusals) == 1, here.lines
        assert words in refusals[0]
        state = here.backend.snapshot(FunctionId("demo", "obey", 3))
        assert state is not None
        assert state.state == "refused"
        assert words in state.reason
        assert state.retry_s
        assert here.backend.zygotes.running == ()


async def test_an_async_function_is_refused_a_snapshot(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = "async def look(what: str) -> str:\n    return what\n"
        replica, recorder = await here.launch(app, options={"snapshot": True})
        assert not forked(replica)
        assert await call(replica, recorder, {"what": "x"}) == b'"x"'
        assert any("event loop" in line for line in here.lines)
        state = here.backend.snapshot(FunctionId("demo", "obey", 3))
        assert state is not None
        assert state.retry_s is None, "another attempt would end the same"


async def test_under_memory_pressure_idle_zygotes_go_first_and_replicas_stay(tmp_path: Path) -> None:
    async with place(tmp_path, warm_pool_size=1) as here:
        await here.warm()
        replica, recorder = await here.launch()
        (zygote,) = here.backend.zygotes.running
        here.backend.zygotes.trim(pressed=True, budget_bytes=1 << 40)
        assert not zygote.usable
        assert not forked((await here.launch())[0])
        assert (await look(replica, recorder))["pid"] == replica.details["pid"]
        end = await ended(replica, recorder, "exit")
        assert end.message == "exit status 7", "a retired zygote still tells how its children end"
        await here.until(lambda: has_ended(zygote.pid, 0))


async def test_closing_the_backend_leaves_no_process(tmp_path: Path) -> None:
    async with place(tmp_path, warm_pool_size=1) as here:
        await here.warm()
        replicas = [await here.launch(options={"snapshot": snapshot}) for snapshot in (False, True)]
        await here.until(lambda: all(zygote.spare_pid is not None for zygote in here.backend.zygotes.running))
        pids = {replica.details["pid"] for replica, _ in replicas} | {
            zygote.pid for zygote in here.backend.zygotes.running
        }
        for pid in list(pids):
            pids |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
        assert len(pids) >= 4
    assert all(has_ended(pid) for pid in pids if pid is not None)
