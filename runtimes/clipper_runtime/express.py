"""The short way from a readable socket to a reply, for the batch that nearly every batch is.

Nearly every one: a single whole `Invoke` frame, JSON in and JSON out, a plain function that returns what it should.
`Express.turn` reads it, calls the function and writes the `Result` in one stretch of code with few Python calls:
one `recv` and one `send`, nothing shared with another thread but two uncontended locks. Whatever is different in any
way goes the general way (`Channel.hand_out`, `Executor`), from the point where it turned out to be different; user code
is never called twice on that account.

What it buys: a batch takes less than half as many Python calls as on the general way. A loop in a benchmark shows
little of it: it is the first run after a wait, with cold caches and branch predictors, that makes every function and
every line of code touched on the way expensive. So this code is longer than it need be, to call less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any, Final, Protocol

from clipper.contract.media_types import JSON
from clipper.contract.wire import Frame, Invoke, Item, encode_value, encode_values, read_invoke
from clipper_runtime.channel import Channel
from clipper_runtime.codec import Codec
from clipper_runtime.executor import Executor, Raised, Work
from clipper_runtime.logs import REQUEST_ID
from clipper_runtime.replies import OUTCOMES_PER_FRAME, Replies

__all__ = ["Express"]

_MAX_REMEMBERED: Final = 64  # clients choose content types and `Accept` values

_NOT_ONE: Final = ValueError("not a list of one value")
_clock = time.perf_counter
_ids = attrgetter("id")
_lengths = attrgetter("length")
_forms = attrgetter("content_type", "accept")


class Owner(Protocol):
    """The engine whose calls these are."""

    def begin(self, invoke: Invoke, now: float) -> None:
        """Under the read lock: from now on these items can be cancelled and count as running."""
        ...

    def run(self, work: Work) -> None:
        """The general way."""
        ...

    def end(self, items: Sequence[Item]) -> None: ...


class Express:
    """For one sync function that does not stream. `handle` gets the frames that are not for the short way."""

    def __init__(
        self, executor: Executor, replies: Replies, channel: Channel, owner: Owner, handle: Callable[[Frame], None]
    ) -> None:
        program = executor.program
        self._executor = executor
        self._replies = replies
        self._channel = channel
        self._owner = owner
        self._handle = handle
        self._batched = program.batched
        self._call = program.call
        self._codec: Codec = program.codec
        self._decode = program.codec.json_decode
        self._encode_one = program.codec.encode_one
        self._getters = program.codec.getters
        self._max_body_bytes = executor.max_payload_bytes
        self._plain_forms: set[tuple[str, str]] = set()  # (content type, accept) that mean JSON in and out

    def turn(self) -> None:
        """Read once and deal with what came. Raises ChannelClosed, ProtocolError."""
        channel = self._channel
        with channel.read_lock:
            count = channel.receive()
            if not count:
                return
            view = channel.view
            found = None if channel.reader.pending else read_invoke(view, count, channel.reader.max_frame_bytes)
            if found is None or not self._takes((items := found[0].items), count - found[1]):
                channel.hand_out(count, self._handle)
                return
            # A copy: the watcher may read while user code runs, and what was decoded may refer to its source.
            body = bytes(view[found[1] : count])
            now = time.monotonic()
            self._replies.came += len(items)
            self._owner.begin(found[0], now)
        channel.lonely = len(items) <= 2
        if len(items) == 1:
            self._serve_one(found[0], items[0], body, now)
        else:
            self._serve(found[0], items, body, now)
        self._owner.end(items)

    def _takes(self, items: list[Item], size: int) -> bool:
        if len(items) == 1:
            item = items[0]
            return item.length == size and ((item.content_type, item.accept) in self._plain_forms or self._learn(item))
        if not items or not self._batched or len(items) > OUTCOMES_PER_FRAME:
            return False
        forms = list(map(_forms, items))
        if forms.count(forms[0]) != len(forms):
            return False
        if forms[0] not in self._plain_forms and not self._learn(items[0]):
            return False
        lengths = list(map(_lengths, items))
        return bool(sum(lengths) == size and min(lengths) >= 0)

    def _learn(self, item: Item) -> bool:
        plain: bool = self._codec.is_plain_json(item.content_type, item.accept)
        if plain and len(self._plain_forms) < _MAX_REMEMBERED:
            self._plain_forms.add((item.content_type, item.accept))
        return plain

    def _serve_one(self, invoke: Invoke, item: Item, body: bytes, now: float) -> None:
        REQUEST_ID.set(item.request_id)
        batched, getters = self._batched, self._getters
        arguments: Any
        try:
            struct = self._decode(body)
            if len(getters) == 1:
                arguments = ([getters[0](struct)],) if batched else (getters[0](struct),)
            else:
                arguments = [[get(struct)] for get in getters] if batched else [get(struct) for get in getters]
        except BaseException:  # noqa: BLE001 - the general way says what is wrong
            self._owner.run(Work(invoke, memoryview(body), now))
            return
        began = _clock()
        try:
            value = self._call(*arguments)
        except BaseException as error:  # noqa: BLE001 - whatever user code raises is an outcome
            value = Raised(error)
        exec_s = _clock() - began
        one = value
        if batched:
            one = value[0] if type(value) is list and len(value) == 1 else _NOT_ONE
        try:
            data = None if isinstance(one, BaseException) else self._encode_one(one)
        except BaseException:  # noqa: BLE001 - a Raised, or no JSON: the general way says which
            data = None
        # A null may stand for a NaN.
        if data is None or b"null" in data or len(data) > self._max_body_bytes:
            self._conclude(invoke, body, now, value, exec_s)
        else:
            self._replies.write(1, encode_value(invoke.batch, item.id, JSON, data, exec_s))
        REQUEST_ID.set("")

    def _serve(self, invoke: Invoke, items: list[Item], body: bytes, now: float) -> None:
        try:
            bounds = accumulate(map(_lengths, items), initial=0)
            payloads = [body[start:end] for start, end in pairwise(bounds)]
            structs = list(map(self._decode, payloads))
            arguments = [list(map(get, structs)) for get in self._getters]
        except BaseException:  # noqa: BLE001 - the general way says what is wrong, for each item
            self._owner.run(Work(invoke, memoryview(body), now))
            return
        began = _clock()
        try:
            value = self._call(*arguments)
        except BaseException as error:  # noqa: BLE001 - whatever user code raises is an outcome
            value = Raised(error)
        exec_s = _clock() - began
        bodies = self._encode(items, value)
        if bodies is None:
            self._conclude(invoke, body, now, value, exec_s)
        else:
            frame = encode_values(invoke.batch, list(map(_ids, items)), JSON, bodies, exec_s)
            self._replies.write(len(items), frame)

    def _conclude(self, invoke: Invoke, body: bytes, now: float, value: Any, exec_s: float) -> None:
        answer = self._executor.conclude(Work(invoke, memoryview(body), now), value, exec_s)
        self._replies.answer(invoke.batch, answer)
        REQUEST_ID.set("")

    def _encode(self, items: list[Item], value: Any) -> list[bytes] | None:
        """The bodies where each item has a JSON value, else None."""
        if type(value) is not list or len(value) != len(items):
            return None
        for kind in set(map(type, value)):
            if issubclass(kind, BaseException):
                return None
        try:
            bodies = self._codec.encode_json(value)
        except BaseException:  # noqa: BLE001 - the general way says what is wrong, for each item
            return None
        return None if bodies is None or sum(map(len, bodies)) > self._max_body_bytes else bodies
