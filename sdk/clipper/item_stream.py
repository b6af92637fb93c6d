"""The items of a streaming function: events `message` carry them, `end` ends the stream, `error` carries an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clipper import codec, errors
from clipper.contract.media_types import EVENT_STREAM
from clipper.lines import EventReader, media_type
from clipper.remote_responses import OwnStream, is_own

__all__ = ["ItemStream", "stream_of"]


def stream_of(status: int, headers: Mapping[str, str]) -> ItemStream | OwnStream:
    """Of a generator's items, or of an answer that the generator writes itself. Raises UnexpectedAnswer."""
    return OwnStream(status, headers) if is_own(headers) else ItemStream(headers)


class ItemStream:
    """The items of one answer, from its bytes."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        """`headers` of the answer. Raises UnexpectedAnswer where it is no stream."""
        if (kind := media_type(headers)) != EVENT_STREAM:
            raise errors.UnexpectedAnswer(
                f"the answer is {kind or 'of no type'}, not a stream: is the function a generator?"
            )
        self._reader = EventReader()
        self.ended = False

    def begin(self) -> Iterator[Any]:
        """What comes before the first byte of the body."""
        return iter(())

    def feed(self, piece: bytes) -> Iterator[Any]:
        """The items that `piece` completes. Raises ClipperError."""
        for event in self._reader.feed(piece):
            if self.ended:
                return
            if event.event == "end":
                self.ended = True
            elif event.event == "error":
                raise _stream_error(event.data)
            elif event.event == "message":
                yield codec.decode_json(event.data)

    def check_ended(self) -> None:
        """Raises ConnectionLost for a stream that stopped without its `end`."""
        if not self.ended:
            raise errors.ConnectionLost("the stream broke off before its end")


def _stream_error(data: str) -> errors.ClipperError:
    table = codec.decode_json(data)
    if isinstance(table, dict) and isinstance(table.get("error"), dict):
        table = table["error"]
    if not isinstance(table, dict) or "code" not in table:
        return errors.UnexpectedAnswer(f"the stream ended with an error of an unknown form: {data[:200]}")
    details = {k: v for k, v in table.items() if k not in ("code", "message", "request_id", "status")}
    code = str(table["code"])
    status = table.get("status", errors.status_of(code))
    return errors.error_for(
        code, status, str(table.get("message", "")), request_id=table.get("request_id"), details=details
    )
