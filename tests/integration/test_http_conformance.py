"""One suite of HTTP/1.1 behaviour over both ways in: the fast path, and Starlette alone."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator

import pytest
from backports import zstd

from clipper.contract import wire
from tests.support.gateway import Gateway, gateway
from tests.support.memory_backend import READY, InMemoryBackend, echo
from tests.support.serving import target

HOST = b"Host: 127.0.0.1\r\n"
CLOSE = b"Connection: close\r\n"
UNBATCHED = wire.Ready(schema={}, batched=False, streaming=False, concurrency=1, phases={})


@pytest.fixture(params=[True, False], ids=["fast path", "starlette"])
def fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
async def served(fast_path: bool) -> AsyncIterator[Gateway]:
    async with gateway(fast_path=fast_path) as gate:
        await gate.harness.deploy(target())
        yield gate


def post(body: bytes, *headers: bytes, path: bytes = b"/fn/p/f") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST %b HTTP/1.1\r\n%b%b%b\r\n%b" % (path, HOST, length, b"".join(headers), body)


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


async def read_answer(reader: asyncio.StreamReader, *, head: bool = False) -> Answer:
    async with asyncio.timeout(5):
        raw = await reader.readuntil(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")
        names = [line.partition(":")[0].lower() for line in lines[1:] if line]
        assert len(names) == len(set(names)), f"a header is there twice: {names}"
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
        length = 0 if head else int(headers["content-length"])
        return Answer(int(lines[0].split()[1]), headers, await reader.readexactly(length))


async def test_an_invocation_is_answered_with_its_headers(served: Gateway) -> None:
    reader, writer = await served.connect()
    writer.write(post(b'{"x":1}', b"X-Request-Id: abc-1\r\n", b"Content-Type: application/json; charset=utf-8\r\n"))
    answer = await read_answer(reader)
    assert (answer.status, answer.body) == (200, b'{"x":1}')
    assert answer.headers["x-request-id"] == "abc-1"
    assert answer.headers["x-clip-version"] == "1"
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch(r"queue;dur=[\d.]+, batch;dur=[\d.]+, exec;dur=[\d.]+", answer.headers["server-timing"])
    assert "date" in answer.headers
    assert "server" not in answer.headers
    writer.close()


async def test_a_bad_request_id_is_replaced(served: Gateway) -> None:
    reader, writer = await served.connect()
    writer.write(post(b"1", b"X-Request-Id: has spaces and more\r\n"))
    assert re.fullmatch(r"[0-9a-f]{16,32}", (await read_answer(reader)).headers["x-request-id"])
    writer.close()


async def test_without_an_id_of_its_own_a_request_takes_its_traces(served: Gateway) -> None:
    trace = b"4bf92f3577b34da6a3ce929d0e0e4736"
    reader, writer = await served.connect()
    writer.write(post(b"1", b"traceparent: 00-%b-00f067aa0ba902b7-01\r\n" % trace))
    assert (await read_answer(reader)).headers["x-request-id"] == trace.decode()
    writer.write(post(b"1", b"traceparent: 00-%b-00f067aa0ba902b7-01\r\n" % (b"0" * 32)))
    assert (await read_answer(reader)).headers["x-request-id"] != "0" * 32
    writer.close()


async def test_a_connection_is_kept_and_closed_when_asked(served: Gateway) -> None:
    reader, writer = await served.connect()
    for n in range(3):
        writer.write(post(b"%d" % n))
        assert (await read_answer(reader)).body == b"%d" % n
    writer.write(post(b"last", CLOSE))
    answer = await read_answer(reader)
    assert answer.headers["connection"] == "close"
    assert await reader.read() == b""
    writer.close()


async def test_pipelined_requests_are_answered_in_order(served: Gateway) -> None:
    reader, writer = await served.connect()
    mixed = [post(b"%d" % n) if n % 5 else b"GET /nowhere HTTP/1.1\r\n%b\r\n" % HOST for n in range(60)]
    writer.write(b"".join(mixed))
    for n in range(60):
        answer = await read_answer(reader)
        assert (answer.status, answer.body) == (200, b"%d" % n) if n % 5 else answer.status == 404
    writer.close()


async def test_any_split_of_the_bytes_gives_the_same_answers(served: Gateway) -> None:
    data = post(b"hello") + post(b"", b"Transfer-Encoding: identity\r\n").replace(
        b"Transfer-Encoding: identity\r\n", b"X-Pad: 1\r\n"
    ) + post(b"x" * 300)  # fmt: skip
    for step in (1, 7, 64):
        reader, writer = await served.connect()
        for at in range(0, len(data), step):
            writer.write(data[at : at + step])
            await asyncio.sleep(0)
        bodies = [(await read_answer(reader)).body for _ in range(3)]
        assert bodies == [b"hello", b"", b"x" * 300]
        writer.close()


async def test_chunked_bodies_are_joined(served: Gateway) -> None:
    reader, writer = await served.connect()
    head = b"POST /fn/p/f HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n" % HOST
    writer.write(head + b"5\r\nhello\r\n")
    await asyncio.sleep(0.02)
    writer.write(b"6;ext=1\r\n world\r\n0\r\nTrailer: x\r\n\r\n")
    assert (await read_answer(reader)).body == b"hello world"
    writer.close()


async def test_expect_100_continue_is_told_to_continue(served: Gateway) -> None:
    reader, writer = await served.connect()
    whole = post(b"body", b"Expect: 100-continue\r\n")
    writer.write(whole[:-4])
    async with asyncio.timeout(5):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"body")
    assert (await read_answer(reader)).body == b"body"
    writer.close()


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"])
async def test_other_methods_are_refused_with_what_is_allowed(served: Gateway, method: bytes) -> None:
    reader, writer = await served.connect()
    writer.write(method + b" /fn/p/f HTTP/1.1\r\n%b\r\n" % HOST)
    answer = await read_answer(reader, head=method == b"HEAD")
    assert answer.status == 405
    assert "POST" in answer.headers["allow"]
    writer.close()


async def test_a_body_over_the_limit_is_refused_by_its_announcement(served: Gateway) -> None:
    reader, writer = await served.connect()
    writer.write(b"POST /fn/p/f HTTP/1.1\r\n%bContent-Length: 2000000\r\n\r\n" % HOST)
    assert (await read_answer(reader)).status == 413
    writer.close()


async def test_a_chunked_body_that_grows_over_the_limit_is_refused(served: Gateway) -> None:
    reader, writer = await served.connect()
    writer.write(b"POST /fn/p/f HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n" % HOST)
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    for _ in range(20):
        writer.write(chunk)
    assert (await read_answer(reader)).status == 413
    writer.close()


async def test_an_endless_head_is_refused_and_the_connection_closed(served: Gateway) -> None:
    reader, writer = await served.connect()
    writer.write(b"POST /fn/p/f HTTP/1.1\r\n" + HOST)
    try:
        for _ in range(400):
            writer.write(b"X-Pad: " + b"x" * 1000 + b"\r\n")
            await asyncio.sleep(0)
    except ConnectionError:
        pass  # the server may have hung up in the middle
    assert (await read_answer(reader)).status == 431
    writer.close()


async def test_garbage_is_refused_and_the_connection_closed(served: Gateway) -> None:
    assert (await served.exchange(b"\x16\x03\x01\x02\x00nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400")


async def test_a_foreign_host_and_a_foreign_origin_are_refused(served: Gateway) -> None:
    foreign = post(b"1", CLOSE).replace(b"127.0.0.1", b"evil.example")
    assert (await served.exchange(foreign)).startswith(b"HTTP/1.1 403")
    origin = post(b"1", b"Origin: http://evil.example\r\n", CLOSE)
    assert (await served.exchange(origin)).startswith(b"HTTP/1.1 403")


async def test_unknown_paths_are_not_found(served: Gateway) -> None:
    for path in (b"/fn/p/nobody", b"/fn/nobody/f", b"/fn/p/f@9", b"/fn/p/f/", b"/fn//f", b"/fn/p/f/more"):
        received = await served.exchange(post(b"1", CLOSE, path=path))
        assert received.startswith(b"HTTP/1.1 404"), path


async def test_escaped_paths_reach_the_function(served: Gateway) -> None:
    for path in (b"/fn/p/%66", b"/fn/p/f?", b"/fn/p/f@1"):
        assert (await served.exchange(post(b"1", CLOSE, path=path))).startswith(b"HTTP/1.1 200"), path


async def test_http_1_0_is_answered_and_closed(served: Gateway) -> None:
    received = await served.exchange(post(b"1").replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"\r\n\r\n1")


async def test_a_bad_timeout_header_is_a_bad_request(served: Gateway) -> None:
    for value in (b"soon", b"-1", b"0", b"nan", b"inf"):
        received = await served.exchange(post(b"1", b"X-Clip-Timeout-Ms: %b\r\n" % value, CLOSE))
        assert received.startswith(b"HTTP/1.1 400"), value


async def test_a_compressed_body_is_unpacked(served: Gateway) -> None:
    packed = post(gzip.compress(b'{"x":1}'), b"Content-Encoding: gzip\r\n", CLOSE)
    assert (await served.exchange(packed)).endswith(b'\r\n\r\n{"x":1}')
    bomb = post(gzip.compress(b"0" * 2_000_000), b"Content-Encoding: gzip\r\n", CLOSE)
    assert (await served.exchange(bomb)).startswith(b"HTTP/1.1 413")
    assert (await served.exchange(post(b"1", b"Content-Encoding: br\r\n", CLOSE))).startswith(b"HTTP/1.1 415")


async def test_arguments_in_the_address_are_a_form_and_never_left_out(served: Gateway) -> None:
    received = await served.exchange(post(b"", CLOSE, path=b"/fn/p/f?x=1&y=a%20b"))
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"\r\n\r\nx=1&y=a%20b")
    both = await served.exchange(post(b"1", CLOSE, path=b"/fn/p/f?x=1"))
    assert both.startswith(b"HTTP/1.1 400")
    assert b"not in both" in both


async def test_a_client_that_never_finishes_its_request_is_let_go(fast_path: bool) -> None:
    async with gateway(fast_path=fast_path, body_timeout_s=0.2) as gate:
        await gate.harness.deploy(target())
        body = b"POST /fn/p/f HTTP/1.1\r\n%bContent-Length: 10\r\n%b\r\nhalf" % (HOST, CLOSE)
        assert (await gate.exchange(body)).startswith(b"HTTP/1.1 408")
        assert (await gate.exchange(b"POST /fn/p/f HTTP/1.1\r\nHost: 127")).startswith(b"HTTP/1.1 408")


class Held:
    """A behaviour that holds every batch until it is let go."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        self.started.set()
        await self.go.wait()
        return await echo(invoke, payloads)


