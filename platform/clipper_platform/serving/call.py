"""One invocation from inside the platform, awaited: smoke calls, applications, stored calls."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from clipper.contract.media_types import JSON, MSGPACK
from clipper.contract.wire import ResponseHead
from clipper_platform.errors import InvalidResult
from clipper_platform.serving.invocation import Invocation, OwningQueue
from clipper_platform.serving.item_array import join_items

__all__ = ["Answer", "Call", "Door"]

# A stream is collected in memory: as much as one request's body may have by default.
MAX_COLLECTED_BYTES: Final = 32 * 1024 * 1024


class Door(Protocol):
    """What a call needs of the dispatcher."""

    def invoke(self, invocation: Invocation) -> None: ...
    def cancel(self, invocation: Invocation) -> None: ...
    def credit(self, invocation: Invocation, n: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a function answered. The items of a stream are one array, in JSON or MessagePack."""

    payload: bytes
    content_type: str
    version: int
    cache_status: str  # hit, shared, miss, collapsed, materialized…; "" where no cache was asked
    default_reason: str  # error code for which the default output answered; "" where the function did
    has_head: bool = False  # the function set a status or headers


class Call:
    """One call: `answer` invokes and waits. Implements `StreamSink`."""

    def __init__(
        self,
        door: Door,
        queue: OwningQueue,
        body: bytes,
        *,
        content_type: str,
        accept: str,
        request_id: str,
        arrived: float,
        deadline: float,
        pinned: bool,
        background: bool = False,
    ) -> None:
        self._door = door
        self._items: list[tuple[bytes, str]] = []
        self._collected_bytes = 0
        self._written_by_function: str | None = None  # the type of an answer that began with a clipper.Response
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._invocation = Invocation(
            queue,
            request_id=request_id,
            content_type=content_type,
            accept=accept,
            body=body,
            arrived=arrived,
            deadline=deadline,
            on_done=self._finish,
            sink=self,
        )
        self._invocation.pinned = pinned
        if background:
            self._invocation.background = True
            self._invocation.flight = self._invocation  # as the leader of a flight: no caller's, so not counted as one

    def _finish(self, _: Invocation) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def chunk(self, payload: bytes, content_type: str, response: ResponseHead | None) -> None:
        if response is not None:
            self._written_by_function = content_type
        self._collected_bytes += len(payload)
        if self._collected_bytes > MAX_COLLECTED_BYTES:
            self._items.clear()
            self._door.cancel(self._invocation)
            return
        self._items.append((payload, content_type))
        self._door.credit(self._invocation, 1)

    async def answer(self, *, use_cache: bool) -> Answer:
        """Raises the invocation's error. A cancellation frees what the invocation holds."""
        invocation = self._invocation
        if use_cache:
            self._door.invoke(invocation)
        else:
            invocation.queue.submit(invocation)
        try:
            await self._done
        finally:
            self._door.cancel(invocation)  # nothing happens to one that is done
        if self._collected_bytes > MAX_COLLECTED_BYTES:
            raise InvalidResult(f"the stream's items are over {MAX_COLLECTED_BYTES} bytes together")
        if invocation.error is not None:
            raise invocation.error
        payload, content_type = self._output(invocation)
        return Answer(
            payload=payload,
            content_type=content_type,
            version=invocation.queue.target.id.version,
            cache_status=invocation.cache_status,
            default_reason=invocation.default_reason,
            has_head=invocation.response is not None or self._written_by_function is not None,
        )

    def _output(self, invocation: Invocation) -> tuple[bytes, str]:
        if invocation.default_reason:
            default = invocation.queue.spec.default_output
            if invocation.accept.startswith(MSGPACK):
                return msgspec.msgpack.encode(default), MSGPACK
            return msgspec.json.encode(default), JSON
        if self._written_by_function is not None:
            return b"".join(payload for payload, _ in self._items), self._written_by_function
        if self._items or invocation.queue.streaming:
            return join_items(self._items)
        return bytes(invocation.payload), invocation.content_type_out
