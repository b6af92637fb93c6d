"""Compressed bodies, and what they may not become."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from backports import zstd

from clipper_platform.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from clipper_platform.gateway.http.content_coding import MAX_MEMBERS, unpacked

TEXT = b"some text " * 10_000
RAW = zlib.compress(TEXT)[2:-4]
SKIPPED = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"  # a frame without content (RFC 8878 §3.1.2)


def with_window(log: int) -> bytes:
    """A frame of a few bytes whose decoder would need 2**log bytes of memory."""
    stream = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: log})
    return stream.compress(b"x") + stream.flush()


LARGE_WINDOW = with_window(27)


def packed(data: bytes, level: int = 9) -> bytes:
    """gzip, without the time: the names of parametrized tests must be equal in all of pytest's workers."""
    return gzip.compress(data, level, mtime=0)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        *(
            (TEXT, b"identity"),
            (TEXT, b""),
            (packed(TEXT), b"gzip"),
            (packed(TEXT), b" X-GZIP , identity"),
        ),
        *((zlib.compress(TEXT), b"deflate"), (RAW, b"deflate"), (packed(zlib.compress(TEXT)), b"deflate, gzip")),
        (packed(TEXT[:5]) + packed(TEXT[5:], 0), b"gzip"),
        (zstd.compress(TEXT), b"zstd"),
        (zstd.compress(TEXT[:5]) + SKIPPED + zstd.compress(TEXT[5:]), b"ZSTD"),
        (zstd.compress(packed(TEXT)), b"gzip, zstd"),
    ],
)
async def test_a_body_is_unpacked_as_its_encoding_says(body: bytes, encoding: bytes) -> None:
    assert await unpacked(body, encoding, len(TEXT)) == TEXT


async def test_an_empty_body_stays_empty() -> None:
    assert await unpacked(b"", b"gzip", 10) == b""


@pytest.mark.parametrize(
    ("body", "encoding", "error"),
    [
        (packed(TEXT), b"br", UnsupportedMediaType),
        (packed(TEXT), b"gzip, gzip, gzip", UnsupportedMediaType),
        (b"no gzip", b"gzip", InvalidRequest),
        (packed(TEXT)[:-5], b"gzip", InvalidRequest),
        (packed(TEXT) + b"rest", b"gzip", InvalidRequest),
        (packed(b"") * (MAX_MEMBERS + 1), b"gzip", InvalidRequest),
        (packed(TEXT + b"x"), b"gzip", PayloadTooLarge),
        (packed(TEXT) + packed(b"x"), b"gzip", PayloadTooLarge),
        (b"no zstd", b"zstd", InvalidRequest),
        (zstd.compress(TEXT)[:-5], b"zstd", InvalidRequest),
        (zstd.compress(TEXT) + b"rest", b"zstd", InvalidRequest),
        (SKIPPED * (MAX_MEMBERS + 1), b"zstd", InvalidRequest),
        (zstd.compress(TEXT + b"x"), b"zstd", PayloadTooLarge),
        (LARGE_WINDOW, b"zstd", InvalidRequest),
    ],
)
async def test_what_cannot_be_unpacked_is_refused(body: bytes, encoding: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        await unpacked(body, encoding, len(TEXT))


async def test_a_bomb_is_unpacked_up_to_the_limit_alone() -> None:
    await check_bomb(packed(packed(b"\0" * 2**28)), b"gzip, gzip")


@pytest.mark.parametrize("encoding", [b"deflate", b"zstd", b"zstd, gzip", b"deflate, zstd"])
async def test_bombs_of_other_codings_are_unpacked_no_further(encoding: bytes) -> None:
    packers = {b"deflate": zlib.compress, b"zstd": zstd.compress, b"gzip": packed}
    bomb = b"\0" * 2**26
    for name in encoding.split(b", "):
        bomb = packers[name](bomb)
    await check_bomb(bomb, encoding)


async def check_bomb(bomb: bytes, encoding: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(PayloadTooLarge):
        await unpacked(bomb, encoding, 2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20