async def test_a_client_that_goes_away_frees_its_place(fast_path: bool) -> None:
    held = Held()
    backend = InMemoryBackend(held)
    async with gateway(backend, fast_path=fast_path) as gate:
        await gate.harness.deploy(target())
        _, writer = await gate.connect()
        writer.write(post(b"1"))
        async with asyncio.timeout(5):
            await held.started.wait()
            queue = gate.harness.dispatcher.resolve("p/f")
            assert queue.running == 1
            writer.transport.abort()
            while queue.running:
                await asyncio.sleep(0.005)
        assert backend.replicas[0].cancelled == [0]
        held.go.set()


async def test_a_half_closed_client_gets_its_answer(fast_path: bool) -> None:
    held = Held()
    async with gateway(InMemoryBackend(held), fast_path=fast_path) as gate:
        await gate.harness.deploy(target())
        reader, writer = await gate.connect()
        writer.write(post(b"1"))
        async with asyncio.timeout(5):
            await held.started.wait()
            writer.write_eof()
            await asyncio.sleep(0.1)
            held.go.set()
            assert (await read_answer(reader)).body == b"1"
            assert await reader.read() == b""
        writer.close()


async def test_a_client_that_closes_orderly_frees_its_place(fast_path: bool) -> None:
    """As with a half-close, the server sees the end of what the client sends."""
    held = Held()
    async with gateway(InMemoryBackend(held), fast_path=fast_path) as gate:
        await gate.harness.deploy(target())
        _, writer = await gate.connect()
        writer.write(post(b"1"))
        async with asyncio.timeout(5):
            await held.started.wait()
            writer.close()
            queue = gate.harness.dispatcher.resolve("p/f")
            while queue.running:
                await asyncio.sleep(0.005)
        held.go.set()


