"""The items of a stream as one value, joined without decoding them: an array in JSON or MessagePack, or text."""

from __future__ import annotations

from clipper.contract.media_types import JSON, MSGPACK, TEXT

__all__ = ["join_items"]


def join_items(items: list[tuple[bytes, str]]) -> tuple[bytes, str]:
    """(payload, content type) of the array, or of the whole text where the items are text.

    `items`: (payload, content type) of each, all of the same type.
    """
    payloads = [payload for payload, _ in items]
    if items and items[0][1].startswith(TEXT):
        return b"".join(payloads), items[0][1]
    if items and items[0][1] == MSGPACK:
        return _array_header(len(items)) + b"".join(payloads), MSGPACK
    return b"[" + b",".join(payloads) + b"]", JSON


def _array_header(count: int) -> bytes:
    """MessagePack's header of an array: fixarray up to 15 elements, array 16 and array 32 above."""
    if count < 16:
        return bytes([0x90 | count])
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")
