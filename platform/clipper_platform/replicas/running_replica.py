"""A ready replica as its set sees it: health and exit. What it does for invocations is serving's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clipper.contract import wire
from clipper_platform.backends.base import Exit, Replica
from clipper_platform.replicas.base import ResultListener

__all__ = ["RunningReplica"]


class RunningReplica:
    """Implements `ChannelListener`. Results and chunks are serving's bound methods, so that they reach the endpoint
    without a call in between."""

    __slots__ = ("_exited", "hung", "id", "on_chunk", "on_result", "replica", "silent_pings", "started_at", "verdict")

    on_result: Callable[[wire.Result, Sequence[memoryview]], None]
    on_chunk: Callable[[wire.Chunk, memoryview], None]

    def __init__(
        self,
        replica: Replica,
        results: ResultListener,
        *,
        started_at: float,
        exited: Callable[[RunningReplica, Exit], None],
    ) -> None:
        self.id = str(replica.id)
        self.replica = replica
        self.started_at = started_at  # Unix seconds
        self.silent_pings = 0  # sent since the last answer
        self.hung = False  # given up because it answered no health checks
        self.verdict = ""  # why it was given up
        self.on_result = results.on_result
        self.on_chunk = results.on_chunk
        self._exited = exited

    def ping(self) -> None:
        self.silent_pings += 1
        self.replica.channel.send_ping(self.silent_pings)

    def on_pong(self, pong: wire.Pong) -> None:
        self.silent_pings = 0

    def on_exit(self, exit: Exit) -> None:
        self._exited(self, exit)
