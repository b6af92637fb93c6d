"""Faults while 64 connections ask without a pause: nobody gets a wrong answer, two answers or none.

`SOAK_S` (seconds, 10 unless the environment says otherwise) is how long replicas are killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.conftest import Deploy
from tests.support.load import Connection, Reply, Tally, assert_idle, counted, drive, request
from tests.support.platform import PlatformProcess, eventually, write_project
from tests.support.redis_server import running_redis

SOAK_S = float(os.environ.get("SOAK_S", "10"))
CONNECTIONS = 64

pytestmark = pytest.mark.timeout(180 + 6 * SOAK_S)

APP = """
import ctypes, os, time
import clipper

def sums(numbers: list[list[int]]) -> list[int]:
    time.sleep(0.005)  # so that a fault meets a batch that runs and one that waits behind it
    return [sum(n) for n in numbers]

@clipper.function(max_batch_size=32, min_replicas=2)
def pair(numbers: list[list[int]]) -> list[int]:
    return sums(numbers)

@clipper.function(max_batch_size=32)
def single(numbers: list[list[int]]) -> list[int]:
    return sums(numbers)

@clipper.function(max_batch_size=32, min_replicas=2)
def brittle(numbers: list[list[int]]) -> list[int]:
    if [0] in numbers:
        os._exit(1)
    return sums(numbers)

@clipper.function(max_batch_size=32)
def touchy(numbers: list[list[int]]) -> list[int]:
    if [0] in numbers:
        raise ZeroDivisionError("nothing to add")
    return sums(numbers)

@clipper.function(max_batch_size=4, max_queued_requests=8)
def narrow(numbers: list[list[int]]) -> list[int]:
    return sums(numbers)

@clipper.function(max_ongoing_requests=2)
def gated(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.01)
    return "open"

@clipper.function(min_replicas=2, max_replicas=2, graceful_shutdown_timeout_s=0.5, health_check_period_s=0.5)
def hangs(how: str = "") -> int:
    if how == "loops":
        while True:
            pass
    if how == "holds the interpreter lock":
        ctypes.PyDLL(None).sleep(600)
    return os.getpid()
"""


@pytest.fixture(scope="module")
def faulty(platform: PlatformProcess, deploy_once: Deploy) -> str:
    return deploy_once(APP)


@pytest.fixture(autouse=True)
def idle_again(platform: PlatformProcess, request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test nothing is queued or running, and every function has its replicas."""
    yield
    if "faulty" not in request.fixturenames:
        return
    name = request.getfixturevalue("faulty")
    assert_idle(platform, name)

    def ready() -> bool:
        functions = platform.api("GET", f"/projects/{name}").json()["functions"]
        return all(f["state"] == "ready" for f in functions)

    eventually(ready, within_s=30, what="every function has its replicas again")


def asks(path: str) -> Callable[[int], tuple[str, Any]]:
    return lambda n: (path, {"numbers": [n, n + 1, 3 * n]})


def sum_is_right(n: int, reply: Reply) -> str:
    return "" if reply.status == 200 and reply.json() == 5 * n + 1 else f"it must be {5 * n + 1}"


# Replicas that are killed


@pytest.mark.parametrize("function", ["pair", "single"])
async def test_killing_a_replica_every_second_fails_no_request(
    platform: PlatformProcess, faulty: str, function: str
) -> None:
    path, label = f"{faulty}/{function}", f'function="{faulty}/{function}"'
    over, tally = asyncio.Event(), Tally()

    async def kill() -> int:
        killed = 0
        try:
            for _ in range(max(3, round(SOAK_S))):
                before = tally.answers
                await asyncio.sleep(1)
                status = await asyncio.to_thread(platform.status, path)
                pids = [r["pid"] for r in status["replicas"] if r["state"] == "ready" and r["pid"]]
                if pids:
                    os.kill(random.choice(pids), signal.SIGKILL)
                    killed += 1
                assert tally.answers > before, "nobody was answered for a second"
        finally:
            over.set()
        return killed

    async with asyncio.TaskGroup() as group:
        killing = group.create_task(kill())
        group.create_task(drive(platform.port, asks(path), sum_is_right, until=over.is_set, tally=tally))
    tally.assert_right()
    assert set(tally.statuses) == {200}
    assert killing.result() >= 2
    # It was no matter of luck: invocations were on the replicas that died.
    assert await asyncio.to_thread(counted, platform, "clip_retries_total", label) > 0


