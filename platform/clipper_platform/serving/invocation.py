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
    """Mutable: there is one for each request, and it carries its own answer.

    Times are the clock's monotonic seconds. `on_done` is called exactly once, from the event loop, when either
    `error` or `payload` is set; whoever made the invocation may call `Lane.cancel` before that. Defaults stand on the
    class, so that making one sets only what differs: there are tens of thousands a second.
    """

    state = State.NEW
    weight = 1
    bucket = 0  # of the deadline wheel; 0 when not on it
    attempts = 0  # replicas lost under it
    blamed = 0  # replicas lost while it was what they were running
    chunks = 0  # sent to the sink so far; a stream that began is not retried
    item = 0  # id on the wire while RUNNING
    replica: Any = None  # the replica it runs on
    dispatched = 0.0
    finished = 0.0
    exec_s = 0.0
    cold: Mapping[str, float] | None = None  # phases of the start that it waited for, in seconds
    error: ClipperError | None = None
    payload: bytes | memoryview = b""
    content_type_out = ""
    default_reason = ""
    cache_key: bytes | None = None
    cache_status = ""  # hit, shared, miss, collapsed; empty when the function has no cache
    flight: Any = None
    hedge: tuple[Any, int] | None = None  # the replica that has a second copy, and its id there

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
        self.arrived = self.queued = arrived
        self.deadline = deadline
        self.on_done = on_done
        self.sink = sink

    @property
    def solo(self) -> bool:
        """It was in a batch that ended a replica: it runs alone from now on, so that it alone is to blame."""
        return self.blamed > 0

    def __repr__(self) -> str:
        return f"<Invocation {self.request_id} of {self.lane.target.id} {self.state.name}>"
