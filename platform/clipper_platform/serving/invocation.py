"""One request on its way through the data plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from clipper_platform.errors import ClipperError

if TYPE_CHECKING:
    from clipper_platform.serving.function_queue import FunctionQueue

__all__ = ["Invocation", "State", "StreamSink"]


class State(IntEnum):
    NEW = 0
    QUEUED = 1
    RUNNING = 2
    FOLLOWING = 3  # waits for another invocation's answer: a flight of the cache
    DONE = 4


class StreamSink(Protocol):
    """Where a streaming invocation's chunks go. `chunk` returns nothing; the sink calls `Invocation.credit` when its
    consumer has taken chunks, which is what lets the replica send more."""

    def chunk(self, payload: bytes, content_type: str) -> None: ...


class Invocation:
    """Mutable: there is one for each request, and it carries its own answer.

    Times are the clock's monotonic seconds. `on_done` is called exactly once, from the event loop, when either
    `error` or `payload` is set; whoever made the invocation may call `FunctionQueue.cancel` before that. There are tens
    of thousands a second: hence slots, all of them set at the beginning, which makes each access cheap.
    """

    __slots__ = (
        "accept",
        "arrived",
        "attempts",
        "blamed",
        "body",
        "bucket",
        "cache_key",
        "cache_status",
        "chunks",
        "cold",
        "content_type",
        "content_type_out",
        "deadline",
        "default_reason",
        "dispatched",
        "error",
        "exec_s",
        "finished",
        "flight",
        "hedge",
        "item",
        "on_done",
        "payload",
        "queue",
        "queued",
        "replica",
        "request_id",
        "sink",
        "state",
        "weight",
    )  # fmt: skip

    queue: FunctionQueue
    request_id: str
    content_type: str
    accept: str
    body: bytes | memoryview
    arrived: float
    queued: float
    deadline: float
    on_done: Callable[[Invocation], Any]
    sink: StreamSink | None
    state: State
    weight: int
    bucket: int  # of the deadline wheel; 0 when not on it
    attempts: int  # replicas lost under it
    blamed: int  # replicas lost while it was what they were running
    chunks: int  # sent to the sink so far; a stream that began is not retried
    item: int  # id on the wire while RUNNING
    replica: Any  # the replica it runs on
    dispatched: float
    finished: float
    exec_s: float
    cold: Mapping[str, float] | None  # phases of the start that it waited for, in seconds
    error: ClipperError | None
    payload: bytes | memoryview
    content_type_out: str
    default_reason: str
    cache_key: bytes | None
    cache_status: str  # hit, shared, miss, collapsed; empty when the function has no cache
    flight: Any
    hedge: tuple[Any, int] | None  # the replica that has a second copy, and its id there

    def __init__(
        self,
        queue: FunctionQueue,
        *,
        request_id: str,
        content_type: str,
        accept: str,
        body: bytes | memoryview,
        arrived: float,
        deadline: float,
        on_done: Callable[[Invocation], Any],
        sink: StreamSink | None = None,
    ) -> None:
        self.begin_life(queue, request_id, content_type, accept, arrived)
        self.body = body
        self.deadline = deadline
        self.on_done = on_done
        self.sink = sink

    def begin_life(self, queue: FunctionQueue, request_id: str, content_type: str, accept: str, arrived: float) -> None:
        """Set what a request's first bytes tell, and everything that an answer will."""
        self.queue = queue
        self.request_id = request_id
        self.content_type = content_type
        self.accept = accept
        self.arrived = self.queued = arrived
        self.state = State.NEW
        self.weight = 1
        self.bucket = self.attempts = self.blamed = self.chunks = self.item = 0
        self.dispatched = self.finished = self.exec_s = 0.0
        self.body = self.payload = b""
        self.content_type_out = self.default_reason = self.cache_status = ""
        self.replica = self.cold = self.error = self.cache_key = self.flight = self.hedge = self.sink = None

    @property
    def solo(self) -> bool:
        """It was in a batch that ended a replica: it runs alone from now on, so that it alone is to blame."""
        return self.blamed > 0

    def __repr__(self) -> str:
        return f"<Invocation {self.request_id} of {self.queue.target.id} {self.state.name}>"
