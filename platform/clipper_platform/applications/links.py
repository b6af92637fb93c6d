"""The functions that an application is linked to, as they can be asked now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container, Sequence

import msgspec

from clipper.contract.applications import LinkSpec
from clipper_platform.applications.linking import parameter_of
from clipper_platform.errors import ClipperError, InvalidSpec
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.serving.function_queue import FunctionQueue

__all__ = ["Link", "Links", "Wake"]

logger = logging.getLogger(__name__)

Wake = Callable[[str], Awaitable[None]]
"""Starts the version that a path names, where it can."""

# A pinned version that cannot be started is tried again after this time.
WAKE_PAUSE_S = 2.0


class Link:
    """One link. The function's parameter is looked up once for each of its queues."""

    __slots__ = ("_prefix", "_queue", "_refusal", "id", "spec")

    def __init__(self, spec: LinkSpec) -> None:
        self.spec = spec
        self.id = spec.id
        self._queue: FunctionQueue | None = None
        self._prefix = b""
        self._refusal: ClipperError | None = None

    def body(self, queue: FunctionQueue, input: bytes | msgspec.Raw) -> bytes:
        """The arguments with this input. Raises InvalidSpec where the version that answers now takes others."""
        if queue is not self._queue:
            self._read(queue)
        if self._refusal is not None:
            raise self._refusal
        return b"%b%b}" % (self._prefix, input)

    def _read(self, queue: FunctionQueue) -> None:
        self._refusal, schema = None, queue.schema
        try:
            if schema is not None and "parameters" in schema:
                name = parameter_of(self.spec, schema)
            elif self.spec.parameter is not None:
                name = self.spec.parameter
            else:
                raise InvalidSpec(f"{self.id} has not published its parameters yet")
            self._prefix = b"{%b:" % msgspec.json.encode(name)
        except InvalidSpec as refusal:
            self._refusal = refusal
        self._queue = queue if schema is not None else None


class Links:
    """The links of an application, in their order."""

    def __init__(self, specs: Sequence[LinkSpec], dispatcher: Dispatcher, wake: Wake | None) -> None:
        self.all = {spec.id: Link(spec) for spec in specs}
        self._dispatcher = dispatcher
        self._wake = wake
        self._waking: dict[str, asyncio.Task[None]] = {}

    def queue(self, link_id: str) -> FunctionQueue | None:
        """Where the link may be asked: None where its function is not deployed, or given up."""
        queue = self._dispatcher.routed.get(link_id)
        if queue is None:
            try:
                queue = self._dispatcher.resolve(link_id)
            except ClipperError:
                return None
        if queue.closed or (queue.no_capacity and not queue.endpoints.by_id):
            return None
        return queue

    def queues(self) -> dict[str, FunctionQueue]:
        """The queues of those that may be asked, by link."""
        return {id: queue for id in self.all if (queue := self.queue(id)) is not None}

    def wake(self, found: Container[str]) -> None:
        """Begin to start the pinned versions that are not among those found."""
        if self._wake is None:
            return
        for id, link in self.all.items():
            if id not in found and link.spec.version is not None and id not in self._waking:
                self._waking[id] = asyncio.create_task(self._wake_one(id, self._wake), name=f"wake {id}")

    async def woken(self) -> None:
        """Start the pinned versions that do not run; returns once that is done or has failed."""
        self.wake(())
        if tasks := list(self._waking.values()):
            await asyncio.wait(tasks)

    async def _wake_one(self, id: str, wake: Wake) -> None:
        try:
            await wake(id)
        except ClipperError as error:
            logger.warning("%s, which an application is linked to, does not start: %s", id, error)
            asyncio.get_running_loop().call_later(WAKE_PAUSE_S, self._waking.pop, id, None)
        else:
            del self._waking[id]

    def close(self) -> None:
        for task in self._waking.values():
            task.cancel()