# Offers to upgrade: curl --http2, the HTTP client of Java, a browser's WebSocket


@pytest.mark.parametrize("cut", [0, 1, 30, 150], ids=["one read", "after a byte", "in the head", "in the body"])
@pytest.mark.parametrize("connection", [b"Upgrade, HTTP2-Settings", b"upgrade", b"keep-alive, Upgrade"])
async def test_an_offer_to_upgrade_is_ignored_and_the_body_read(served: Gateway, connection: bytes, cut: int) -> None:
    offer = (b"Connection: %b\r\n" % connection, b"Upgrade: h2c\r\n", b"HTTP2-Settings: AAMAAABkAAQAoAAA\r\n")
    whole = post(b'{"x":1}', *offer, b"X-Request-Id: mine\r\n")
    reader, writer = await served.connect()
    for data in (whole[:cut], whole[cut:], whole + post(b"2"), post(b"3")):
        writer.write(data)
        await asyncio.sleep(0.01)
    answers = [await read_answer(reader) for _ in range(4)]
    assert [answer.body for answer in answers] == [b'{"x":1}', b'{"x":1}', b"2", b"3"]
    assert [answer.headers["x-request-id"] for answer in answers[:2]] == ["mine", "mine"]
    writer.close()


async def test_an_offer_to_upgrade_with_a_chunked_body_is_ignored(served: Gateway) -> None:
    head = b"POST /fn/p/f HTTP/1.1\r\n%bConnection: Upgrade\r\nUpgrade: h2c\r\n" % HOST
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    reader, writer = await served.connect()
    writer.write(chunked * 50)
    assert [(await read_answer(reader)).body for _ in range(50)] == [b"abc"] * 50
    writer.close()


