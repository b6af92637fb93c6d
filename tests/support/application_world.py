"""Applications over scripted models: each model is a coroutine function of its arguments, in a replica in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec

from clipper.contract import wire
from clipper_platform.applications.applications import Applications
from clipper_platform.applications.feedback import Acknowledgement
from clipper_platform.applications.links import Wake
from clipper_platform.applications.live import LiveApplication
from clipper_platform.applications.requests import Request, begin_request
from clipper_platform.backends.base import LaunchSpec
from clipper_platform.errors import ClipperError
from clipper_platform.store.base import MetadataStore
from tests.support.applications import Functions, applications_over, spec
from tests.support.memory_backend import Behaviour, InMemoryBackend, InMemoryReplica
from tests.support.memory_store import MemoryStore
from tests.support.serving import Harness, harness, target

__all__ = ["Model", "World", "answering", "failing", "taking", "world"]

Model = Callable[[dict[str, Any]], Awaitable[Any]]

NUMBERS = {"type": "array", "items": {"type": "number"}}


def answering(value: Any) -> Model:
    async def model(arguments: dict[str, Any]) -> Any:
        return value

    return model


def taking(seconds: float, value: Any) -> Model:
    async def model(arguments: dict[str, Any]) -> Any:
        await asyncio.sleep(seconds)
        return value

    return model


def failing() -> Model:
    async def model(arguments: dict[str, Any]) -> Any:
        raise ValueError("no")

    return model


def behaviour_of(model: Model) -> Behaviour:
    async def one(item: wire.Item, payload: memoryview) -> tuple[wire.Outcome, bytes]:
        try:
            value = await model(msgspec.json.decode(payload))
            response = value if isinstance(value, wire.ResponseHead) else None
            body = msgspec.json.encode(None if response is not None else value)
            return wire.Outcome(item.id, wire.Status.OK, "application/json", len(body), response=response), body
        except ValueError as error:
            kind = type(error).__name__
            return wire.Outcome(item.id, wire.Status.FUNCTION_ERROR, error_type=kind, message=str(error)), b""

    async def behave(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        found = await asyncio.gather(*map(one, invoke.items, payloads))
        return wire.Result(invoke.batch, [outcome for outcome, _ in found]), [body for _, body in found]

    return behave


class ModelsBackend(InMemoryBackend):
    """Launches what `models` has under the function's name."""

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Model] = {}
        self.schemas: dict[str, Mapping[str, Any]] = {}

    async def launch(self, spec: LaunchSpec) -> InMemoryReplica:
        name = spec.function.function
        schema = self.schemas.get(name, parameters(x=NUMBERS))
        ready = wire.Ready(schema=schema, batched=False, streaming=False, concurrency=64, phases={})
        replica = InMemoryReplica(spec, behaviour_of(self.models[name]), ready)
        self.replicas.append(replica)
        return replica


def parameters(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"parameters": {"properties": properties, "required": list(properties)}}


class Answered(NamedTuple):
    body: bytes
    reasons: Sequence[str]
    error: ClipperError | None


class World:
    def __init__(self, h: Harness, backend: ModelsBackend, store: MetadataStore, wake: Wake | None) -> None:
        self.harness = h
        self.backend = backend
        self.store = store
        self.functions = Functions(h.dispatcher)
        self.applications = self.another(wake)
        self._ids = 0

    def another(self, wake: Wake | None = None) -> Applications:
        """Another platform's applications on the same store, or this one's after a restart."""
        h = self.harness
        return applications_over(
            h.dispatcher, clock=h.clock, metrics=h.metrics, store=self.store, functions=self.functions, wake=wake
        )

    async def deploy(self, version: int = 1, /, *, replicas: int = 1, **models: Model) -> None:
        """Deploy each model as a function of the project "p", or a version of it."""
        self.backend.models |= models
        for name in models:
            await self.harness.replica_sets.start(target(name, version=version), replicas=replicas)
        self.harness.dispatcher.set_route("p", version)

    async def create(self, **table: Any) -> LiveApplication:
        """An application "sums" of doubles."""
        await self.applications.catalog.create(spec(**table))
        return self.applications.get("sums")

    def begin(self, body: Any, timeout_s: float = 60.0) -> tuple[Request, asyncio.Future[Answered]]:
        done: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()

        def finish(*answer: Any) -> None:
            done.set_result(Answered(*answer))

        self._ids += 1
        now = self.harness.clock.monotonic()
        encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
        live = self.applications.get("sums")
        return begin_request(live, encoded, f"r{self._ids}", now, timeout_s, finish), done

    async def ask(self, body: Any, timeout_s: float = 60.0) -> dict[str, Any]:
        """The answer to a body of `/sums/predict`. Raises what refuses it."""
        _, done = self.begin(body, timeout_s)
        answered = await done
        if answered.error is not None:
            raise answered.error
        answer: dict[str, Any] = msgspec.json.decode(answered.body)
        return answer

    async def query(self, *input: float, **more: Any) -> dict[str, Any]:
        return await self.ask({"input": input, **more})

    async def update(self, **body: Any) -> Acknowledgement:
        return await self.applications.update("sums", msgspec.json.encode(body))

    async def pairs(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(pair.record) async for pair in self.applications.pairs("sums", 0.0)]


@asynccontextmanager
async def world(store: MetadataStore | None = None, wake: Wake | None = None) -> AsyncIterator[World]:
    backend = ModelsBackend()
    async with harness(backend) as h:
        made = World(h, backend, store or MemoryStore(h.clock), wake)
        await made.applications.open()
        yield made
        await made.applications.close()
