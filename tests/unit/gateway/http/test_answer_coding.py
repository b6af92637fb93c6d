"""Which answers are packed, and how."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from backports import zstd

from clipper_platform.gateway.http.answer_coding import is_packable, pack, packed, preferred_coding

TEXT = b"some text " * 1000


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        *(("", ""), ("gzip", "gzip"), ("GZIP", "gzip"), ("x-gzip", "gzip"), ("deflate", "deflate"), ("zstd", "zstd")),
        *(("gzip, deflate, br, zstd", "zstd"), ("gzip, deflate", "gzip"), ("deflate, gzip;q=1.0", "gzip")),
        *(("zstd;q=0.5, gzip", "gzip"), ("gzip;q=0.5, deflate;q=0.8", "deflate"), ("zstd;q=0, gzip;q=0.1", "gzip")),
        *(("br", ""), ("*", "gzip"), ("*;q=0", ""), ("gzip;q=0, *", ""), ("zstd, *;q=0.1", "zstd")),
        *(("identity", ""), ("identity, gzip;q=0.5", ""), ("identity;q=0.5, gzip", "gzip"), ("identity;q=0", "")),
        *(("gzip;q=0.000", ""), ("gzip;q=nan", ""), ("gzip;q=2", ""), (";,,;q=1", ""), ("gzip;q=", ""), ("\u00e9", "")),
    ],
)
def test_the_coding_is_the_one_that_the_client_prefers(header: str, coding: str) -> None:
    assert preferred_coding(header) == coding


@pytest.mark.parametrize(
    ("content_type", "packable"),
    [
        *(("application/json", True), ("text/html; charset=utf-8", True), ("TEXT/CSV", True), ("a/b+json", True)),
        *(("image/svg+xml", True), ("application/msgpack", True), ("application/x-npy", True), ("image/png", False)),
        *(("application/octet-stream", False), ("application/zip", False), ("video/mp4", False), ("", False)),
    ],
)
def test_what_is_packed_already_is_not_packed_again(content_type: str, packable: bool) -> None:
    assert is_packable(content_type) is packable


@pytest.mark.parametrize(
    ("coding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress), ("zstd", zstd.decompress)]
)
async def test_a_packed_body_is_the_same_when_it_is_unpacked(coding: str, unpack: Callable[[bytes], bytes]) -> None:
    for body in (TEXT, memoryview(TEXT), TEXT * 100):
        result = await packed(body, coding)
        assert result is not None
        assert (len(result) < len(body), unpack(result)) == (True, bytes(body))


def test_a_body_that_would_not_become_smaller_is_sent_as_it_is() -> None:
    assert pack(zstd.compress(TEXT, 19), "gzip") is None
