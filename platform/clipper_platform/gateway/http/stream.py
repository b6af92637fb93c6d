"""The items of a streaming invocation on their way from the replica to the client: one by one, or as one array."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from starlette.types import Send

from clipper.contract.media_types import EVENT_STREAM, NDJSON
from clipper.contract.response import BODILESS_STATUSES, status_problem
from clipper.contract.wire import INITIAL_CREDIT, ResponseHead
from clipper_platform.errors import InvalidResult
from clipper_platform.gateway.errors import render
from clipper_platform.gateway.http.answer import (
    answer_of,
    content_type_value,
    header_pairs,
    response_lines,
    send_answer,
    send_result,
    wait_timing,
)
from clipper_platform.serving.invocation import Invocation
from clipper_platform.serving.item_array import join_items

__all__ = ["FRAMINGS", "Credit", "Framing", "ItemSink", "Piece", "event", "line", "send_array", "send_items"]

MAX_UNREAD: Final = 2 * INITIAL_CREDIT  # of one stream; a replica that keeps to its credit has half of it

Credit = Callable[[], None]
"""The client took an item, so the replica may send another one."""


class Piece(NamedTuple):
    """An item, or with a `response` the beginning of an answer that the function writes itself."""

    payload: bytes
    content_type: str
    response: ResponseHead | None


class ItemSink:
    """Implements `StreamSink`: items that the replica sent and the client did not take. The credit bounds them.

    A replica that sends more than it has credit for is broken or hostile: these items are dropped.
    """

    def __init__(self) -> None:
        self._items: asyncio.Queue[Piece | None] = asyncio.Queue()
        self._flooded = False

    def chunk(self, payload: bytes, content_type: str, response: ResponseHead | None) -> None:
        if self._items.qsize() < MAX_UNREAD:
            self._items.put_nowait(Piece(payload, content_type, response))
        else:
            self._flooded = True

    def end(self) -> None:
        self._items.put_nowait(None)

    async def next(self) -> Piece | None:
        """The next item; None at the end. Raises InvalidResult where some were dropped."""
        item = await self._items.get()
        if self._flooded:
            raise InvalidResult("the replica sent more items than it had credit for")
        return item


async def send_array(
    invocation: Invocation, sink: ItemSink, credit: Credit, send: Send, *, max_bytes: int, coding: str
) -> None:
    """Answer with all items at once. Raises InvalidResult when they take more than `max_bytes` together."""
    items: list[tuple[bytes, str]] = []
    size = 0
    while (item := await sink.next()) is not None:
        if item.response is not None:
            await send_pieces(invocation, item, sink, credit, send)
            return
        items.append((item.payload, item.content_type))
        size += len(item.payload)
        if size > max_bytes:
            raise InvalidResult(
                f"the stream's items are over {max_bytes} bytes together; "
                f"ask for them one by one with Accept: {EVENT_STREAM}"
            )
        credit()
    if invocation.error is None and (items or invocation.queue.streaming):
        invocation.payload, invocation.content_type_out = join_items(items)
    await send_result(send, invocation, coding)


async def send_pieces(invocation: Invocation, piece: Piece, sink: ItemSink, credit: Credit, send: Send) -> None:
    """Send an answer that the function writes itself, as it comes: `piece` is its beginning.

    Raises the invocation's error; as part of the answer is sent, the connection then ends in the middle of it.
    """
    head = piece.response
    if head is None or (problem := status_problem(head.status)):
        raise InvalidResult(f"the replica's answer: {problem}")
    await send(_start(invocation, piece.content_type, head))
    bodiless = head.status in BODILESS_STATUSES
    following: Piece | None = piece
    while following is not None:
        if following.payload and not bodiless:
            await send({"type": "http.response.body", "body": following.payload, "more_body": True})
        credit()
        following = await sink.next()
    if invocation.error is not None:
        raise invocation.error
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How items, and the error that ends a stream, are written in a media type; `end` follows the last item."""

    content_type: str
    item: Callable[[bytes], bytes]
    error: Callable[[bytes], bytes]
    end: bytes


def event(data: bytes, name: str = "") -> bytes:
    """One server-sent event. Text that a function yields may have line breaks: each line is a `data` line."""
    lines = b"".join(b"data: " + line + b"\n" for line in data.splitlines() or [b""])
    return (f"event: {name}\n".encode() if name else b"") + lines + b"\n"


def line(data: bytes) -> bytes:
    """One line of NDJSON. Between the parts of a JSON value, a line break is white space; inside there is none."""
    return b" ".join(data.splitlines()) + b"\n"


FRAMINGS: Final[Mapping[str, Framing]] = {
    EVENT_STREAM: Framing(
        content_type=f"{EVENT_STREAM}; charset=utf-8",
        item=event,
        error=lambda body: event(body, "error"),
        end=event(b"{}", "end"),
    ),
    NDJSON: Framing(content_type=NDJSON, item=line, error=line, end=b""),
}


async def send_items(invocation: Invocation, sink: ItemSink, credit: Credit, send: Send, *, framing: Framing) -> None:
    """Send each item as it comes, then the end or the error: `event: end` or `event: error`, and in NDJSON nothing or
    a last line with the error.

    An error before the first item is an answer with the error's status. The result of a function that does not stream
    is one item.
    """
    item = first = await sink.next()
    if first is None and invocation.error is not None:
        await send_answer(send, answer_of(invocation))
        return
    if first is not None and first.response is not None:
        await send_pieces(invocation, first, sink, credit, send)
        return
    await send(_start(invocation, framing.content_type))
    while item is not None:
        await send({"type": "http.response.body", "body": framing.item(item.payload), "more_body": True})
        credit()
        item = await sink.next()
    if invocation.error is not None:
        _, _, body = render(invocation.error, invocation.request_id)
        tail = framing.error(body)
    else:
        single = framing.item(bytes(invocation.payload)) if first is None and invocation.payload else b""
        tail = single + framing.end
    await send({"type": "http.response.body", "body": tail, "more_body": False})


def _start(invocation: Invocation, content_type: str, head: ResponseHead | None = None) -> dict[str, object]:
    """`head`: of an answer that the function writes itself."""
    own = header_pairs(response_lines(head)) if head is not None else []
    headers = [
        *own,
        *([(b"content-type", content_type_value(content_type))] if content_type else []),
        *([] if any(name == b"cache-control" for name, _ in own) else [(b"cache-control", b"no-store")]),
        (b"x-accel-buffering", b"no"),
        (b"x-clip-version", str(invocation.queue.target.id.version).encode()),
        (b"server-timing", wait_timing(invocation)),
    ]
    return {"type": "http.response.start", "status": head.status if head is not None else 200, "headers": headers}
