"""One request on its way through the data plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, Protocol

from clipper.contract.spec import FunctionSpec
from clipper.contract.wire import INITIAL_CREDIT, ResponseHead
from clipper_platform.core.windows import LatencyHistogram
from clipper_platform.errors import ClipperError, QueueFull
from clipper_platform.replicas.base import Target
from clipper_platform.serving.function_metrics import FunctionMetrics
from clipper_platform.serving.input_digest import InputDigest

__all__ = ["Invocation", "OwningQueue", "State", "StreamSink"]


class State(IntEnum):
    NEW = 0
    QUEUED = 1
    RUNNING = 2
    FOLLOWING = 3  # waits for another invocation's answer: a flight of the cache
    DONE = 4


class StreamSink(Protocol):
    """Where a streaming invocation's chunks go. `Dispatcher.credit` lets the replica send more once the consumer has
    taken some."""

    def chunk(self, payload: bytes, content_type: str, response: ResponseHead | None) -> None:
        """`response`, of the first chunk: all of them are one answer with this head."""
        ...


class OwningQueue(Protocol):
    """The queue of an invocation's function, as the cache, the gateway and callers use it."""

    target: Target
    spec: FunctionSpec
    name: str  # "project/function@version"
    cached_as: str  # under which results are kept: the name, and the version's identity
    timeout_s: float
    cached: bool  # the result cache stands before it
    materialized: InputDigest | None  # where some answers were computed beforehand
    streaming: bool | None  # None until a replica was ready
    closed: str  # why nothing is admitted any more
    answers: LatencyHistogram
    metrics: FunctionMetrics
    cache_hits: int
    cache_misses: int

    def submit(self, invocation: Invocation) -> None: ...
    def offer(self, invocation: Invocation) -> bool: ...
    def cancel(self, invocation: Invocation) -> None: ...
    def queue_full(self) -> QueueFull: ...


class Invocation:
    """Mutable: there is one for each request, and it carries its own answer.

    Times are the clock's monotonic seconds. `on_done` is called exactly once, from the event loop, when either
    `error` or `payload` is set; the caller may call `Dispatcher.cancel` before that. There are tens of thousands a
    second: hence slots, all of them set at the beginning, which makes each access cheap.
    """

    __slots__ = (
        "accept",
        "allowed_chunks",
        "arrived",
        "attempts",
        "background",
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
        "endpoint",
        "error",
        "exec_s",
        "finished",
        "flight",
        "hedge",
        "item",
        "on_done",
        "passes",
        "payload",
        "pinned",
        "queue",
        "queued",
        "request_id",
        "requeues",
        "response",
        "sink",
        "state",
        "weight",
        "withdrawals",
        "withdrawn",
    )  # fmt: skip

    queue: OwningQueue
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
    pinned: bool  # its caller asked for this version: no other may answer
    bucket: int  # of the deadline wheel; 0 when not on it
    background: bool  # nobody waits for it, so that it counts neither as load nor in latencies
    attempts: int  # replicas that were lost while they had it
    blamed: int  # replicas that crashed or hung while they ran it
    passes: int  # answers of replicas that they did not run it
    requeues: int  # times that it went back to the queue because its replica was lost or passed over it
    withdrawals: int  # times that it went back to the queue because it waited behind a long call
    withdrawn: bool  # its replica was asked for it back, in case that it has not begun
    allowed_chunks: int  # that its replica may still send
    chunks: int  # sent to the sink so far; a stream that began is not retried
    item: int  # id on the wire while RUNNING
    endpoint: Any  # the replica it runs on
    dispatched: float
    finished: float
    exec_s: float
    cold: Mapping[str, float] | None  # phases of the start that it waited for, in seconds
    error: ClipperError | None
    payload: bytes | memoryview
    content_type_out: str
    response: ResponseHead | None  # what the function said about its answer
    default_reason: str
    cache_key: bytes | None
    cache_status: str  # hit, shared, miss, collapsed, materialized, materialized-stale; empty without a cache
    flight: Any  # of the cache: what it follows, or itself where it leads one
    hedge: tuple[Any, int] | None  # the endpoint that has a second copy, and the item's id there

    def __init__(
        self,
        queue: OwningQueue,
        request_id: str,
        content_type: str,
        accept: str,
        body: bytes | memoryview,
        arrived: float,
        deadline: float,
        on_done: Callable[[Invocation], Any],
        sink: StreamSink | None = None,
    ) -> None:
        self.queue = queue
        self.request_id = request_id
        self.content_type = content_type
        self.accept = accept
        self.body = body
        self.arrived = self.queued = arrived
        self.deadline = deadline
        self.on_done = on_done
        self.sink = sink
        self.state = State.NEW
        self.weight = 1
        self.allowed_chunks = INITIAL_CREDIT
        self.bucket = self.attempts = self.blamed = self.passes = self.requeues = self.chunks = self.item = 0
        self.dispatched = self.finished = self.exec_s = 0.0
        self.payload = b""
        self.content_type_out = self.default_reason = self.cache_status = ""
        self.withdrawals = 0
        self.withdrawn = self.pinned = self.background = False
        self.endpoint = self.cold = self.error = self.cache_key = self.flight = self.hedge = self.response = None

    def __repr__(self) -> str:
        return f"<Invocation {self.request_id} of {self.queue.target.id} {self.state.name}>"
