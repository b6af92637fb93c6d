"""The same bytes to the fast path and to Starlette alone: the same answers, the same end of the connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import socket
from dataclasses import dataclass

import msgspec
import pytest

from clipper.contract import wire
from tests.support.gateway import Gateway, gateway
from tests.support.memory_backend import InMemoryBackend, echo
from tests.support.serving import target

ROUNDS, STREAMS_PER_ROUND = 10, 40

HOSTS = (
    *(b"127.0.0.1", b"localhost", b"LOCALHOST:80", b"[::1]:8700", b"127.0.0.1:8700", b"127.0.0.1:99999", b"", b" "),
    *(b"evil.example", b"user@127.0.0.1", b"127.0.0.1, evil", b"localhost.", b"[::1", b"127.1", b"\xff", b"h\tost"),
)
TARGETS = (
    *(b"/fn/p/f", b"/fn/p/f@1", b"/fn/p/f@2", b"/fn/p/%66", b"/fn/p/f?x=1", b"/fn/p/f#x", b"//fn/p/f", b"/fn/p/f/"),
    *(b"/fn/p", b"/", b"*", b"http://127.0.0.1/fn/p/f", b"http://evil/fn/p/f", b"/fn/../fn/p/f", b"/fn/p/\xc3"),
)  # fmt: skip
METHODS = (b"GET", b"HEAD", b"PUT", b"OPTIONS", b"post", b"PRI", b"CONNECT", b"FOO", b"")
HEADERS = (
    b"X-Request-Id: mine", b"X-Request-Id: not one", b"X-Clip-Timeout-Ms: 5000", b"X-Clip-Timeout-Ms: never",
    b"Accept: */*", b"Accept: application/json, text/event-stream", b"Accept: ;q=,,", b"Content-Type: a/b; c=d",
    b"Content-Type:", b"Connection: close", b"Connection: keep-alive", b"Connection: keep-alive, close",
    b"Connection: Upgrade\r\nUpgrade: h2c", b"Connection: upgrade, HTTP2-Settings\r\nUpgrade: websocket",
    b"Upgrade: h2c", b"Connection: upgrade", b"Expect: 100-Continue", b"Expect: a miracle", b"X:\ttab ",
    b"X: nul\0", b"X : space", b"X: a\r\n fold", b" X: a", b"X", b": x", b"X: a\nY: b", b"X: a\rY: b",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: xchunked", b"Transfer-Encoding : chunked", b"Content-Length: 1", b"Content-Length: 99",
    b"Content-Length: -1", b"Content-Length: 0x1", b"Content-Length: 1, 1", b"Content-Length: +1", b"TE: trailers",
    b"Content-Encoding: identity", b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    b"Origin: http://evil.example", b"Sec-Fetch-Site: cross-site", b"Authorization: Bearer x", b"Prefer: wait=1",
    b"X: " + b"x" * 70_000, b"Accept-Encoding: gzip", b"Accept-Encoding: zstd, gzip;q=0.5", b"accept-encoding: *;q=0",
    b"Accept-Encoding: br, identity;q=0", b"Content-Encoding: zstd", b"Content-Encoding: gzip, gzip",
    b"Accept: text/plain", b"Content-Type: text/plain; charset=latin-1",
)  # fmt: skip
# What the replica makes its answer of: the head of a `clipper.Response`, which may be one that no function may set.
RESPONSES = {
    b"R-created": wire.ResponseHead(201, (("location", "/x"),)),
    b"R-empty": wire.ResponseHead(204),
    b"R-not-modified" + b"x" * 3000: wire.ResponseHead(304, (("etag", '"1"'),)),
    b"R-failed" + b"y" * 3000: wire.ResponseHead(500, (("content-encoding", "br"),)),
    b"R-hostile": wire.ResponseHead(
        200, (("x", "a\r\nset-cookie: b"), ("content-length", "99"), ("transfer-encoding", "chunked"))
    ),
    b"R-no-status": wire.ResponseHead(42),
    b"R-many": wire.ResponseHead(200, tuple((f"x-{n}", "y" * 500) for n in range(100))),
}
BODIES = (*RESPONSES, b"x" * 30_000, b"", b"1", b'{"x":1}', b"\0", b"POST /fn/p/f HTTP/1.1\r\n\r\n", b"x" * 5000)
CHUNK_ENDS = (
    *(b"0\r\n\r\n", b"0\r\n\r\n", b"0;e=1\r\n\r\n", b"0\r\nX-Request-Id: trailer\r\nHost: evil\r\n\r\n", b"00\r\n\r\n"),
    *(b"0\r\nContent-Length: 5\r\n\r\n", b"0\r\n", b"-1\r\n\r\n", b"0\n\n", b"0\r\n" + b"T: t\r\n" * 20_000 + b"\r\n"),
)  # fmt: skip
NOISE = (b"\r\n", b"\n", b"\0", b"\x16\x03\x01\x02\x00", b"GET", b"HTTP/1.1 200 OK\r\n\r\n", b"0\r\n\r\n", b" ")


def request(rng: random.Random) -> bytes:
    """One request with some of what makes requests odd, mostly well formed."""
    method = rng.choice(METHODS) if rng.random() < 0.15 else b"POST"
    path = rng.choice(TARGETS) if rng.random() < 0.3 else b"/fn/p/f"
    version = rng.choice((b"1.0", b"1.1", b"0.9", b"2.0", b"1.2", b"1.1 ")) if rng.random() < 0.1 else b"1.1"
    hosts = [rng.choice(HOSTS)] if rng.random() < 0.2 else [b"127.0.0.1"]
    if rng.random() < 0.05:
        hosts = rng.choice(([], [b"127.0.0.1", b"127.0.0.1"], [b"127.0.0.1", b"evil"]))
    lines = [b"Host: " + host for host in hosts]
    lines += rng.choices(HEADERS, k=rng.choice((0, 0, 0, 1, 1, 2, 3)))
    body = rng.choice(BODIES)
    if rng.random() < 0.25:
        lines.append(b"Transfer-Encoding: chunked")
        chunk = b"%x%b\r\n%b\r\n" % (len(body), rng.choice((b"", b"", b";a=b", b" ")), body) if body else b""
        body = chunk + (rng.choice(CHUNK_ENDS) if rng.random() < 0.3 else CHUNK_ENDS[0])
    elif method == b"POST" or rng.random() < 0.3:
        lines.append(b"Content-Length: %d" % len(body))
    else:
        body = b""
    rng.shuffle(lines)
    return b"%b %b HTTP/%b\r\n%b\r\n\r\n%b" % (method, path, version, b"\r\n".join(lines), body)


def stream(rng: random.Random) -> bytes:
    """What a client sends on one connection: pipelined requests, repeated ones, noise, a sudden end."""
    parts = []
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        parts += [request(rng)] * rng.choice((1, 1, 1, 2, 20))
        if rng.random() < 0.1:
            parts.append(rng.choice(NOISE))
    data = b"".join(parts)
    return data[: rng.randrange(len(data))] if rng.random() < 0.1 else data


@dataclass(frozen=True)
class Seen:
    """Of each answer its status, the names of its headers, and its body without ids; whether the server closed."""

    answers: tuple[tuple[int, tuple[str, ...], bytes], ...]
    rest: bytes


# An answer to HEAD has a length and no body: in this suite the next answer, or the end, follows its head.
_ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")


def read(received: bytes) -> Seen:
    answers, at = [], 0
    while (head := _ANSWER.match(received, at)) is not None:
        at = head.end()
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(b":") for line in head[2].splitlines())}
        body = b""
        if not received.startswith(b"HTTP/1.1 ", at) and int(head[1]) not in (204, 304):
            if b"transfer-encoding" in headers:
                end = received.index(b"0\r\n\r\n", at) + 5
            else:
                end = at + int(headers.get(b"content-length", b"0"))
            body, at = received[at:end], max(at, min(end, len(received)))
        body = body.replace(headers.get(b"x-request-id", b"\0"), b"ID")
        answers.append((int(head[1]), tuple(sorted(name.decode() for name in headers)), body))
    return Seen(tuple(answers), received[at:])


async def send(gate: Gateway, data: bytes, cuts: list[int]) -> Seen:
    """Send the bytes in pieces, then the end; read until the server closes. With a socket, as a stream drops what it
    has read when the connection is reset."""
    loop, received = asyncio.get_running_loop(), b""
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", gate.port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # the server may have closed in the middle
            for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                await loop.sock_sendall(client, data[start:end])
                await asyncio.sleep(0)
            client.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                while part := await loop.sock_recv(client, 1 << 20):
                    received += part
    return read(received)


async def answer(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
    """As `echo`, with the head of a response where the payload is one of `RESPONSES`."""
    result, bodies = await echo(invoke, payloads)
    outcomes = [
        msgspec.structs.replace(outcome, response=RESPONSES.get(body))
        for outcome, body in zip(result.outcomes, bodies, strict=True)
    ]
    return wire.Result(invoke.batch, outcomes), bodies


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_hostile_bytes_get_the_same_answers_by_both_ways(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(seed)
    streams = [stream(rng) for _ in range(STREAMS_PER_ROUND)]
    async with (
        gateway(InMemoryBackend(answer), fast_path=True) as fast,
        gateway(InMemoryBackend(answer), fast_path=False) as plain,
    ):
        for gate in (fast, plain):
            await gate.harness.deploy(target())
            await send(gate, b"POST /fn/p/f HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n", [])
        for data in streams:
            cuts = sorted(rng.sample(range(len(data) + 1), k=min(len(data), rng.choice((0, 0, 1, 5)))))
            by_fast, by_plain = await send(fast, data, cuts), await send(plain, data, cuts)
            assert by_fast == by_plain, data[:3000]
            assert by_fast.rest == b"", data[:3000]
        for gate in (fast, plain):
            queue = gate.harness.dispatcher.resolve("p/f")
            assert (queue.running, queue.waiting.live, gate.harness.dispatcher.admission.total) == (0, 0, 0)
            async with asyncio.timeout(5):
                while gate.server.server_state.connections:
                    await asyncio.sleep(0.01)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