async def test_a_websocket_that_is_offered_is_answered_as_a_plain_request(served: Gateway) -> None:
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    offer = b"GET /fn/p/f HTTP/1.1\r\n%bConnection: Upgrade\r\nUpgrade: websocket\r\n%b\r\n" % (HOST, key)
    reader, writer = await served.connect()
    writer.write(offer + post(b"1"))
    assert [(await read_answer(reader)).status for _ in range(2)] == [405, 200]
    writer.close()


async def test_the_host_of_an_absolute_target_counts_and_not_the_header(served: Gateway) -> None:
    reader, writer = await served.connect()
    for host, status in ((b"127.0.0.1:8700", 200), (b"evil.example", 403), (b"127.0.0.1@evil.example", 403)):
        writer.write(post(b"1", path=b"http://%b/fn/p/f" % host))
        assert (await read_answer(reader)).status == status
    writer.close()


# Errors of the protocol

CHUNKED = b"POST /fn/p/f HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n" % HOST


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00nonsense\r\n\r\n", 400, "invalid_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_request"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\nabc", 405, "method_not_allowed"),
        (post(b"1", b"Content-Length: 2\r\n"), 400, "invalid_request"),
        (post(b"1", b"Transfer-Encoding: chunked\r\n"), 400, "invalid_request"),
        (post(b"1").replace(b"Content-Length: 1", b"Content-Length: one"), 400, "invalid_request"),
        (post(b"1", b"X: " + b"x" * 70_000 + b"\r\n"), 431, "headers_too_large"),
        (post(b"1").replace(b"HTTP/1.1", b"HTTP/2.0"), 400, "invalid_request"),
        (post(b"1").replace(b"HTTP/1.1", b"HTTP/0.9"), 400, "invalid_request"),
        (CHUNKED.replace(b"chunked", b"gzip, chunked"), 400, "invalid_request"),
        (CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "invalid_request"),
    ],
)
async def test_an_error_of_the_protocol_is_the_json_error(served: Gateway, data: bytes, status: int, code: str) -> None:
    reader, writer = await served.connect()
    writer.write(post(b"before") + data + post(b"after"))
    assert (await read_answer(reader)).body == b"before"
    answer = await read_answer(reader)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert answer.headers["connection"] == "close"
    error = json.loads(answer.body)["error"]
    assert (error["code"], error["request_id"]) == (code, answer.headers["x-request-id"])
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_a_refusal_reaches_a_client_that_is_still_sending(served: Gateway) -> None:
    reader, writer = await served.connect()
    writer.write(b"POST /fn/p/f HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n" % HOST)
    for _ in range(100):
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
    async with asyncio.timeout(5):
        await writer.drain()
    assert (await read_answer(reader)).status == 413
    writer.close()


