"""One request on its way through the data plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from clipper_platform.errors import ClipperError

if TYPE_CHECKING:
    from clipper_platform.serving.lane import Lane

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
    """Mutable and slotted: there is one for each request, and it carries its own answer.

    Times are the clock's monotonic seconds. `on_done` is called exactly once, from the event loop, when either
    `error` or `payload` is set; whoever made the invocation may call `Lane.cancel` before that.
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
        "lane",
        "on_done",
        "payload",
        "queued",
        "replica",
        "request_id",
        "sink",
        "state",
        "weight",
    )

    def __init__(
        self,
        lane: Lane,
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
        self.lane = lane
        self.request_id = request_id
        self.content_type = content_type
        self.accept = accept
        self.body = body
        self.arrived = arrived
        self.deadline = deadline
        self.on_done = on_done
        self.sink = sink
        self.state = State.NEW
        self.weight = 1
        self.bucket = 0  # of the deadline wheel; 0 when not on it
        self.attempts = 0  # replicas lost under it
        self.blamed = 0  # replicas lost while it was what they were running
        self.chunks = 0  # sent to the sink so far; a stream that began is not retried
        self.item = 0  # id on the wire while RUNNING
        self.replica: Any = None  # the replica it runs on
        self.queued = arrived
        self.dispatched = 0.0
        self.finished = 0.0
        self.exec_s = 0.0
        self.cold: Mapping[str, float] | None = None  # phases of the start that it waited for, in seconds
        self.error: ClipperError | None = None
        self.payload: bytes | memoryview = b""
        self.content_type_out = ""
        self.default_reason = ""
        self.cache_key: bytes | None = None
        self.cache_status = ""  # hit, miss, collapsed; empty when the function has no cache
        self.flight: Any = None
        self.hedge: tuple[Any, int] | None = None  # the replica that has a second copy, and its id there

    @property
    def solo(self) -> bool:
        """It was in a batch that ended a replica: it runs alone from now on, so that it alone is to blame."""
        return self.blamed > 0

    def __repr__(self) -> str:
        return f"<Invocation {self.request_id} of {self.lane.target.id} {self.state.name}>"
