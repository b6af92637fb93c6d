"""Deadlines, the result cache and streams, with 64 connections asking at once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Deploy
from tests.support.load import Connection, EventStream, Hung, Reply, Tally, drive, request
from tests.support.platform import PlatformProcess, eventually

CONNECTIONS = 64

pytestmark = pytest.mark.timeout(180)

APP = """
import asyncio, os, time
from collections import Counter
import clipper

@clipper.function(max_batch_size=8, timeout_s=30)
def slow(n: list[int]) -> list[int]:
    time.sleep(0.01)
    return n

@clipper.function(max_ongoing_requests=16, timeout_s=30)
async def naps(n: int) -> int:
    await asyncio.sleep(0.02)
    return n

@clipper.function(timeout_s=0.05, default_output=-1, max_ongoing_requests=4)
def assured(n: int) -> int:
    time.sleep(0.01)
    return n

@clipper.function(cache_ttl_s=300, max_ongoing_requests=4)
class Counted:
    def __init__(self):
        self.runs = Counter()

    def __call__(self, key: str, gate: str = "", fail: bool = False) -> int:
        self.runs[key] += 1
        while gate and not os.path.exists(gate):
            time.sleep(0.01)
        if fail:
            raise ValueError(f"run {self.runs[key]}")
        return self.runs[key]

@clipper.function(max_ongoing_requests=8)
def ticks(name: str):
    print("opened", name)
    try:
        n = 0
        while True:
            yield n
            n += 1
            time.sleep(0.005)
    finally:
        print("closed", name)

@clipper.function(max_ongoing_requests=8)
async def aticks(name: str):
    print("opened", name)
    try:
        n = 0
        while True:
            yield n
            n += 1
            await asyncio.sleep(0.005)
    finally:
        print("closed", name)

@clipper.function()
def pages(count: int, size: int, progress: str):
    for n in range(count):
        with open(progress, "w") as file:
            file.write(str(n + 1))
        yield f"{n}:" + "x" * size

@clipper.function()
async def apages(count: int, size: int, progress: str):
    for n in range(count):
        with open(progress, "w") as file:
            file.write(str(n + 1))
        yield f"{n}:" + "x" * size
