"""`Content-Encoding` of answers: which are packed, and how (RFC 9110 §12.5.3).

Only answers of 1 KiB and more, so that a small one costs a comparison. On one core, a megabyte of JSON numbers takes
14 ms with gzip's first level and 6 ms with zstd's (47% and 41% of its size); the third levels take three times as long
for a few percent less.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from clipper.contract.media_types import FORM, JSON, MSGPACK, NDJSON, NPY
from clipper_platform.gateway.http import zstandard

__all__ = ["IN_LOOP_BYTES", "PACKED_FROM_BYTES", "is_packable", "pack", "packed", "preferred_coding"]

# Below, an answer with its head fits one or two packets, and packing it saves no round trip.
PACKED_FROM_BYTES: Final = 1024
# Takes about as long as passing it to a thread; more would keep other requests waiting.
IN_LOOP_BYTES: Final = 16 * 1024

_FASTEST: Final = 1
_GZIP_BITS: Final = 31
_QUALITY: Final = re.compile(r"[01](?:\.\d{0,3})?", re.ASCII)
_PACKABLE: Final = frozenset({JSON, MSGPACK, NDJSON, NPY, FORM, "application/xml", "application/javascript",
                              "application/yaml", "image/bmp", "image/svg+xml"})  # fmt: skip


@lru_cache(maxsize=1024)
def preferred_coding(header: str) -> str:
    """The coding that a client prefers of those that we have, by its `Accept-Encoding`; empty for none.

    Of equals zstd is taken, then gzip. `*` stands for gzip, which every client knows.
    """
    wanted: dict[str, float] = {}
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        wanted.setdefault("gzip" if name == "x-gzip" else name, _quality(parameters))
    if "*" in wanted:
        wanted.setdefault("gzip", wanted["*"])
    best = max(_ENCODERS, key=lambda name: wanted.get(name, 0.0))  # the first of equals
    quality = wanted.get(best, 0.0)
    return best if quality > 0 and quality >= wanted.get("identity", 0.0) else ""


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            return float(value) if _QUALITY.fullmatch(value.strip()) else 0.0
    return 1.0


@lru_cache(maxsize=1024)
def is_packable(content_type: str) -> bool:
    """Whether a value of this type becomes smaller: text and plain data do, and images and archives are packed."""
    media = content_type.partition(";")[0].strip().lower()
    return media.startswith("text/") or media.endswith(("+json", "+xml")) or media in _PACKABLE


def pack(body: bytes | memoryview, coding: str) -> bytes | None:
    """The packed body; None where it would not be smaller."""
    packed = _ENCODERS[coding](body)
    return packed if len(packed) < len(body) else None


async def packed(body: bytes | memoryview, coding: str) -> bytes | None:
    """As `pack`, in a thread where it takes long."""
    return pack(body, coding) if len(body) <= IN_LOOP_BYTES else await asyncio.to_thread(pack, body, coding)


def _gzip(body: bytes | memoryview) -> bytes:
    stream = zlib.compressobj(_FASTEST, zlib.DEFLATED, _GZIP_BITS)
    return stream.compress(body) + stream.flush()


def _deflate(body: bytes | memoryview) -> bytes:
    return zlib.compress(body, _FASTEST)


def _zstd(body: bytes | memoryview) -> bytes:
    return zstandard.compress(body, _FASTEST)


_ENCODERS: Final[dict[str, Callable[[bytes | memoryview], bytes]]] = {"zstd": _zstd, "gzip": _gzip, "deflate": _deflate}