async def test_trailers_are_no_headers(served: Gateway) -> None:
    head = b"POST /fn/p/f HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n" % HOST
    trailer = b"X-Request-Id: trailer\r\nX-Clip-Timeout-Ms: never\r\nHost: evil\r\nAccept: text/event-stream\r\n"
    reader, writer = await served.connect()
    for more in (b"", b"Sec-Fetch-Site: none\r\n"):
        writer.write(head + more + b"\r\n3\r\nabc\r\n0\r\n" + trailer + b"\r\n")
        answer = await read_answer(reader)
        assert (answer.status, answer.body) == (200, b"abc")
        assert answer.headers["x-request-id"] != "trailer"
    writer.close()


@pytest.mark.parametrize("endless", [b"X: y\r\n" * 1000, b"x" * 6000], ids=["trailers", "trailer"])
async def test_endless_trailers_are_refused(served: Gateway, endless: bytes) -> None:
    reader, writer = await served.connect()
    writer.write(b"POST /fn/p/f HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b" % HOST)
    for _ in range(20):
        writer.write(endless)
        await asyncio.sleep(0.002)
    assert (await read_answer(reader)).status == 431
    writer.close()


async def test_an_endless_chunk_extension_is_refused(served: Gateway) -> None:
    reader, writer = await served.connect()
    writer.write(b"POST /fn/p/f HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n3;e=" % HOST)
    for _ in range(20):
        writer.write(b"x" * 6000)
        await asyncio.sleep(0.002)
    assert (await read_answer(reader)).status == 431
    writer.close()


async def test_chunks_of_one_byte_are_a_body_like_any_other(served: Gateway) -> None:
    reader, writer = await served.connect()
    writer.write(b"POST /fn/p/f HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n" % HOST)
    for _ in range(100):
        writer.write(b"1\r\nx\r\n" * 500)
        await asyncio.sleep(0)
    writer.write(b"0\r\n\r\n")
    assert (await read_answer(reader)).body == b"x" * 50_000
    writer.close()


async def test_pipelined_requests_of_a_client_that_goes_away_are_dropped(fast_path: bool) -> None:
    held = Held()
    async with gateway(InMemoryBackend(held), fast_path=fast_path) as gate:
        await gate.harness.deploy(target())
        _, writer = await gate.connect()
        writer.write(post(b"1") * 10)
        async with asyncio.timeout(5):
            await held.started.wait()
            writer.transport.abort()
            queue = gate.harness.dispatcher.resolve("p/f")
            while queue.running or queue.waiting.live:
                await asyncio.sleep(0.005)
        held.go.set()


