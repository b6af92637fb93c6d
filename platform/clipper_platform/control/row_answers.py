"""Runs one row of a materialization, and says in which forms its answer can be given later."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from clipper.contract.media_types import JSON, MSGPACK
from clipper_platform.control.spare_capacity import Looks
from clipper_platform.errors import (
    ClipperError,
    DeadlineExceeded,
    InvalidRequest,
    InvalidResult,
    NotAcceptable,
    NotFound,
)
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.serving.input_digest import InputDigest
from clipper_platform.store.materialized_records import ANY, RowResult
from clipper_platform.types import FunctionId

__all__ = ["RowRunner"]

# A row that is not answered in time so often fails: the first time its replica may have been starting.
TRIES: Final = 3
# Of errors whose retry may help, the one that is the row's own fault in the end.
_NO_BODY: Final = "this row is not JSON"


class RowRunner:
    """For one function version. `trouble`: why a row could not run, in words, until somebody takes note of it."""

    def __init__(self, dispatcher: Dispatcher, id: FunctionId) -> None:
        self.id = id
        self.looks = Looks()
        self.trouble = ""
        self._dispatcher = dispatcher
        self._digest: InputDigest | None = None
        self._late: dict[int, int] = {}  # by row: how often it was not answered in time

    async def run(self, number: int, body: bytes) -> RowResult | None:
        """The row's answer or its failure; None where it has to be tried again."""
        digest = self._digest_of(body)
        if digest is None:
            return RowResult(number=number, code=InvalidRequest.code, message=_NO_BODY)
        try:
            answers = await self._answers(body)
        except DeadlineExceeded as late:
            tries = self._late[number] = self._late.get(number, 0) + 1
            if tries < TRIES:
                self.trouble = late.message
                return None
            return RowResult(number=number, code=late.code, message=late.message)
        except ClipperError as error:
            if error.retryable:
                self.trouble = error.message
                return None
            return RowResult(number=number, code=error.code, message=error.message)
        return RowResult(number=number, digest=digest, answers=answers)

    def _digest_of(self, body: bytes) -> bytes | None:
        """Raises NotFound."""
        if self._digest is None:
            if (queue := self._dispatcher.queue(self.id)) is None:
                raise NotFound(f"{self.id} is not running")
            if queue.schema is None:  # its first replica starts: what it published before is not known
                return InputDigest(None)(JSON, body)
            self._digest = InputDigest(queue.schema)
        return self._digest(JSON, body)

    async def _answers(self, body: bytes) -> dict[str, bytes]:
        """By form. What only MessagePack or only JSON can say, or each in its own way, is asked for in both."""
        try:
            payload = await self._call(body, MSGPACK)
        except InvalidResult:
            return {JSON: await self._call(body, JSON)}
        if _json_says_the_same(payload):
            return {ANY: payload}
        try:
            return {MSGPACK: payload, JSON: await self._call(body, JSON)}
        except (InvalidResult, NotAcceptable):
            return {MSGPACK: payload}

    async def _call(self, body: bytes, accept: str) -> bytes:
        answer = await self._dispatcher.call(
            self.id, body, content_type=JSON, accept=accept, use_cache=False, background=True
        )
        if answer.default_reason:
            raise DeadlineExceeded(f"only the default output answered: {answer.default_reason}")
        if answer.has_head:
            raise InvalidResult("the function sets the status or headers of its answer, which are not kept")
        if answer.content_type != accept:
            raise InvalidResult(f"the answer is {answer.content_type}, which cannot be kept")
        return answer.payload


def _json_says_the_same(payload: bytes) -> bool:
    """Whether JSON has a form of every value in this MessagePack, the one that a replica would write."""
    try:
        text = msgspec.json.encode(value := msgspec.msgpack.decode(payload))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        return False  # an array, say
    return b"null" not in text or _finite(value)  # msgspec writes NaN as null, a replica refuses it


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, list) else True