# Poison


def poisoned(n: int) -> bool:
    return n % 100 == 50


@pytest.mark.parametrize(
    ("function", "code", "answers"), [("brittle", "quarantined", 1_000), ("touchy", "function_error", 5_000)]
)
async def test_of_one_poisoned_item_in_a_hundred_exactly_those_fail(
    platform: PlatformProcess, faulty: str, function: str, code: str, answers: int
) -> None:
    path, tally = f"{faulty}/{function}", Tally()

    def ask(n: int) -> tuple[str, Any]:
        return path, {"numbers": [0] if poisoned(n) else [n, n + 1, 3 * n]}

    def check(n: int, reply: Reply) -> str:
        if not poisoned(n):
            return sum_is_right(n, reply)
        return "" if (reply.status, reply.code) == (500, code) else f"it must be a 500 with the code {code}"

    label = f'function="{path}"'
    before = await asyncio.to_thread(counted, platform, "clip_quarantined_total", label)
    await drive(platform.port, ask, check, until=lambda: tally.answers >= answers, tally=tally)
    tally.assert_right()
    assert tally.statuses[500] >= answers // 100
    quarantined = await asyncio.to_thread(counted, platform, "clip_quarantined_total", label) - before
    assert quarantined == (tally.statuses[500] if code == "quarantined" else 0)


async def test_poison_alone_does_not_take_a_function_down(platform: PlatformProcess, faulty: str) -> None:
    connection = await Connection.open(platform.port)
    for _ in range(6):
        reply = await connection.ask(request(f"{faulty}/brittle", {"numbers": [0]}))
        assert (reply.status, reply.code) == (500, "quarantined"), reply.body
    reply = await connection.ask(request(f"{faulty}/brittle", {"numbers": [1, 2]}))
    assert (reply.status, reply.json()) == (200, 3)
    connection.close()


# Replicas that hang


@pytest.mark.parametrize("how", ["loops", "holds the interpreter lock"])
async def test_a_replica_that_hangs_is_replaced_and_the_others_serve(
    platform: PlatformProcess, faulty: str, how: str
) -> None:
    path = f"{faulty}/hangs"
    before = {r["pid"] for r in (await asyncio.to_thread(platform.status, path))["replicas"]}
    assert len(before) == 2
    seen: set[int] = set()

    def check(_: int, reply: Reply) -> str:
        if reply.status == 200:
            seen.add(reply.json())
        return "" if reply.status == 200 else "others must not notice"

    hung = await Connection.open(platform.port)
    answer = hung.send(request(path, {"how": how}, x_clip_timeout_ms="1000"))
    tally = await drive(platform.port, lambda _: (path, {}), check, until=lambda: len(seen - before) > 0, connections=8)
    tally.assert_right()
    reply = await hung.receive(answer)
    assert (reply.status, reply.code) == (504, "deadline_exceeded")
    hung.close()
    after = await asyncio.to_thread(
        eventually,
        lambda: (
            len(pids := {r["pid"] for r in platform.status(path)["replicas"] if r["state"] == "ready"}) == 2 and pids
        ),
    )
    assert after - before
    # It gets no new call at once, and is killed when its call is far enough past its deadline.
    await asyncio.to_thread(
        eventually, lambda: not any(map(psutil.pid_exists, before - after)), within_s=60, what="the hung one to end"
    )


# Queues that are full, functions that hog


async def test_a_full_queue_answers_429_and_nothing_else_goes_wrong(platform: PlatformProcess, faulty: str) -> None:
    path, tally = f"{faulty}/narrow", Tally()

    def check(n: int, reply: Reply) -> str:
        if reply.status != 429:
            return sum_is_right(n, reply)
        seconds = reply.headers.get("retry-after", "")
        fine = reply.code == "queue_full" and seconds.isdecimal() and 1 <= int(seconds) <= 60
        return "" if fine else f"Retry-After is {seconds!r}"

    def told() -> dict[str, float]:
        label = f'function="{path}"'
        answers = {s: counted(platform, "clip_invocations_total", label, f'code="{s}"') for s in ("200", "429", "500")}
        return answers | {"refused": counted(platform, "clip_refused_total", label)}

    before = await asyncio.to_thread(told)
    await drive(platform.port, asks(path), check, until=lambda: tally.statuses[200] >= 500, tally=tally)
    tally.assert_right()
    assert tally.statuses[429] > 0
    after = await asyncio.to_thread(told)
    served, refused = tally.statuses[200], tally.statuses[429]
    assert {name: after[name] - before[name] for name in after} == {
        "200": served,
        "429": refused,
        "500": 0,
        "refused": refused,
    }
    # One connection alone never fills it.
    alone = Tally()
    await drive(platform.port, asks(path), sum_is_right, until=lambda: alone.answers >= 50, connections=1, tally=alone)
    alone.assert_right()


