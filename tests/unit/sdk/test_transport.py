from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from clipper import errors
from clipper.location import Location
from clipper.transport import AsyncConnection, Connection, Request, RetryPolicy, error_from, translate
from tests.unit.sdk.scripted_platform import ScriptedPlatform, error_response, json_response

RNG = random.Random(0)


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def connection(platform: ScriptedPlatform, fake_time: FakeTime) -> Iterator[Connection]:
    connection = Connection(
        Location(platform.url, "clip_k"), clock=fake_time.clock, sleep=fake_time.sleep, rng=random.Random(0)
    )
    yield connection
    connection.close()


GET = Request(method="GET", path="/thing", timeout_s=10.0)


def subclasses(cls: type[Exception]) -> list[type[Exception]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in subclasses(sub))]


@pytest.mark.parametrize("cls", [*subclasses(httpx.HTTPError), httpx.InvalidURL], ids=lambda cls: cls.__name__)
def test_every_exception_of_the_http_library_becomes_one_of_ours(cls: type[Exception]) -> None:
    if cls is httpx.HTTPStatusError:
        error: Exception = httpx.HTTPStatusError("x", request=None, response=None)  # type: ignore[arg-type]  # unused
    else:
        error = cls("x")
    ours = translate(error, "http://here")
    assert type(ours) in (
        errors.PlatformUnreachable, errors.ConnectionLost, errors.DeadlineExceeded, errors.UnexpectedAnswer
    )  # fmt: skip
    assert "http://here" in ours.message


# What may be tried again


@given(
    error=st.sampled_from(
        [
            errors.NotFound("x"), errors.FunctionError("x"), errors.ReplicaLost("x"), errors.DeadlineExceeded("x"),
            errors.SchemaMismatch("x"), errors.UnexpectedAnswer("x"), errors.Conflict("x"), errors.ConnectionLost("x"),
        ]
    )
)  # fmt: skip
def test_what_the_platform_may_have_begun_is_not_repeated(error: errors.ClipperError) -> None:
    assert RetryPolicy().delay_s(error, attempt=1, remaining_s=100, safe=False, rng=RNG) is None


@given(
    error=st.sampled_from([errors.QueueFull, errors.Unavailable, errors.StoreUnavailable, errors.PlatformUnreachable]),
    attempt=st.integers(1, 10),
    remaining_s=st.floats(0, 100),
    retry_after_s=st.none() | st.floats(0, 50),
)
def test_a_wait_is_never_shorter_than_asked_for_nor_longer_than_the_time_left(
    error: type[errors.ClipperError], attempt: int, remaining_s: float, retry_after_s: float | None
) -> None:
    policy = RetryPolicy()
    refused = error("x", retry_after_s=retry_after_s)
    delay = policy.delay_s(refused, attempt=attempt, remaining_s=remaining_s, safe=False, rng=RNG)
    if delay is None:
        limit = policy.max_connect_attempts if error is errors.PlatformUnreachable else policy.max_attempts
        longest = max(policy.max_delay_s, (retry_after_s or 0) * 1.1)
        assert attempt >= limit or remaining_s <= longest
    else:
        assert (retry_after_s or 0) <= delay < remaining_s


def test_a_broken_connection_is_retried_for_safe_requests_only() -> None:
    lost = errors.ConnectionLost("x")
    assert RetryPolicy().delay_s(lost, attempt=1, remaining_s=10, safe=True, rng=RNG) is not None
    assert RetryPolicy().delay_s(lost, attempt=1, remaining_s=10, safe=False, rng=RNG) is None


def test_waits_grow_between_tries() -> None:
    delays = [
        RetryPolicy().delay_s(errors.QueueFull("x"), attempt=n, remaining_s=100, safe=False, rng=random.Random(0))
        for n in range(1, 6)
    ]
    assert delays == sorted(delays, key=float)  # type: ignore[arg-type]  # none is None here
    assert len(set(delays)) == 5