"""


@pytest.fixture(scope="module")
def promising(platform: PlatformProcess, deploy_once: Deploy) -> str:
    return deploy_once(APP)


@pytest.fixture(autouse=True)
def idle_again(platform: PlatformProcess, promising: str) -> Iterator[None]:
    """After each test nothing is queued or running."""
    yield

    def gauges() -> dict[str, float]:
        wanted = ("clip_queue_depth{", "clip_running{")
        return {k: v for k, v in platform.metrics().items() if k.startswith(wanted) and f'"{promising}/' in k}

    assert gauges()
    eventually(lambda: not any(gauges().values()), within_s=20, what="every gauge is back at zero")


# Deadlines


def in_time(reply: Reply, deadline_s: float) -> bool:
    """Whether the platform was done with it before the deadline, by its own word; printed with microseconds."""
    timing = reply.timing
    return timing["queue"] + timing.get("batch", 0.0) <= deadline_s + 2e-6


@pytest.mark.parametrize("function", ["slow", "naps"])
async def test_an_answer_is_in_time_or_a_504(platform: PlatformProcess, promising: str, function: str) -> None:
    """The time is about what the answer takes with so many others asking, so that many are a little too late."""
    path, tally = f"{promising}/{function}", Tally()

    def check(n: int, reply: Reply) -> str:
        if reply.status == 200:
            return "" if reply.json() == n and in_time(reply, 0.06) else "wrong, or late but written as if in time"
        return "" if (reply.status, reply.code) == (504, "deadline_exceeded") else "neither an answer nor a 504"

    await drive(
        platform.port,
        lambda n: (path, {"n": n}),
        check,
        until=lambda: (tally.statuses[200] >= 200 and tally.statuses[504] >= 200) or tally.answers >= 20_000,
        tally=tally,
        x_clip_timeout_ms="60",
    )
    tally.assert_right()
    assert tally.statuses[504] > 0
    # With time enough the same load gets its answers.
    calm = Tally()
    await drive(platform.port, lambda n: (path, {"n": n}), check=right, until=lambda: calm.answers >= 200, tally=calm)
    calm.assert_right()


def right(n: int, reply: Reply) -> str:
    return "" if reply.status == 200 and reply.json() == n else f"it must be {n}"


async def test_the_default_output_answers_for_what_would_be_late_and_says_so(
    platform: PlatformProcess, promising: str
) -> None:
    path, tally, defaults = f"{promising}/assured", Tally(), Counter[str]()

    def check(n: int, reply: Reply) -> str:
        reason = reply.headers.get("x-clip-default", "")
        defaults[reason] += 1
        expected = -1 if reason else n
        return "" if reply.status == 200 and reply.json() == expected else f"it must be {expected}"

    await drive(
        platform.port,
        lambda n: (path, {"n": n}),
        check,
        until=lambda: defaults["deadline_exceeded"] >= 200,
        tally=tally,
    )
    tally.assert_right()
    assert set(defaults) <= {"", "deadline_exceeded"}
    told = (await asyncio.to_thread(platform.metrics)).items()
    assert (
        sum(v for k, v in told if k.startswith("clip_default_outputs_total{") and path in k)
        == defaults.total() - (defaults[""])
    )


# The cache


def caching(reply: Reply) -> str:
    name, _, rest = reply.headers["cache-status"].partition("; ")
    assert name == "clipper"
    return rest


async def all_in_flight(platform: PlatformProcess, path: str, count: int, before: float) -> None:
    def shared() -> bool:
        return looked_up(platform, path, "collapsed") - before == count

    await asyncio.to_thread(eventually, shared, what=f"{count} share one flight")


def looked_up(platform: PlatformProcess, path: str, result: str) -> float:
    name = f'clip_cache_requests_total{{function="{path}",result="{result}"}}'
    return platform.metrics().get(name, 0.0)


@pytest.mark.parametrize("leaves", [False, True], ids=["all stay", "the first leaves"])
async def test_identical_calls_at_once_run_once(
    platform: PlatformProcess, promising: str, tmp_path: Path, leaves: bool
) -> None:
    path, gate = f"{promising}/Counted", tmp_path / "gate"
    before = await asyncio.to_thread(looked_up, platform, path, "collapsed")
    question = request(path, {"key": str(tmp_path), "gate": str(gate)})
    first, *others = connections = [await Connection.open(platform.port) for _ in range(CONNECTIONS)]
    leading = first.send(question)
    await asyncio.to_thread(eventually, lambda: platform.status(path)["running"] == 1)
    following = [connection.send(question) for connection in others]
    await all_in_flight(platform, path, len(others), before)
    if leaves:
        first.close()
        with pytest.raises(Hung):
            await first.receive(leading)
    gate.touch()
    replies = await asyncio.gather(*(c.receive(a) for c, a in zip(others, following, strict=True)))
    assert {(reply.status, reply.json(), caching(reply)) for reply in replies} == {(200, 1, "fwd=miss; collapsed")}
    if not leaves:
        reply = await first.receive(leading)
        assert (reply.status, reply.json(), caching(reply)) == (200, 1, "fwd=miss; stored")
    reply = await others[0].ask(question)
    assert (reply.status, reply.json(), caching(reply)) == (200, 1, "hit")
    for connection in connections:
        connection.close()


async def test_an_error_is_shared_by_those_who_wait_for_it_and_not_kept(
    platform: PlatformProcess, promising: str, tmp_path: Path
) -> None:
    path, gate = f"{promising}/Counted", tmp_path / "gate"
    before = await asyncio.to_thread(looked_up, platform, path, "collapsed")
    question = request(path, {"key": str(tmp_path), "gate": str(gate), "fail": True})
    connections = [await Connection.open(platform.port) for _ in range(CONNECTIONS)]
    answers = [connection.send(question) for connection in connections]
    await all_in_flight(platform, path, CONNECTIONS - 1, before)
    gate.touch()
    replies = await asyncio.gather(*(c.receive(a) for c, a in zip(connections, answers, strict=True)))
    assert {(reply.status, reply.code) for reply in replies} == {(500, "function_error")}
    assert all("run 1" in reply.json()["error"]["message"] for reply in replies)
    reply = await connections[0].ask(question)
    assert (reply.status, reply.code) == (500, "function_error")
    assert "run 2" in reply.json()["error"]["message"]
    assert "hit" not in caching(reply)
    for connection in connections:
        connection.close()


async def test_cached_answers_under_load_are_right(platform: PlatformProcess, promising: str) -> None:
    path, tally, seen = f"{promising}/Counted", Tally(), Counter[str]()

    def check(_: int, reply: Reply) -> str:
        seen[caching(reply)] += 1
        return "" if reply.status == 200 and reply.json() == 1 else "it ran more than once"

    def ask(n: int) -> tuple[str, Any]:
        return path, {"key": f"load {n % 50}"}

    await drive(platform.port, ask, check, until=lambda: tally.answers >= 3_000, tally=tally)
    tally.assert_right()
    assert seen["fwd=miss; stored"] == 50
    assert seen["hit"] > 2_000


async def test_a_new_version_does_not_answer_from_the_old_ones_cache(platform: PlatformProcess, deploy: Deploy) -> None:
    app = "import clipper\n\n@clipper.function(cache_ttl_s=300)\ndef which(n: int) -> str:\n    return {!r}\n"
    connection = await Connection.open(platform.port)

    async def ask(name: str) -> tuple[str, str, str]:
        reply = await connection.ask(request(f"{name}/which", {"n": 1}))
        return reply.json(), caching(reply), reply.headers["x-clip-version"]

    name = await asyncio.to_thread(deploy, app.format("old"))
    assert [await ask(name) for _ in range(2)] == [("old", "fwd=miss; stored", "1"), ("old", "hit", "1")]
    await asyncio.to_thread(lambda: deploy(app.format("new"), name=name))
    assert [await ask(name) for _ in range(2)] == [("new", "fwd=miss; stored", "2"), ("new", "hit", "2")]
    connection.close()


# Streams


@pytest.mark.parametrize("function", ["ticks", "aticks"])
async def test_every_stream_that_is_cut_is_closed(platform: PlatformProcess, promising: str, function: str) -> None:
    path = f"{promising}/{function}"

    async def cut_short(n: int) -> None:
        stream = await EventStream.open(platform.port, path, {"name": f"s{n}"})
        for expected in range(1 + n % 5):
            assert await stream.next() == str(expected)
        stream.cut()

    streams = 40
    async with asyncio.timeout(60):
        await asyncio.gather(*(cut_short(n) for n in range(streams)))

    def said(word: str) -> Counter[str]:
        lines = platform.clip("logs", path, "--json", "--tail", "1000").out.splitlines()
        messages = [json.loads(line)["message"].split() for line in lines]
        return Counter(name for first, *rest in messages if first == word for name in rest)

    once_each = Counter({f"s{n}": 1 for n in range(streams)})
    await asyncio.to_thread(eventually, lambda: said("closed") == once_each, every_s=0.5, what="each is closed once")
    assert await asyncio.to_thread(said, "opened") == once_each
    stream = await EventStream.open(platform.port, path, {"name": "after"})
    assert [await stream.next() for _ in range(3)] == ["0", "1", "2"]
    stream.cut()


@pytest.mark.parametrize("function", ["pages", "apages"])
async def test_a_slow_reader_slows_the_generator(
    platform: PlatformProcess, promising: str, tmp_path: Path, function: str
) -> None:
    """Of 256 KiB each: 16 items may be sent without credit, and the kernel's two socket buffers on the way to the
    client hold some 10 MiB more, 40 items."""
    count, size, ahead = 400, 256 * 1024, 80
    progress = tmp_path / "progress"
    arguments = {"count": count, "size": size, "progress": str(progress)}
    stream = await EventStream.open(platform.port, f"{promising}/{function}", arguments, receive_buffer=64 * 1024)

    def made() -> int:
        return int(progress.read_text() or 0) if progress.exists() else 0

    async def standstill() -> int:
        """How far the generator is once it has not moved for a second."""
        at, still = made(), 0
        while still < 20:
            await asyncio.sleep(0.05)
            still = still + 1 if made() == at else 0
            at = made()
        return at

    async with asyncio.timeout(60):
        for n in range(5):
            item = await stream.next()
            assert item is not None
            assert item.startswith(f'"{n}:')
        assert await standstill() <= 5 + ahead
        for n in range(5, count):
            item = await stream.next()
            assert item is not None
            assert item.startswith(f'"{n}:')
            assert len(item) == size + len(f'"{n}:"')
        assert await stream.next() is None
    stream.cut()