async def test_a_client_that_does_not_read_is_not_worked_for(fast_path: bool) -> None:
    """Answers of 256 KiB to a client that reads nothing: the server stops after a few of the hundred asked for."""
    big = b"x" * (256 * 1024)

    async def behaviour(invoke: wire.Invoke, _: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        outcomes = [wire.Outcome(i.id, wire.Status.OK, "application/json", len(big)) for i in invoke.items]
        return wire.Result(invoke.batch, outcomes), [big] * len(outcomes)

    backend = InMemoryBackend(behaviour)
    async with gateway(backend, fast_path=fast_path) as gate:
        await gate.harness.deploy(target())
        reader, writer = await gate.connect()
        writer.write(post(b"1") * 100)
        await asyncio.sleep(0.3)
        served = sum(len(i.items) for i in backend.replicas[0].invokes)
        assert served < 60
        for _ in range(100):
            assert (await read_answer(reader)).body == big
        writer.close()


async def test_a_graceful_shutdown_answers_what_runs_and_closes_what_is_idle(fast_path: bool) -> None:
    held = Held()
    async with gateway(InMemoryBackend(held), fast_path=fast_path) as gate:
        await gate.harness.deploy(target())
        idle_reader, idle_writer = await gate.connect()
        reader, writer = await gate.connect()
        writer.write(post(b"1"))
        async with asyncio.timeout(5):
            await held.started.wait()
            stopping = asyncio.create_task(gate.server.shutdown())
            assert await idle_reader.read() == b""
            held.go.set()
            answer = await read_answer(reader)
            assert answer.body == b"1"
            assert answer.headers["connection"] == "close"
            await stopping
        idle_writer.close()
        writer.close()


def shape(answer: Answer) -> tuple[int, dict[str, str], str]:
    """What two answers of a kind have in common: everything but ids, times and the date."""
    alike = {name: re.sub(r"\d+\.\d+", "T", value) for name, value in answer.headers.items() if name != "date"}
    id = alike.pop("x-request-id")
    assert re.fullmatch(r"[0-9a-f]{16}", id)
    return answer.status, alike, answer.body.decode().replace(id, "ID")


async def ask_twice(gate: Gateway, data: bytes) -> tuple[Answer, Answer]:
    """The same bytes twice on one connection: the second time, the head is a known one."""
    reader, writer = await gate.connect()
    answers = []
    for _ in range(2):
        writer.write(data)
        answers.append(await read_answer(reader))
    writer.close()
    first, second = answers
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    return first, second


async def test_a_request_whose_head_is_known_is_answered_like_the_first() -> None:
    seen = []
    for fast in (True, False):
        async with gateway(fast_path=fast) as gate:
            await gate.harness.deploy(target())
            seen += [shape(answer) for answer in await ask_twice(gate, post(b'{"x":1}'))]
    assert seen[0] == seen[1] == seen[2] == seen[3]


async def test_a_hit_of_the_cache_is_the_same_answer_by_every_way() -> None:
    seen, counts = [], []
    for fast in (True, False):
        async with gateway(fast_path=fast) as gate:
            await gate.harness.deploy(target(cache_ttl_s=60.0))
            await ask_twice(gate, post(b"7"))
            hits = await ask_twice(gate, post(b"7"))
            seen += [shape(answer) for answer in hits]
            status = gate.harness.facts.status(target().id)
            assert status is not None
            metrics = gate.harness.metrics
            counts.append((
                status.cache_hits, status.cache_misses, metrics.cache_requests.child("p/f", "hit").value,
                metrics.invocations.child("p/f", "1", "200").value, sum(metrics.duration.child("p/f", "1").counts),
            ))  # fmt: skip
    assert seen[0][1]["cache-status"] == "clipper; hit"
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert counts == [(3, 1, 3, 4, 4)] * 2


async def test_a_cached_request_with_a_timeout_is_looked_up_once(fast_path: bool) -> None:
    async with gateway(fast_path=fast_path) as gate:
        await gate.harness.deploy(target(cache_ttl_s=60.0))
        results = gate.harness.dispatcher.cache.results
        first, second = await ask_twice(gate, post(b"7", b"X-Clip-Timeout-Ms: 5000\r\n"))
        assert (first.body, second.body) == (b"7", b"7")
        third, _ = await ask_twice(gate, post(b"8", b"X-Clip-Timeout-Ms: 5000\r\n"))
        assert third.headers["cache-status"] == "clipper; fwd=miss; stored"
        assert results.requests == 4


async def test_a_refusal_is_the_same_answer_by_every_way(fast_path: bool) -> None:
    held = Held()
    async with gateway(InMemoryBackend(held, ready=UNBATCHED), fast_path=fast_path) as gate:
        await gate.harness.deploy(target(max_queued_requests=1))
        waiting = [await gate.connect() for _ in range(4)]
        for n, (_, writer) in enumerate(waiting):
            writer.write(post(b"%d" % n))
            await asyncio.sleep(0.02)
        # The first ones are with the replica, one waits, the rest is refused.
        assert (await read_answer(waiting[3][0])).status == 429
        before = gate.harness.metrics.invocations.child("p/f", "1", "429").value
        first, second = await ask_twice(gate, post(b"9"))
        assert shape(first) == shape(second)
        assert first.headers["retry-after"] == "1"
        assert first.headers["server-timing"].startswith("total;dur=")
        assert first.body == (
            b'{"error":{"code":"queue_full","message":"p/f has 1 invocations waiting","request_id":"%b"}}'
            % first.headers["x-request-id"].encode()
        )
        refused = gate.harness.metrics.invocations.child("p/f", "1", "429").value
        assert refused == gate.harness.metrics.refused.child("p/f", "1", "function").value == before + 2
        held.go.set()
        for _, writer in waiting:
            writer.close()


async def test_only_plain_requests_take_the_fast_path() -> None:
    """The fast path must be what is measured: a plain request leaves no task behind, others make one."""
    async with gateway(fast_path=True) as gate:
        await gate.harness.deploy(target())
        gate.harness.dispatcher.resolve("p/f").streaming = False
        before = gate.server.server_state.total_requests
        seen: list[int] = []

        async def behaviour(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
            seen.append(len(gate.server.server_state.tasks))
            return await echo(invoke, payloads)

        gate.harness.backend.replicas[0]._behaviour = behaviour
        await gate.exchange(post(b"1", CLOSE))
        await gate.exchange(post(b"1", CLOSE, path=b"/fn/p/%66"))
        assert seen == [0, 1]
        assert gate.server.server_state.total_requests == before + 2


async def test_a_streaming_function_is_left_to_starlette() -> None:
    ready = wire.Ready(schema=READY.schema, batched=False, streaming=True, concurrency=1, phases={})

    async def stream(invoke: wire.Invoke, _: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        for n in range(3):
            backend.replicas[0].emit_chunk(wire.Chunk(invoke.items[0].id, n, "application/json"), b"%d" % n)
        await asyncio.sleep(0)
        return wire.Result(invoke.batch, [wire.Outcome(invoke.items[0].id, wire.Status.OK)]), [b""]

    backend = InMemoryBackend(stream, ready=ready)
    async with gateway(backend, fast_path=True) as gate:
        await gate.harness.deploy(target())
        assert (await gate.exchange(post(b"1", CLOSE))).endswith(b"[0,1,2]")
        received = await gate.exchange(post(b"1", b"Accept: text/event-stream\r\n", CLOSE))
        assert b"data: 0\n\n" in received
        assert b"event: end" in received
        received = await gate.exchange(post(b"1", b"Accept: application/x-ndjson\r\n", CLOSE))
        assert b"content-type: application/x-ndjson\r\n" in received
        assert b"2\r\n0\n\r\n2\r\n1\n\r\n2\r\n2\n\r\n" in received
        both = b"Accept: application/json, text/event-stream\r\n"
        assert (await gate.exchange(post(b"1", both, CLOSE))).endswith(b"[0,1,2]")


# What the function says about its answer


def responding(head: wire.ResponseHead, content_type: str, body: bytes) -> InMemoryBackend:
    async def answer(invoke: wire.Invoke, _: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        outcomes = [wire.Outcome(i.id, wire.Status.OK, content_type, len(body), response=head) for i in invoke.items]
        return wire.Result(invoke.batch, outcomes), [body] * len(invoke.items)

    return InMemoryBackend(answer)


async def test_a_response_of_the_function_has_its_status_its_headers_and_the_platforms(fast_path: bool) -> None:
    head = wire.ResponseHead(201, (("location", "/jobs/7"), ("x-request-id", "forged"), ("x", "a\r\nset-cookie: b")))
    async with gateway(responding(head, "text/html; charset=utf-8", b"<b>"), fast_path=fast_path) as gate:
        await gate.harness.deploy(target())
        reader, writer = await gate.connect()
        for n in range(3):  # the later ones have a known head
            writer.write(post(b"%d" % n))
            answer = await read_answer(reader)
            assert (answer.status, answer.body, answer.headers["content-type"]) == (
                201,
                b"<b>",
                "text/html; charset=utf-8",
            )
            assert (answer.headers["location"], answer.headers["x-clip-response"]) == ("/jobs/7", "1")
            assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"])
            assert not {"x", "set-cookie"} & set(answer.headers)
        writer.close()


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_is_followed_by_the_next_answer(fast_path: bool, status: int) -> None:
    head = wire.ResponseHead(status, (("etag", '"1"'),))
    async with gateway(responding(head, "text/plain", b"must not be sent"), fast_path=fast_path) as gate:
        await gate.harness.deploy(target())
        reader, writer = await gate.connect()
        writer.write(post(b"1") * 3)
        for _ in range(3):
            async with asyncio.timeout(5):
                raw = await reader.readuntil(b"\r\n\r\n")
            assert raw.startswith(b"HTTP/1.1 %d " % status)
            assert b"content-length" not in raw.lower()
        writer.close()


async def test_a_response_with_an_impossible_status_is_an_invalid_result(fast_path: bool) -> None:
    async with gateway(responding(wire.ResponseHead(42), "text/plain", b"x"), fast_path=fast_path) as gate:
        await gate.harness.deploy(target())
        reader, writer = await gate.connect()
        writer.write(post(b"1"))
        answer = await read_answer(reader)
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (500, "invalid_result")
        writer.close()


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (wire.ResponseHead(200, (("etag", '"1"'),)), True),
        (wire.ResponseHead(404), False),
        (wire.ResponseHead(200, (("cache-control", "Private, max-age=5"),)), False),
    ],
)
async def test_a_response_is_kept_by_the_cache_unless_it_is_an_error_or_forbids_it(
    fast_path: bool, head: wire.ResponseHead, kept: bool
) -> None:
    async with gateway(responding(head, "text/csv", b"a,b"), fast_path=fast_path) as gate:
        await gate.harness.deploy(target(cache_ttl_s=60.0))
        reader, writer = await gate.connect()
        seen = []
        for _ in range(4):
            writer.write(post(b"1"))
            answer = await read_answer(reader)
            assert (answer.status, answer.body) == (head.status, b"a,b")
            assert set(dict(head.headers)) <= set(answer.headers)
            seen.append(answer.headers["cache-status"])
        assert seen == (["clipper; fwd=miss; stored", *["clipper; hit"] * 3] if kept else ["clipper; fwd=miss"] * 4)
        writer.close()


# Packed answers

JSON_TEXT = json.dumps(list(range(20_000))).encode()


@pytest.mark.parametrize("body", [JSON_TEXT, JSON_TEXT[:7000] + b"]"], ids=["in a thread", "in the loop"])
@pytest.mark.parametrize("cached", [False, True])
async def test_a_large_answer_is_packed_for_a_client_that_takes_it(fast_path: bool, body: bytes, cached: bool) -> None:
    async with gateway(fast_path=fast_path) as gate:
        await gate.harness.deploy(target(**({"cache_ttl_s": 60.0} if cached else {})))
        reader, writer = await gate.connect()
        for accept, coding in ((b"gzip, deflate", "gzip"), (b"br, zstd", "zstd"), (b"gzip;q=0", ""), (b"gzip", "gzip")):
            for _ in range(2):
                writer.write(post(body, b"Accept-Encoding: %b\r\n" % accept, b"Content-Type: application/json\r\n"))
                answer = await read_answer(reader)
                unpack = {"gzip": gzip.decompress, "zstd": zstd.decompress, "": bytes}[coding]
                assert (answer.status, unpack(answer.body)) == (200, body)
                assert answer.headers.get("content-encoding", "") == coding
                assert answer.headers["vary"] == "accept-encoding"
        writer.close()


async def test_an_answer_that_is_small_or_packed_already_is_sent_as_it_is(served: Gateway) -> None:
    reader, writer = await served.connect()
    for body, kind in ((b"1" * 1000, b"application/json"), (b"1" * 5000, b"image/png")):
        writer.write(post(body, b"Accept-Encoding: gzip\r\n", b"Content-Type: %b\r\n" % kind))
        answer = await read_answer(reader)
        assert (answer.body, "content-encoding" in answer.headers, "vary" in answer.headers) == (body, False, False)
    writer.close()


async def test_a_response_that_says_how_it_is_packed_is_not_packed_again(fast_path: bool) -> None:
    head = wire.ResponseHead(200, (("content-encoding", "br"),))
    async with gateway(responding(head, "text/html", b"x" * 5000), fast_path=fast_path) as gate:
        await gate.harness.deploy(target())
        reader, writer = await gate.connect()
        writer.write(post(b"1", b"Accept-Encoding: gzip\r\n"))
        answer = await read_answer(reader)
        assert (answer.headers["content-encoding"], answer.body) == ("br", b"x" * 5000)
        writer.close()


async def test_pipelined_requests_wait_while_an_answer_is_packed(served: Gateway) -> None:
    reader, writer = await served.connect()
    large = post(JSON_TEXT, b"Accept-Encoding: gzip\r\n", b"Content-Type: application/json\r\n")
    writer.write(large + post(b"2") + large + post(b"3", CLOSE))
    bodies = [(await read_answer(reader)).body for _ in range(4)]
    assert [gzip.decompress(bodies[n]) for n in (0, 2)] == [JSON_TEXT] * 2
    assert (bodies[1], bodies[3]) == (b"2", b"3")
    writer.close()


async def test_a_client_that_leaves_while_its_answer_is_packed_leaves_nothing_behind(served: Gateway) -> None:
    _, writer = await served.connect()
    writer.write(post(JSON_TEXT, b"Accept-Encoding: gzip\r\n", b"Content-Type: application/json\r\n"))
    writer.transport.abort()
    async with asyncio.timeout(5):
        while served.server.server_state.connections:
            await asyncio.sleep(0.01)
    queue = served.harness.dispatcher.resolve("p/f")
    assert (queue.running, queue.waiting.live) == (0, 0)
