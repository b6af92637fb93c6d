"""The media types that clients, the platform and the runtime name, and how arrays travel inside MessagePack."""

from __future__ import annotations

from typing import Final

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
NPY: Final = "application/x-npy"
OCTET_STREAM: Final = "application/octet-stream"
TEXT: Final = "text/plain"
ANY_TEXT: Final = "text/*"
EVENT_STREAM: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"
FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"
GZIP: Final = "application/gzip"
PNG: Final = "image/png"
ANY_IMAGE: Final = "image/*"

_ALIASES: Final = {
    "application/x-msgpack": MSGPACK,
    "application/vnd.msgpack": MSGPACK,
    "application/npy": NPY,
    "application/ndjson": NDJSON,
    "application/jsonl": NDJSON,
    "application/x-jsonlines": NDJSON,
    "text/json": JSON,
}

NPY_EXTENSION: Final = 1
"""MessagePack extension type of an array: its data are the bytes of a `.npy` file."""


def canonical_media_type(content_type: str) -> str:
    """The type without its parameters, in lower case, under its canonical name."""
    media = content_type.partition(";")[0].strip().lower()
    return _ALIASES.get(media, media)
