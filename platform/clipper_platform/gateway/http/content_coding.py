"""`Content-Encoding` of requests: compressed bodies, with a bound on what they become."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from typing import Final, Protocol

from clipper_platform.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from clipper_platform.gateway.http.zstandard import DecompressionParameter, ZstdDecompressor, ZstdError

__all__ = ["unpacked"]

GZIP_BITS: Final = 31
ZLIB_BITS: Final = 15
RAW_BITS: Final = -15
WINDOW_BITS: Final = {"gzip": GZIP_BITS, "x-gzip": GZIP_BITS, "deflate": ZLIB_BITS}
ZSTD: Final = "zstd"
# RFC 9659: the largest window of zstd over HTTP is 8 MiB. A frame of a few bytes could ask for 2 GiB.
ZSTD_OPTIONS: Final[Mapping[int, int]] = {DecompressionParameter.window_log_max: 23}

# Below, unpacking takes less time than passing it to a thread, unless it is a bomb: 16 KiB become 16 MiB at most.
IN_LOOP_BYTES: Final = 16 * 1024
STEP_BYTES: Final = 64 * 1024
# A body may be several members, one after the other; an empty one takes 20 bytes.
MAX_MEMBERS: Final = 1000
MAX_CODINGS: Final = 2


class Unpacker(Protocol):
    """One member of a packed body, as zlib and zstd read it."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


async def unpacked(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without its codings.

    Raises UnsupportedMediaType, InvalidRequest, or PayloadTooLarge as soon as it becomes larger than `limit` bytes.
    """
    names = [part.strip().lower() for part in encoding.decode("latin-1").split(",")]
    codings = [name for name in names if name not in ("", "identity")]
    if len(codings) > MAX_CODINGS or any(name != ZSTD and name not in WINDOW_BITS for name in codings):
        raise UnsupportedMediaType(
            f"Content-Encoding {', '.join(codings)[:100]!r} is not supported: "
            "send gzip, deflate, zstd, or the body as it is"
        )
    for name in reversed(codings):
        if len(body) <= IN_LOOP_BYTES:
            body = _unpack(body, name, limit)
        else:
            body = await asyncio.to_thread(_unpack, body, name, limit)
    return body


def _unpack(body: bytes, name: str, limit: int) -> bytes:
    parts: list[bytes] = []
    at = size = members = 0
    try:
        while at < len(body):
            members += 1
            if members > MAX_MEMBERS:
                raise InvalidRequest(f"the body has more than {MAX_MEMBERS} {name} members")
            stream = _unpacker(name, body)
            while not stream.eof:
                piece = body[at : at + STEP_BYTES]
                if not piece:
                    raise InvalidRequest(f"the body ends within its {name} data")
                part = stream.decompress(piece, limit - size + 1)
                size += len(part)
                if size > limit:
                    raise PayloadTooLarge(f"the unpacked body is over the limit of {limit} bytes (max_body_bytes)")
                parts.append(part)
                at += len(piece) - len(stream.unused_data)
    except (zlib.error, ZstdError) as error:
        raise InvalidRequest(f"the body is not {name}: {error}") from None
    return b"".join(parts)


def _unpacker(name: str, body: bytes) -> Unpacker:
    if name == ZSTD:
        return ZstdDecompressor(options=ZSTD_OPTIONS)
    bits = WINDOW_BITS[name]
    if bits == ZLIB_BITS and (len(body) < 2 or body[0] & 15 != 8 or int.from_bytes(body[:2], "big") % 31):
        bits = RAW_BITS  # some clients send deflate without zlib's header (RFC 9110 §8.4.1.2)
    return zlib.decompressobj(bits)
