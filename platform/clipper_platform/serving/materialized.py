"""Answers that were computed beforehand, found by the digest of the arguments before anything else is done."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Protocol

import msgspec

from clipper.contract.accept import Accept
from clipper.contract.media_types import JSON, MSGPACK
from clipper_platform.clock import Clock
from clipper_platform.replicas.base import Target
from clipper_platform.serving.invocation import Invocation, State

__all__ = ["FRESH", "STALE", "AnswerTable", "FoundAnswer", "MaterializedAnswers"]

FRESH: Final = "materialized"
STALE: Final = "materialized-stale"


class FoundAnswer(Protocol):
    """`form`: "any", MessagePack of what JSON can say too; or the media type of the payload. `stale`: an earlier
    version computed it."""

    @property
    def payload(self) -> bytes: ...
    @property
    def form(self) -> str: ...
    @property
    def stale(self) -> bool: ...


class AnswerTable(Protocol):
    """Where the answers are. `find` does not wait: it is called in the event loop."""

    def has(self, path: str, version: int, identity: str) -> bool:
        """Whether there may be answers for this version of `project/function`."""
        ...

    def find(self, path: str, version: int, identity: str, digest: bytes, form: str, now: float) -> FoundAnswer | None:
        """An answer in this media type, or in one that it can be written from. `now`: Unix seconds."""
        ...


class MaterializedAnswers:
    """In front of the result cache and the queues, for functions that have such answers."""

    def __init__(self, table: AnswerTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock

    def has(self, target: Target) -> bool:
        return self._table.has(target.id.path, target.id.version, target.identity)

    def offer(self, invocation: Invocation) -> bool:
        """Answer it if its answer is there. Without one, nothing was done to the invocation."""
        form = _form(invocation.accept)
        queue = invocation.queue
        if not form or queue.materialized is None:
            return False
        digest = queue.materialized(invocation.content_type, invocation.body)
        if digest is None:
            return False
        id, identity = queue.target.id, queue.target.identity
        found = self._table.find(id.path, id.version, identity, digest, form, self._clock.time())
        if found is None:
            return False
        now = self._clock.monotonic()
        queue.answers.observe(now - invocation.arrived, now)
        queue.metrics.hit(now - invocation.arrived)
        invocation.cache_status = STALE if found.stale else FRESH
        invocation.payload, invocation.content_type_out = _written(found, form), form
        invocation.state = State.DONE
        invocation.finished = now
        invocation.on_done(invocation)
        return True


def _written(found: FoundAnswer, form: str) -> bytes:
    if found.form == form or form == MSGPACK:
        return found.payload
    return msgspec.json.encode(msgspec.msgpack.decode(found.payload))


@lru_cache(maxsize=1024)
def _form(accept: str) -> str:
    """JSON or MessagePack, whichever the caller takes rather; "" where it wants something else."""
    parsed = Accept.parse(accept)
    wanted = {form: parsed.preference(form) for form in (JSON, MSGPACK)}
    known = {form: preference for form, preference in wanted.items() if preference is not None}
    best = parsed.best
    if not known or (best is not None and max(known.values())[:2] < best[:2]):
        return ""
    return max(known, key=lambda form: (known[form], form == JSON))
