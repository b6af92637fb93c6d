"""What is kept about answers that are computed beforehand: jobs, their rows, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

__all__ = ["ANY", "FoundAnswer", "Job", "JobState", "RowFailure", "RowResult", "StalePolicy"]

ANY: Final = "any"
"""The form of an answer that can be written as JSON and as MessagePack; it is kept as MessagePack."""

JobState = Literal["receiving", "running", "done", "stopped"]
StalePolicy = Literal["serve", "miss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`path`: project/function. `identity`: of the version, since a store that lost data gives a number out again.
    `source`: what its rows come from, so that a client that begins again goes on with the same job. `total`: None until
    all rows have come. Times in Unix seconds."""

    id: str
    path: str
    version: int
    identity: str
    source: str
    ttl_s: float | None
    stale: StalePolicy
    state: JobState
    total: int | None
    received: int
    done: int
    failed: int
    created_at: float
    ended_at: float | None
    reason: str  # why it was stopped

    @property
    def open(self) -> bool:
        return self.state in ("receiving", "running")

    @property
    def pending(self) -> int:
        return self.received - self.done - self.failed


class FoundAnswer(NamedTuple):
    """`form`: ANY, or the media type of the payload. `stale`: an earlier version computed it."""

    payload: bytes
    form: str
    stale: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """What one row came to: its answer under the digest of its arguments, or an error.

    `answers`: payload by form. The form is a media type, or ANY for MessagePack of what JSON can say too.
    """

    number: int
    digest: bytes = b""
    answers: Mapping[str, bytes] = field(default_factory=dict)
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFailure:
    """`number` counts from 0."""

    number: int
    code: str
    message: str
