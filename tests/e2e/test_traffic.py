"""Requests under way: queues that are full, clients that leave, deadlines, streams, batches, many at once."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import httpx
import pytest

from tests.e2e.conftest import Deploy
from tests.support.platform import PlatformProcess, eventually

APP = """
import asyncio, time
import clipper

@clipper.function(max_queued_requests=2, max_ongoing_requests=1)
def slow(seconds: float) -> str:
    time.sleep(seconds)
    return "done"

@clipper.function(max_ongoing_requests=4)
async def patient(seconds: float) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        print("nobody waits any more")
        raise
    return "done"

@clipper.function(timeout_s=0.5)
async def late(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"

@clipper.function(max_batch_size=32, batch_wait_timeout_s=0.05)
def together(n: list[int]) -> list[object]:
    return [ValueError("seven") if one == 7 else [one, len(n)] for one in n]

@clipper.function()
def endless():
    n = 0
    try:
        while True:
            yield n
            n += 1
            time.sleep(0.01)
    finally:
        print("the stream was closed")

@clipper.function()
def breaks(after: int):
    yield from range(after)
    raise RuntimeError("the stream broke")
"""


@pytest.fixture(scope="module")
def traffic(platform: PlatformProcess, deploy_once: Deploy) -> str:
    return deploy_once(APP)


@pytest.fixture(autouse=True)
def idle_again(platform: PlatformProcess, traffic: str) -> Iterator[None]:
    """Whatever happens in a test, nothing stays queued or running after it."""
    yield

    def idle() -> bool:
        functions = platform.api("GET", f"/projects/{traffic}").json()["functions"]
        return all(f["queue_depth"] == f["running"] == 0 for f in functions)

    eventually(idle, within_s=15)
    gauges = {
        k: v
        for k, v in platform.metrics().items()
        if k.startswith(("clip_queue_depth{", "clip_running{")) and traffic in k
    }
    assert gauges
    assert not any(gauges.values()), gauges


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(platform: PlatformProcess, traffic: str) -> None:
    def call(_: int) -> tuple[httpx.Response, float]:
        began = time.monotonic()
        answer = platform.post(f"/fn/{traffic}/slow", json={"seconds": 0.8}, timeout=30)
        return answer, time.monotonic() - began

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(call, range(10)))
    served = [a for a, _ in answers if a.status_code == 200]
    refused = [(a, took) for a, took in answers if a.status_code == 429]
    assert len(served) + len(refused) == 10
    assert 3 <= len(served) <= 5  # one running (two may be sent ahead), two queued
    for answer, took in refused:
        assert took < 0.7
        assert answer.json()["error"]["code"] == "queue_full"
        assert int(answer.headers["retry-after"]) >= 1
    assert platform.call(f"{traffic}/slow", seconds=0) == "done"


def test_a_client_that_leaves_frees_its_place_and_the_function_hears_of_it(
    platform: PlatformProcess, traffic: str
) -> None:
    body = json.dumps({"seconds": 60}).encode()
    request = (
        f"POST /fn/{traffic}/patient HTTP/1.1\r\nHost: 127.0.0.1:{platform.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    clients = [socket.create_connection(("127.0.0.1", platform.port)) for _ in range(12)]
    for client in clients:
        client.sendall(request)
    eventually(lambda: (s := platform.status(f"{traffic}/patient"))["running"] + s["queue_depth"] == 12)
    for client in clients:
        client.close()
    eventually(lambda: (s := platform.status(f"{traffic}/patient"))["running"] + s["queue_depth"] == 0)
    eventually(lambda: "nobody waits any more" in platform.clip("logs", f"{traffic}/patient").out)
    assert platform.call(f"{traffic}/patient", seconds=0) == "done"


def test_an_answer_after_the_deadline_is_a_504(platform: PlatformProcess, traffic: str) -> None:
    began = time.monotonic()
    answer = platform.post(f"/fn/{traffic}/late", json={"seconds": 20}, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert 0.4 < time.monotonic() - began < 3


def test_the_caller_may_set_a_shorter_deadline(platform: PlatformProcess, traffic: str) -> None:
    began = time.monotonic()
    path = f"/fn/{traffic}/patient"
    answer = platform.post(path, json={"seconds": 20}, headers={"x-clip-timeout-ms": "200"}, timeout=30)
    assert answer.status_code == 504
    assert time.monotonic() - began < 3
    nonsense = platform.post(path, json={"seconds": 0}, headers={"x-clip-timeout-ms": "soon"})
    assert nonsense.status_code == 400


def test_invocations_that_come_together_run_together_and_fail_alone(platform: PlatformProcess, traffic: str) -> None:
    def call(n: int) -> httpx.Response:
        return platform.post(f"/fn/{traffic}/together", json={"n": n}, timeout=30)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(call, range(16)))
    assert answers[7].status_code == 500
    assert answers[7].json()["error"]["message"].endswith("seven")
    others = [answer.json() for n, answer in enumerate(answers) if n != 7]
    assert [n for n, _ in others] == [n for n in range(16) if n != 7]
    assert max(size for _, size in others) > 1


def test_a_stream_whose_reader_leaves_is_closed(platform: PlatformProcess, traffic: str) -> None:
    with (
        platform.client() as http,
        http.stream("POST", f"/fn/{traffic}/endless", json={}, headers={"accept": "text/event-stream"}) as response,
    ):
        lines = response.iter_lines()
        data = [next(lines) for _ in range(30)]
    assert any(line.startswith("data:") for line in data)
    eventually(lambda: "the stream was closed" in platform.clip("logs", f"{traffic}/endless").out)


def test_a_stream_that_breaks_says_so_in_its_last_event(platform: PlatformProcess, traffic: str) -> None:
    with platform.client() as http:
        answer = http.post(f"/fn/{traffic}/breaks", json={"after": 3}, headers={"accept": "text/event-stream"})
    events = [block for block in answer.text.replace("\r\n", "\n").split("\n\n") if block.strip()]
    assert [e for e in events if e.startswith("data:")][:3] == [
        "data: 0",
        "data: 1",
        "data: 2",
    ] or "data: 2" in answer.text
    assert "event: error" in events[-1]
    assert "the stream broke" in events[-1]


def test_one_connection_serves_many_requests_and_each_has_its_own_id(platform: PlatformProcess, traffic: str) -> None:
    with platform.client() as http:
        answers = [http.post(f"/fn/{traffic}/patient", json={"seconds": 0}) for _ in range(20)]
        named = http.post(f"/fn/{traffic}/patient", json={"seconds": 0}, headers={"x-request-id": "my-own-id"})
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 20
    assert named.headers["x-request-id"] == "my-own-id"
    assert "exec" in answers[-1].headers["server-timing"]


def test_many_clients_at_once_all_get_their_own_answer(platform: PlatformProcess, traffic: str) -> None:
    wrong: list[str] = []

    def client(first: int) -> None:
        with platform.client() as http:
            for n in range(first, first + 60):
                answer = http.post(f"/fn/{traffic}/together", json={"n": n})
                if answer.status_code != 200 or answer.json()[0] != n:
                    wrong.append(f"{n}: {answer.status_code} {answer.text}")

    threads = [threading.Thread(target=client, args=(1000 * (i + 1),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_short_call_does_not_wait_behind_a_long_one_while_a_replica_is_free(
    platform: PlatformProcess, deploy: Deploy
) -> None:
    name = deploy(
        """
import time
import clipper

@clipper.function(target_queue_depth=1, min_replicas=2, max_replicas=2)
def work(s: float) -> float:
    time.sleep(s)
    return s
"""
    )
    for _ in range(20):
        platform.call(f"{name}/work", s=0)  # known to be quick: the next call is sent ahead
    with ThreadPoolExecutor(8) as pool:
        long = pool.submit(platform.call, f"{name}/work", s=4)
        short = [pool.submit(platform.call, f"{name}/work", s=0.01) for _ in range(5)]
        done, _ = wait([long, *short], return_when=FIRST_COMPLETED)
        assert long not in done
        for call in short:
            assert call.result(30) == 0.01
            assert not long.done(), "a short call waited for the long one"
        assert long.result(30) == 4
