"""What a platform with many functions takes: for a restart, for one more deploy, and for looking at it.

    python -m tests.benchmarks.many_functions [--functions 10000]

A home is written as so many deploys leave it: projects with a function each, in a real SQLite store, and their bundles.
The platform's own wiring and gateway are opened over it as at a start, on replicas in memory. Each line shows the time
and the processor time of a step, and the longest time that the event loop was held meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvloop

from clipper.contract.manifest import Manifest
from clipper.contract.spec import EnvironmentSpec, FunctionSpec
from clipper.packaging import bundle_files
from clipper_platform.clock import SystemClock
from clipper_platform.environments.base import BuildProgress
from clipper_platform.gateway.lifecycle import Lifecycle
from clipper_platform.gateway.origin_policy import OriginPolicy
from clipper_platform.metrics import Metrics
from clipper_platform.settings import Settings
from clipper_platform.store import records
from clipper_platform.store.artifacts import ArtifactStore
from clipper_platform.store.base import Project, Route, Version
from clipper_platform.store.sqlite import SqliteStore
from clipper_platform.tuning import tune
from clipper_platform.types import EnvironmentId
from clipper_platform.wiring import ConcreteParts, Parts, make_server
from tests.support.memory_backend import InMemoryBackend

DEPLOYS, DELETES, CHANGES = 20, 5, 20
MOST_S = 600.0
TICK_S = 0.001
BUNDLE = bundle_files({"app.py": b"def classify(text: str) -> str:\n    return text\n"})
SCHEMA = {"parameters": {"text": {"type": "string"}}, "returns": {"type": "string"}, "streaming": False}


class Built:
    """An environment builder whose environments all exist."""

    def identify(self, spec: EnvironmentSpec, files: Path | None = None) -> EnvironmentId:
        return EnvironmentId("env")

    async def resolve(self, spec: EnvironmentSpec) -> dict[str, str]:
        return {}

    def packages(self, environment: EnvironmentId) -> tuple[str, ...]:
        return ()

    async def build(
        self, spec: EnvironmentSpec, progress: BuildProgress, files: Path | None = None, meanings: object = None
    ) -> EnvironmentId:
        return self.identify(spec)

    def pythons(self) -> Sequence[str]:
        return ("3.11",)

    async def remove(self, environment: EnvironmentId) -> None: ...


class Watch:
    """Looks at the event loop every millisecond."""

    def __init__(self) -> None:
        self.held_s = 0.0

    async def run(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(TICK_S)
            self.held_s = max(self.held_s, time.perf_counter() - before - TICK_S)

    @asynccontextmanager
    async def step(self, name: str, times: int = 1) -> AsyncIterator[None]:
        """Print a line on what is done inside."""
        self.held_s = 0.0
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        wall, cpu = (time.perf_counter() - wall) / times, (time.process_time() - cpu) / times
        await asyncio.sleep(2 * TICK_S)  # until the watch had its turn
        print(f"{name:44}{wall * 1000:10.1f} ms{cpu * 1000:10.1f} ms{self.held_s * 1000:10.1f} ms", flush=True)


def name_of(number: int) -> str:
    return f"project-{number:05}"


def manifest_of(number: int) -> Manifest:
    spec = FunctionSpec.parse("classify", "app:classify", {"max_batch_size": 16})
    return Manifest(project=name_of(number), bundle=BUNDLE.digest, environment=EnvironmentSpec(), functions=(spec,))


async def pieces() -> AsyncIterator[bytes]:
    yield BUNDLE.data


async def write_home(home: Path, functions: int) -> None:
    """What so many deploys of the same files leave behind."""
    artifacts = ArtifactStore(home / "bundles")
    await artifacts.open()
    await artifacts.put(BUNDLE.digest, pieces())
    await artifacts.close()
    store = SqliteStore(home / "clipper.db")
    await store.open()
    await store.close()
    # Not by the store's methods, each of which waits for the disk.
    with sqlite3.connect(store.path) as db:
        for number in range(functions):
            manifest = manifest_of(number)
            name, at = manifest.project, 1.7e9 + number
            version = Version(
                project=name, number=1, created_at=at, manifest=manifest.to_dict(), bundle=manifest.bundle,
                environment="env", schemas={"classify": SCHEMA}, state="ready",
            )  # fmt: skip
            route = Route(project=name, version=1, revision=1, updated_at=at)
            db.execute("INSERT INTO projects VALUES (?, ?)", (name, records.encode(Project(name=name, created_at=at))))
            db.execute("INSERT INTO counters VALUES (?, 'version', 1)", (name,))
            db.execute("INSERT INTO versions VALUES (?, 1, ?)", (name, records.encode(version)))
            db.execute("INSERT INTO routes VALUES (?, ?)", (name, records.encode(route)))
    db.close()


async def use(watch: Watch, parts: Parts, client: httpx.AsyncClient, functions: int) -> None:
    """What users do with the platform."""
    async with watch.step(f"deploying one project more (of {DEPLOYS})", DEPLOYS):
        for number in range(functions, functions + DEPLOYS):
            deployment = parts.deployer.submit(name_of(number), manifest_of(number).to_dict())
            await deployment.wait()
            if deployment.state != "succeeded":
                raise RuntimeError(f"a deploy ended {deployment.state}: {deployment.error}")
    async with watch.step(f"a change of a route (of {CHANGES})", CHANGES):
        for _ in range(CHANGES):
            parts.dispatcher.set_route(name_of(0), 1)
    async with watch.step("GET /api/v1/projects"):
        listed = await client.get("/api/v1/projects")
    found = len(listed.raise_for_status().json()["projects"])
    if found != functions + DEPLOYS:
        raise RuntimeError(f"{found} projects were listed")
    async with watch.step("GET /metrics"):
        scraped = await client.get("/metrics")
    print(f"bytes: {len(listed.content)} of projects, {len(scraped.raise_for_status().content)} of metrics")
    async with watch.step(f"deleting a project (of {DELETES})", DELETES):
        for number in range(DELETES):
            (await client.delete(f"/api/v1/projects/{name_of(number)}")).raise_for_status()


async def measure(home: Path, functions: int) -> None:
    await write_home(home, functions)
    settings, clock, metrics, lifecycle = Settings(home=home), SystemClock(), Metrics(), Lifecycle()
    backend, watch = InMemoryBackend(), Watch()
    store = SqliteStore(home / "clipper.db")
    concrete = ConcreteParts(store=store, environments=Built(), backend=lambda *_: backend, shared_results=None)
    print(f"{f'{functions} functions':44}{'wall':>13}{'processor':>13}{'loop held':>13}")
    watching = asyncio.create_task(watch.run())
    gc.collect()
    memory = psutil.Process().memory_info().rss
    async with AsyncExitStack() as stack:
        async with watch.step("opening the platform"):
            parts = await Parts(stack, settings, clock=clock, metrics=metrics).open(concrete)
        server = make_server(
            parts, origin_policy=OriginPolicy("127.0.0.1"), lifecycle=lifecycle, started_at=clock.time()
        )
        tune()  # while the routes are being restored, as in the platform
        async with watch.step("restoring every route"):
            await parts.deployer.restore(MOST_S)
            while len(parts.dispatcher.queues()) < functions:
                await asyncio.sleep(TICK_S)
        lifecycle.ready()
        await asyncio.sleep(2)  # the autoscaler has looked at everything once
        grown = psutil.Process().memory_info().rss - memory
        print(f"memory per function: {grown / functions / 1024:.1f} KiB; replicas started: {len(backend.launches)}")
        async with watch.step("a second of rest"):
            await asyncio.sleep(1)
        app: Any = server.config.app
        key = (home / "api_key").read_text().strip()
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8700", timeout=MOST_S,
            headers={"authorization": f"Bearer {key}"},
        ) as client:  # fmt: skip
            await use(watch, parts, client, functions)
        async with watch.step("closing"):
            await stack.aclose()
    watching.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--functions", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(Path(directory), options.functions))


if __name__ == "__main__":
    main()
