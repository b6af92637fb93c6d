"""The step between HTTP and the dispatcher: which queue a request may use, and the invocation that it becomes.

The Starlette endpoint and the fast path share it. Neither decodes the body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from clipper.contract.media_types import JSON
from clipper_platform.clock import Clock
from clipper_platform.errors import NotFound
from clipper_platform.gateway.http.request_head import RequestHead
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.serving.function_queue import FunctionQueue
from clipper_platform.serving.invocation import Invocation, StreamSink

__all__ = ["Authorize", "InvokeRequest", "InvokeService"]

Authorize = Callable[[str | None, bool], None]
"""(Authorization header, whether the function is public): returns, or raises Unauthenticated or Forbidden."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvokeRequest:
    """A request that arrived as a whole. `pinned`: it names a version. `arrived`: monotonic seconds."""

    queue: FunctionQueue
    pinned: bool
    head: RequestHead
    id: str
    body: bytes
    arrived: float


class InvokeService:
    """`open_invoke`: every invocation is allowed, so `authorize` is not called.

    `wake` starts the version that a path names, where it can; without it, a version that does not run is not found.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        clock: Clock,
        authorize: Authorize,
        max_body_bytes: int,
        open_invoke: bool = False,
        wake: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self.clock = clock
        self.max_body_bytes = max_body_bytes
        self.open_invoke = open_invoke
        self._authorize = authorize
        self._wake = wake

    def queue(self, path: str, head: RequestHead) -> FunctionQueue:
        """The queue of `project/function[@version]`, if the caller may use it. Raises the refusal."""
        queue = self.dispatcher.routed.get(path)
        if queue is not None and self.open_invoke:
            return queue
        try:
            queue = self.dispatcher.resolve(path)
        except NotFound:
            self._authorize(head.authorization, False)  # without a key, nobody learns which functions exist
            raise
        if not self.open_invoke:
            self._authorize(head.authorization, queue.spec.public)
        return queue

    async def find(self, path: str, head: RequestHead) -> FunctionQueue:
        """As `queue`, but first starts a version that does not run."""
        try:
            return self.queue(path, head)
        except NotFound:
            if self._wake is None:
                raise
        await self._wake(path)
        return self.queue(path, head)

    def begin(
        self, request: InvokeRequest, on_done: Callable[[Invocation], Any], sink: StreamSink | None = None
    ) -> Invocation:
        """Pass an invocation to the dispatcher, which calls `on_done` once. Raises the refusal."""
        queue, head = request.queue, request.head
        invocation = Invocation(
            queue,
            request_id=request.id,
            content_type=head.content_type,
            accept=JSON if head.stream_type else head.accept,  # of a stream: the form of each item
            body=request.body,
            arrived=request.arrived,
            deadline=request.arrived + head.timeout_s(queue.timeout_s),
            on_done=on_done,
            sink=sink,
        )
        invocation.pinned = request.pinned
        self.dispatcher.invoke(invocation)
        return invocation
