"""Large bodies: 10 MB of .npy in and out, against a bare uvicorn that sends the same body back."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from statistics import median
from urllib.parse import urlsplit

import httptools
import numpy as np

from tests.benchmarks.machine import Processors
from tests.benchmarks.ours import endpoint, platform
from tests.benchmarks.peers import BARE, PeerLauncher
from tests.benchmarks.section import Bench, Section, Verdict, count, milliseconds, table
from tests.benchmarks.servers import BenchmarkError, Endpoint

__all__ = ["payloads"]

PAYLOAD_BYTES = 10_000_000
NPY = "application/x-npy"
BINARY = "application/octet-stream"
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    bytes_per_s: float  # of the body, counted once although it goes both ways
    p50_s: float
    foreign: float


class _Client:
    """One keep-alive connection, blocking, with a receive buffer that is made once: as little of a client as can be."""

    def __init__(self, target: Endpoint) -> None:
        parts = urlsplit(target.url)
        head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {target.content_type}\r\n"
            f"Accept: {target.content_type}\r\nContent-Length: {len(target.body)}\r\n\r\n"
        )
        self._request = head.encode() + target.body
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=TIMEOUT_S)
        self._buffer = memoryview(bytearray(1024 * 1024))
        self._parser = httptools.HttpResponseParser(self)
        self._complete = False
        self._kept: list[bytes] | None = None
        self.received = 0

    def on_message_begin(self) -> None:
        self.received = 0

    def on_body(self, data: bytes) -> None:
        self.received += len(data)
        if self._kept is not None:
            self._kept.append(data)

    def on_message_complete(self) -> None:
        self._complete = True

    def request(self, *, keep: bool = False) -> tuple[int, bytes]:
        """Send it and read the answer: its status, and its body if it is to be kept."""
        self._complete, self._kept = False, [] if keep else None
        self._socket.sendall(self._request)
        while not self._complete:
            size = self._socket.recv_into(self._buffer)
            if not size:
                raise BenchmarkError("the server closed the connection in the middle of an answer")
            self._parser.feed_data(self._buffer[:size])
        return self._parser.get_status_code(), b"".join(self._kept or ())

    def close(self) -> None:
        self._socket.close()


@contextmanager
def _client(target: Endpoint) -> Iterator[_Client]:
    client = _Client(target)
    try:
        yield client
    except OSError as error:
        raise BenchmarkError(f"{target.url}: {error}") from error
    finally:
        client.close()


def _measure(target: Endpoint, seconds: float) -> _Run:
    """Raises BenchmarkError when an answer is not the body that was sent."""
    with _client(target) as client:
        for _ in range(3):
            status, body = client.request(keep=True)
            if status != 200 or body != target.expected:
                raise BenchmarkError(
                    f"{target.url} answered {status} with {len(body)} bytes that are not the right ones"
                )
        took: list[float] = []
        with Processors() as processors:
            began = time.perf_counter()
            while time.perf_counter() - began < seconds or not took:
                sent = time.perf_counter()
                status, _ = client.request()
                took.append(time.perf_counter() - sent)
                if status != 200 or client.received != len(target.expected):
                    raise BenchmarkError(f"{target.url} answered {status} with {client.received} bytes")
            passed = time.perf_counter() - began
    return _Run(bytes_per_s=len(took) * len(target.body) / passed, p50_s=median(took), foreign=processors.foreign)


def _npy() -> bytes:
    file = BytesIO()
    np.save(file, np.random.default_rng(1).random(PAYLOAD_BYTES // 8))
    return file.getvalue()


def payloads(bench: Bench) -> Section:
    """In turn, as many rounds as planned."""
    body = _npy()
    names = {"npy": "Clipper, array in and out", "bytes": "Clipper, bytes in and out", "echo": "bare uvicorn, echo"}
    runs: dict[str, list[_Run]] = {key: [] for key in names}
    bench.display.step("starting Clipper and bare uvicorn")
    with (
        platform(bench.work / "payloads", "payload") as running,
        PeerLauncher(BARE, bench.environment, bench.work).start() as bare,
    ):
        targets = {
            "npy": endpoint(running, "payload/same_array", body=body, expected=body, content_type=NPY),
            "bytes": endpoint(running, "payload/same_bytes", body=body, expected=body, content_type=BINARY),
            "echo": replace(
                bare.endpoints[BARE.key],
                url=bare.endpoints[BARE.key].url.replace("/predict", "/echo"),
                body=body,
                expected=body,
                content_type=BINARY,
            ),
        }
        for number in range(bench.plan.payload_rounds):
            for key, target in targets.items():
                bench.display.step(f"round {number + 1} of {bench.plan.payload_rounds}: {names[key]}")
                runs[key].append(_measure(target, bench.plan.payload_s))
    return _section(names, runs)


def _section(names: dict[str, str], runs: dict[str, list[_Run]]) -> Section:
    def ratio(key: str) -> float:
        return median(
            ours.bytes_per_s / theirs.bytes_per_s for ours, theirs in zip(runs[key], runs["echo"], strict=True)
        )

    rows = [
        [
            names[key],
            count(median(run.bytes_per_s for run in found) / 1e6),
            milliseconds(median(run.p50_s for run in found)),
            f"{ratio(key):.0%}",
        ]
        for key, found in runs.items()
    ]
    return Section(
        title="Large payloads",
        markdown="A `.npy` of 10 MB in and the same out again, one connection, a blocking client on a raw socket; "
        "every answer is compared with what was sent.\n\n" + table(["", "MB/s", "p50 ms", "of the echo"], rows),
        verdicts=[Verdict.at_least("10 MB `.npy` by bare uvicorn's echo", ratio("npy"), 0.3)],
        data={key: [run.bytes_per_s for run in found] for key, found in runs.items()},
        foreign=[run.foreign for found in runs.values() for run in found],
    )
