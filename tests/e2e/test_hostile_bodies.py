"""Bodies that try to cost much more than they weigh: each has a limit and a typed refusal, and hurts nobody else."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping

import psutil
import pytest
from backports import zstd

from tests.e2e.conftest import Deploy
from tests.support.load import assert_idle
from tests.support.platform import PlatformProcess

pytestmark = pytest.mark.e2e

APP = """
import numpy as np
import clipper

@clipper.function
def take(value=None) -> str:
    return type(value).__name__

@clipper.function
def count(table: dict[str, int]) -> int:
    return len(table)

@clipper.function
def total(array: np.ndarray) -> float:
    return float(array.sum())
"""
MEMORY_BYTES = 300 * 1024 * 1024  # of the platform, beside what it had: several of the largest bodies


def npy(shape: str, dtype: str = "<f8") -> bytes:
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


def nested(pack: Callable[[bytes], bytes], times: int) -> bytes:
    data = b"\0" * (256 << 20)
    for _ in range(times):
        data = pack(data)
    return data


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)


JSON = "application/json"
MSGPACK = "application/msgpack"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
KEYS = json.dumps({f"{n:x}": n for n in range(300_000)}).encode()
MAP = b"\x81\xa1a"  # with the key "a"
PART = b'--x\r\nContent-Disposition: form-data; name="value"\r\n\r\n1\r\n'

# name: (function, body, content type, encoding, statuses that are right)
BODIES: Mapping[str, tuple[str, Callable[[], bytes], str, str, set[int]]] = {
    "deep JSON": ("take", lambda: b'{"value":' + b"[" * 500_000, JSON, "", {400}),
    "deep JSON that closes": ("take", lambda: b'{"value":' + b"[" * 99_999 + b"]" * 99_999 + b"}", JSON, "", {400}),
    "deep MessagePack": ("take", lambda: b"\x81\xa5value" + b"\x91" * 1_000_000 + b"\x01", MSGPACK, "", {400}),
    "deep maps of MessagePack": ("take", lambda: b"\x81\xa5value" + MAP * 500_000 + b"\x01", MSGPACK, "", {400}),
    "a false length of MessagePack": ("take", lambda: b"\x81\xa5value\xdd\xff\xff\xff\xff", MSGPACK, "", {400}),
    "a false map of MessagePack": ("take", lambda: b"\xdf\xff\xff\xff\xff", MSGPACK, "", {400, 422}),
    "many keys": ("count", lambda: b'{"table":%b}' % KEYS, JSON, "", {200}),
    "many unknown arguments": ("take", lambda: KEYS, JSON, "", {422}),
    "one key again and again": ("take", lambda: b'{"value":1%b}' % (b',"value":1' * 500_000), JSON, "", {200}),
    "a huge shape": ("total", lambda: npy("(9999999999, 9999999999)"), "application/x-npy", "", {400}),
    "a huge shape of nothing": ("total", lambda: npy("(0, 9999999999)"), "application/x-npy", "", {400}),
    "a shape that overflows": ("total", lambda: npy(f"({2**62}, 8)"), "application/x-npy", "", {400}),
    "a negative shape": ("total", lambda: npy("(-1,)"), "application/x-npy", "", {400}),
    "a type of gigabytes": ("total", lambda: npy("(1,)", "|S2000000000"), "application/x-npy", "", {400}),
    "a header of npy that is code": ("total", lambda: npy("__import__('os')"), "application/x-npy", "", {400}),
    "a bomb of gzip": ("take", lambda: nested(gzipped, 1), JSON, "gzip", {413}),
    "a bomb in a bomb": ("take", lambda: nested(gzipped, 2), JSON, "gzip, gzip", {413}),
    "a bomb of deflate": ("take", lambda: nested(zlib.compress, 1), JSON, "deflate", {413}),
    "a bomb of zstd": ("take", lambda: nested(zstd.compress, 1), JSON, "zstd", {413}),
    "a bomb of zstd in zstd": ("take", lambda: nested(zstd.compress, 2), JSON, "zstd, zstd", {413}),
    "many codings": ("take", lambda: b"{}", JSON, ", ".join(["gzip"] * 50), {415}),
    "a form of many fields": ("take", lambda: b"&".join(b"value=1" for _ in range(200_000)), FORM, "", {400}),
    "a form of many parts": ("take", lambda: PART * 100_000 + b"--x--\r\n", MULTIPART, "", {400}),
    "a part without an end": ("take", lambda: PART[:-3] + b"x" * 5_000_000, MULTIPART, "", {400}),
    "a long number": ("take", lambda: b'{"value":' + b"9" * 1_000_000 + b"}", JSON, "", {200, 400, 422}),
}  # fmt: skip


@pytest.fixture(scope="module")
def project(deploy_once: Deploy) -> str:
    return deploy_once(APP, '[environment]\nrequirements = ["numpy>=2.0"]\n')


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_is_refused_within_bounds(platform: PlatformProcess, project: str, name: str) -> None:
    function, body, content_type, encoding, statuses = BODIES[name]
    process = psutil.Process(platform.pid)
    before = process.memory_info().rss
    headers = {"content-type": content_type} | ({"content-encoding": encoding} if encoding else {})
    answer = platform.post(f"/fn/{project}/{function}", content=body(), headers=headers)
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) >= {"code", "message", "request_id"}
        assert len(answer.text) < 2000
    assert process.memory_info().rss - before < MEMORY_BYTES
    assert platform.call(f"{project}/take", value=1) == "int"
    assert_idle(platform, project)