# Over a real connection


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_is_repeated_after_the_time_that_the_platform_asks_for(
    status: int, platform: ScriptedPlatform, connection: Connection, fake_time: FakeTime
) -> None:
    code = {429: "queue_full", 503: "unavailable"}[status]
    platform.scripted.extend([error_response(status, code, headers={"Retry-After": "3"}), json_response({"a": 1})])
    assert connection.send(GET).content == b'{"a": 1}'
    assert len(platform.seen) == 2
    assert len(fake_time.slept) == 1
    assert 3.0 <= fake_time.slept[0] <= 3.3


def test_a_refusal_that_outlasts_the_timeout_is_raised_at_once(
    platform: ScriptedPlatform, connection: Connection, fake_time: FakeTime
) -> None:
    platform.scripted.append(error_response(429, "queue_full", "queue of 1000 is full", {"Retry-After": "60"}))
    with pytest.raises(errors.QueueFull, match="queue of 1000 is full") as caught:
        connection.send(GET)
    assert caught.value.retry_after_s == 60.0
    assert fake_time.slept == []


def test_refusals_end_with_the_last_one_when_the_tries_are_spent(
    platform: ScriptedPlatform, connection: Connection
) -> None:
    platform.scripted.extend(error_response(503, "unavailable", f"try {n}") for n in range(20))
    with pytest.raises(errors.Unavailable, match="try 7"):
        connection.send(Request(method="GET", path="/x", timeout_s=1000.0))
    assert len(platform.seen) == RetryPolicy().max_attempts


def test_each_try_tells_the_platform_the_time_that_is_left(
    platform: ScriptedPlatform, connection: Connection, fake_time: FakeTime
) -> None:
    platform.scripted.extend([error_response(429, "queue_full", headers={"Retry-After": "4"}), json_response({})])
    connection.send(Request(method="POST", path="/x", timeout_s=10.0, deadline=True))
    first, second = (int(seen.headers["x-clip-timeout-ms"]) for seen in platform.seen)
    assert first == 10_000
    assert second == pytest.approx(10_000 - fake_time.slept[0] * 1000, abs=2)


def test_an_error_answer_becomes_its_exception(platform: ScriptedPlatform, connection: Connection) -> None:
    platform.scripted.append(error_response(422, "schema_mismatch", "Expected `int` - at `$.n`", path="$.n"))
    with pytest.raises(errors.SchemaMismatch) as caught:
        connection.send(GET)
    error = caught.value
    assert (error.code, error.status, error.message) == ("schema_mismatch", 422, "Expected `int` - at `$.n`")
    assert (error.request_id, error.details, error.retryable) == ("req-1", {"path": "$.n"}, False)


@pytest.mark.parametrize(
    "content", [b"", b"<html>Bad gateway</html>", b"[]", b'{"error": "x"}', b'{"error": {"code": "x"}}', b"[" * 99_999]
)
def test_a_foreign_error_page_is_told_apart(content: bytes) -> None:
    error = error_from(502, {}, content, "http://here")
    assert isinstance(error, errors.UnexpectedAnswer)
    assert (error.status, error.retryable) == (502, True)


def test_a_redirect_is_not_followed(platform: ScriptedPlatform, connection: Connection) -> None:
    platform.scripted.append(Response(status_code=307, headers={"Location": "/elsewhere"}))
    with pytest.raises(errors.UnexpectedAnswer):
        connection.send(GET)
    assert platform.paths() == ["GET /thing"]


def test_the_key_and_the_user_agent_are_sent(platform: ScriptedPlatform, connection: Connection) -> None:
    platform.scripted.append(json_response({}))
    connection.send(GET)
    headers = platform.seen[0].headers
    assert headers["authorization"] == "Bearer clip_k"
    assert headers["user-agent"].startswith("clipper/")