async def test_a_flooded_function_does_not_stop_another(platform: PlatformProcess, faulty: str) -> None:
    over, flood, calm = asyncio.Event(), Tally(), Tally()

    async def others() -> None:
        path = f"{faulty}/single"
        try:
            await drive(
                platform.port, asks(path), sum_is_right, until=lambda: calm.answers >= 200, connections=2, tally=calm
            )
        finally:
            over.set()

    def check(n: int, reply: Reply) -> str:
        return "" if reply.status == 429 else sum_is_right(n, reply)

    async with asyncio.TaskGroup() as group:
        group.create_task(drive(platform.port, asks(f"{faulty}/narrow"), check, until=over.is_set, tally=flood))
        group.create_task(others())
    flood.assert_right()
    calm.assert_right()
    assert flood.statuses[200] > 0
    assert flood.statuses[429] > 0


async def test_a_function_that_does_not_answer_does_not_stop_another(
    platform: PlatformProcess, faulty: str, tmp_path: Path
) -> None:
    gate, path, calm = tmp_path / "gate", f"{faulty}/gated", Tally()
    waiting = [await Connection.open(platform.port) for _ in range(CONNECTIONS)]
    answers = [connection.send(request(path, {"path": str(gate)})) for connection in waiting]

    def all_there() -> bool:
        status = platform.status(path)
        return bool(status["running"] + status["queue_depth"] == CONNECTIONS)

    await asyncio.to_thread(eventually, all_there)
    await drive(
        platform.port,
        asks(f"{faulty}/pair"),
        sum_is_right,
        until=lambda: calm.answers >= 200,
        connections=8,
        tally=calm,
    )
    calm.assert_right()
    assert not any(answer.done() for answer in answers)
    gate.touch()
    replies = await asyncio.gather(*(c.receive(a) for c, a in zip(waiting, answers, strict=True)))
    assert {(reply.status, reply.json()) for reply in replies} == {(200, "open")}
    for connection in waiting:
        connection.close()


# The store that goes away


async def test_serving_does_not_notice_that_redis_is_gone(tmp_path: Path) -> None:
    with running_redis(durable=True) as redis:
        platform = PlatformProcess(tmp_path / "home", args=["--store", redis.url])
        with platform:
            platform.deploy(write_project(tmp_path / "demo", APP, 'name = "demo"\n'))
            over, tally = asyncio.Event(), Tally()

            def degraded() -> bool:
                ready = httpx.get(platform.url + "/readyz", timeout=10)
                assert ready.status_code == 200  # functions answer: a load balancer must go on sending
                return any("store" in what for what in ready.json()["degraded"])

            def change() -> httpx.Response:
                return platform.api("PUT", "/projects/demo/secrets/TOKEN", json={"value": "x"})

            def more_than(answers: int) -> bool:
                return tally.answers > answers

            def outage() -> None:
                os.kill(redis.pid, signal.SIGSTOP)
                for stage in ("it does not answer", "it is not there"):
                    if stage == "it is not there":
                        redis.kill()
                    began = tally.answers
                    eventually(degraded, within_s=20, what=f"/readyz notices: {stage}")
                    refusal = change()
                    assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "store_unavailable")
                    eventually(partial(more_than, began + 100), what="functions answer meanwhile")
                redis.start()
                eventually(lambda: not degraded(), within_s=20, what="/readyz notices that it is back")
                assert change().is_success

            async def disturb() -> None:
                try:
                    await asyncio.to_thread(outage)
                finally:
                    over.set()

            async with asyncio.TaskGroup() as group:
                group.create_task(disturb())
                group.create_task(drive(platform.port, asks("demo/pair"), sum_is_right, until=over.is_set, tally=tally))
            tally.assert_right()
            assert set(tally.statuses) == {200}
            assert_idle(platform, "demo")