def test_connections_are_reused(platform: ScriptedPlatform, connection: Connection) -> None:
    opened: list[object] = []
    real = socket.create_connection

    def counted(*args: object, **kwargs: object) -> socket.socket:
        opened.append(args)
        return real(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    platform.scripted.extend(json_response({}) for _ in range(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "create_connection", counted)
        for _ in range(3):
            connection.send(GET)
    assert len(opened) == 1


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    platform.scripted.append(json_response({"direct": True}))
    connection = Connection(Location(platform.url))
    try:
        assert connection.send(GET).status == 200
    finally:
        connection.close()


def test_a_refused_connection_is_tried_again_and_then_asks_whether_the_platform_runs(fake_time: FakeTime) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    connection = Connection(Location(f"http://127.0.0.1:{port}"), clock=fake_time.clock, sleep=fake_time.sleep)
    try:
        with pytest.raises(errors.PlatformUnreachable, match=rf"127\.0\.0\.1:{port}; is `clip up` running\?") as caught:
            connection.send(GET)
    finally:
        connection.close()
    assert caught.value.retryable
    assert len(fake_time.slept) == RetryPolicy().max_connect_attempts - 1


class Rude:
    """Accepts connections and does `answers` to them, one after the other."""

    def __init__(self, *answers: bytes) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.accepted = 0
        self._answers = answers
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            peer, _ = self.socket.accept()
            self.accepted += 1
            with peer:
                peer.recv(65536)
                peer.sendall(answer)

    def close(self) -> None:
        self._thread.join(5)
        self.socket.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"


def test_an_invocation_whose_connection_breaks_is_not_sent_twice(fake_time: FakeTime) -> None:
    rude = Rude(b"")
    connection = Connection(Location(rude.url), clock=fake_time.clock, sleep=fake_time.sleep)
    try:
        with pytest.raises(errors.ConnectionLost):
            connection.send(Request(method="POST", path="/fn/a/b", timeout_s=5.0))
    finally:
        connection.close()
        rude.close()
    assert rude.accepted == 1


def test_a_safe_request_whose_connection_breaks_is_sent_again(fake_time: FakeTime) -> None:
    rude = Rude(b"", OK)
    connection = Connection(Location(rude.url), clock=fake_time.clock, sleep=fake_time.sleep)
    try:
        assert connection.send(Request(method="GET", path="/x", timeout_s=5.0, safe=True)).content == b"{}"
    finally:
        connection.close()
        rude.close()
    assert rude.accepted == 2


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", OK.replace(b": 2", b": 9")])
def test_a_broken_answer_is_a_lost_connection(answer: bytes) -> None:
    rude = Rude(answer)
    connection = Connection(Location(rude.url))
    try:
        with pytest.raises(errors.ConnectionLost):
            connection.send(Request(method="POST", path="/x", timeout_s=5.0))
    finally:
        connection.close()
        rude.close()


async def test_the_awaited_connection_retries_and_translates_alike(platform: ScriptedPlatform) -> None:
    connection = AsyncConnection(Location(platform.url), retry=RetryPolicy(base_delay_s=0.001))
    platform.scripted.extend(
        [error_response(429, "queue_full", headers={"Retry-After": "0"}), error_response(404, "not_found", "gone")]
    )
    try:
        with pytest.raises(errors.NotFound, match="gone"):
            await connection.send(GET)
    finally:
        await connection.close()
    assert len(platform.seen) == 2


async def test_an_awaited_request_to_nobody_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    connection = AsyncConnection(Location(f"http://127.0.0.1:{port}"), retry=RetryPolicy(max_connect_attempts=1))
    try:
        with pytest.raises(errors.PlatformUnreachable):
            await connection.send(GET)
    finally:
        await connection.close()


async def test_cancelling_an_awaited_request_closes_its_connection(platform: ScriptedPlatform) -> None:
    connection = AsyncConnection(Location(platform.url))
    task = asyncio.create_task(connection.send(Request(method="POST", path="/fn/a/hang")))
    await asyncio.to_thread(platform.entered.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(platform.left.wait, 5)
    assert set(connection._in_flight) == {0}
    await connection.close()


async def test_one_request_after_the_other_uses_one_pool_and_many_at_once_use_several(
    platform: ScriptedPlatform,
) -> None:
    three = asyncio.Barrier(3)

    async def together(**_: int) -> int:
        await three.wait()
        return 1

    platform.functions |= {"one": lambda: 1, "many": together}
    connection = AsyncConnection(Location(platform.url))
    try:
        for _ in range(3):
            await connection.send(Request(method="POST", path="/fn/a/one", content=b"{}"))
        assert len(connection._pools) == 1
        many = Request(method="POST", path="/fn/a/many", content=b"{}")
        await asyncio.gather(*(connection.send(many) for _ in range(3)))
        assert len(connection._pools) == 3
        assert set(connection._in_flight) == {0}
    finally:
        await connection.close()
