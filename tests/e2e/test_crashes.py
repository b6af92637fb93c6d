"""Replicas that die: seen at once, restarted, and given up with a reason when they die again and again."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import Deploy
from tests.support.platform import PlatformProcess, eventually

FRAGILE = """
import ctypes, os, signal
import clipper

@clipper.function(max_retries={retries})
def fragile(how: str = "") -> int:
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise":
        raise SystemExit("a plain way to leave")
    return os.getpid()
"""


@pytest.mark.parametrize(("how", "said"), [("exit", "exit status 3"), ("segfault", "SIGSEGV"), ("kill", "SIGKILL")])
def test_a_replica_that_dies_fails_its_call_at_once_and_is_replaced(
    platform: PlatformProcess, deploy: Deploy, how: str, said: str
) -> None:
    name = deploy(FRAGILE.format(retries=0))
    before = platform.call(f"{name}/fragile")
    began = time.monotonic()
    answer = platform.post(f"/fn/{name}/fragile", json={"how": how}, timeout=30)
    assert time.monotonic() - began < 5
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "replica_lost")

    def replaced() -> bool:
        answer = platform.post(f"/fn/{name}/fragile", json={}, timeout=30)
        return answer.status_code == 200 and answer.json() != before

    eventually(replaced, within_s=20)
    status = eventually(lambda: (s := platform.status(f"{name}/fragile"))["state"] == "ready" and s)
    assert len(status["replicas"]) == 1
    events = platform.api("GET", f"/projects/{name}/events").json()["events"]
    assert any(said in event["message"] for event in events), events
    restarts = {
        k: v for k, v in platform.metrics().items() if k.startswith("clip_replica_restarts_total") and name in k
    }
    assert sum(restarts.values()) >= 1


def test_an_invocation_that_kills_every_replica_is_given_up(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy(FRAGILE.format(retries=1))
    answer = platform.post(f"/fn/{name}/fragile", json={"how": "exit"}, timeout=60)
    assert answer.status_code in {500, 502}
    assert answer.json()["error"]["code"] in {"replica_lost", "quarantined"}
    eventually(lambda: platform.post(f"/fn/{name}/fragile", json={}, timeout=30).status_code == 200, within_s=20)


def test_a_function_that_raises_system_exit_keeps_its_replica(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy(FRAGILE.format(retries=0))
    before = platform.call(f"{name}/fragile")
    answer = platform.post(f"/fn/{name}/fragile", json={"how": "raise"}, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "function_error")
    assert platform.call(f"{name}/fragile") == before


def test_a_call_that_cancels_its_own_task_runs_once_and_is_an_error_of_the_function(
    platform: PlatformProcess, deploy: Deploy
) -> None:
    name = deploy(
        """
import asyncio
import clipper

calls = 0

@clipper.function()
async def quits(whom: str = "") -> int:
    global calls
    calls += 1
    for task in {"own": [asyncio.current_task()], "all": asyncio.all_tasks()}.get(whom, []):
        task.cancel()
    await asyncio.sleep(0)
    return calls

@clipper.function()
async def trickle(n: int):
    yield n
    asyncio.current_task().cancel()
    await asyncio.sleep(0)
"""
    )
    for whom in ("own", "all"):
        answer = platform.post(f"/fn/{name}/quits", json={"whom": whom}, timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "function_error")
        assert "CancelledError" in answer.json()["error"]["message"]
    assert platform.call(f"{name}/quits") == 3, "each call ran once, in one replica"
    stream = platform.post(f"/fn/{name}/trickle", json={"n": 7}, headers={"Accept": "text/event-stream"}, timeout=30)
    assert stream.text.count("data: 7") == 1
    assert "CancelledError" in stream.text


CANCELLING = """
import asyncio
import clipper

calls = 0

async def quits() -> None:
    asyncio.current_task().cancel()
    await asyncio.sleep(0)

@clipper.function(max_retries=0)
async def one(how: str = "") -> int:
    global calls
    calls += 1
    if how == "raise":
        raise asyncio.CancelledError
    if how == "gather":
        await asyncio.gather(quits(), asyncio.sleep(60))
    if how == "group":
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60))
            await quits()
    if how == "awaited task":
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task
    if how == "timeout":
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
    if how == "wait_for":
        await asyncio.wait_for(asyncio.sleep(60), 0.01)
    return calls

@clipper.function(max_batch_size=4, max_retries=0, batch_wait_timeout_s=0.2)
async def many(n: list[int]) -> list[int]:
    if 13 in n:
        await quits()
    return n

@clipper.function(max_retries=0)
def plain() -> int:
    raise asyncio.CancelledError
"""


def test_a_cancellation_that_the_platform_did_not_ask_for_is_an_error_of_the_function_and_runs_once(
    platform: PlatformProcess, deploy: Deploy
) -> None:
    name = deploy(CANCELLING)
    ways = ("raise", "gather", "group", "awaited task", "timeout", "wait_for")
    for way in ways:
        answer = platform.post(f"/fn/{name}/one", json={"how": way}, timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "function_error"), way
        expected = "TimeoutError" if way in ("timeout", "wait_for") else "CancelledError"
        assert expected in answer.json()["error"]["message"], way
    assert platform.call(f"{name}/one") == len(ways) + 1, "each ran once, in one replica"
    with ThreadPoolExecutor(4) as pool:
        posts = [pool.submit(platform.post, f"/fn/{name}/many", {"n": n}) for n in (1, 2, 13, 3)]
        assert [post.result(30).status_code for post in posts] == [200, 200, 500, 200], "batch-mates get their answers"
    assert platform.post(f"/fn/{name}/plain", {}).json()["error"]["code"] == "function_error"


def test_a_crash_of_one_function_leaves_the_others_of_its_project_alone(
    platform: PlatformProcess, deploy: Deploy
) -> None:
    other = "\n@clipper.function()\ndef steady() -> int:\n    return os.getpid()\n"
    name = deploy(FRAGILE.format(retries=0) + other)
    before = platform.call(f"{name}/steady")
    platform.post(f"/fn/{name}/fragile", json={"how": "exit"}, timeout=30)
    assert platform.call(f"{name}/steady") == before


@pytest.mark.timeout(180)
def test_a_crash_loop_stops_with_its_reason_in_the_status(
    platform: PlatformProcess, deploy: Deploy, tmp_path: Path
) -> None:
    fatal = tmp_path / "fatal"
    name = deploy(
        f"""
import os, pathlib
import clipper

@clipper.function(max_retries=0)
class Loop:
    def __init__(self):
        if pathlib.Path({str(fatal)!r}).exists():
            raise RuntimeError("the disk with the weights is gone")
    def __call__(self, die: bool = False) -> int:
        if die:
            os._exit(1)
        return 1
"""
    )
    fatal.touch()
    assert platform.post(f"/fn/{name}/Loop", json={"die": True}, timeout=30).status_code == 502
    status = eventually(
        lambda: (s := platform.status(f"{name}/Loop"))["state"] == "failed" and s,
        within_s=120,
        every_s=0.5,
        what="the crash loop stops",
    )
    assert "the disk with the weights is gone" in status["reason"]
    assert "the disk with the weights is gone" in platform.clip("status", name).out
    answer = platform.post(f"/fn/{name}/Loop", json={}, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")

    assert int(answer.headers["Retry-After"]) <= 30

    again = platform.clip("restart", f"{name}/Loop", check=False)
    assert again.code == 1
    assert "the disk with the weights is gone" in again.out
    fatal.unlink()
    platform.clip("restart", name)
    assert platform.call(f"{name}/Loop") == 1


@pytest.mark.timeout(180)
@pytest.mark.parametrize("called", [True, False])
def test_a_version_whose_setup_fails_for_a_while_answers_again_without_a_person(
    platform: PlatformProcess, deploy: Deploy, tmp_path: Path, called: bool
) -> None:
    away = tmp_path / "away"
    name = deploy(
        f"""
import pathlib
import clipper

@clipper.function(downscale_to_zero_delay_s=0, max_retries=0, timeout_s=20)
class Model:
    def __init__(self):
        if pathlib.Path({str(away)!r}).exists():
            raise ConnectionError("the database is away")
    def __call__(self) -> int:
        return 1
"""
    )
    path = f"{name}/Model"
    if called:
        assert platform.call(path) == 1
    eventually(lambda: not platform.status(path)["replicas"], within_s=30)
    away.touch()
    answer = platform.post(f"/fn/{path}", json={}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert "the database is away" in answer.json()["error"]["message"]
    away.unlink()
    eventually(lambda: platform.post(f"/fn/{path}", json={}).status_code == 200, within_s=30, every_s=0.5)


@pytest.mark.timeout(120)
def test_a_call_that_holds_the_interpreters_lock_inside_its_deadline_is_not_killed(
    platform: PlatformProcess, deploy: Deploy
) -> None:
    name = deploy(
        """
import re
import clipper

@clipper.function(health_check_period_s=0.2, max_retries=0)
def match(n: int) -> bool:
    re.match(r"(a+)+$", "a" * n + "b")
    return True
"""
    )
    answer = platform.post(f"/fn/{name}/match", json={"n": 60}, headers={"X-Clip-Timeout-Ms": "1500"}, timeout=60)
    assert answer.status_code == 504

    def killed() -> int:
        events = platform.api("GET", f"/projects/{name}/events").json()["events"]
        return sum("it answered none of 3 health checks" in event["message"] for event in events)

    eventually(killed, within_s=60, what="past its deadline, the silent replica is killed, and the event says why")
    assert platform.call(f"{name}/match", n=26) is True  # over three periods long, inside its deadline
    assert killed() == 1


def test_a_call_past_its_deadline_does_not_block_the_others(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy(
        """
import time
import clipper

@clipper.function(timeout_s=2, max_replicas=1)
def work(s: float) -> float:
    time.sleep(s)
    return s
"""
    )
    assert platform.post(f"/fn/{name}/work", json={"s": 60}, timeout=30).status_code == 504
    answers = [platform.post(f"/fn/{name}/work", json={"s": 0}, timeout=30).status_code for _ in range(4)]
    assert answers[1:] == [200, 200, 200]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("pause_s", [0, 4])
@pytest.mark.parametrize("whose", ["function", "caller"])
def test_a_setup_longer_than_the_calls_deadline_ends_and_the_next_calls_find_its_replica(
    platform: PlatformProcess, deploy: Deploy, pause_s: float, whose: str
) -> None:
    timeout_s, headers = (1, {}) if whose == "function" else (60, {"X-Clip-Timeout-Ms": "1000"})
    name = deploy(
        f"""
import time
import clipper

@clipper.function(timeout_s={timeout_s}, downscale_to_zero_delay_s=0)
class Slow:
    def __init__(self):
        time.sleep(2.5)
    def __call__(self) -> int:
        return 1
"""
    )
    path = f"{name}/Slow"
    eventually(lambda: not platform.status(path)["replicas"], within_s=30)
    codes = []
    for _ in range(6):
        codes.append(platform.post(f"/fn/{path}", json={}, headers=headers, timeout=30).status_code)
        time.sleep(pause_s)
    assert codes[0] == 504
    assert codes[3:] == [200, 200, 200], codes
    eventually(lambda: not platform.status(path)["replicas"], within_s=30)


BLOCKING = """
import asyncio, time
import clipper

@clipper.function({options})
async def work(s: float, asleep: float = 0) -> float:
    time.sleep(s)  # it blocks the event loop
    await asyncio.sleep(asleep)
    return s
"""


def timed(platform: PlatformProcess, path: str, s: float) -> tuple[int, float]:
    began = time.monotonic()
    answer = platform.post(f"/fn/{path}", {"s": s})
    return answer.status_code, time.monotonic() - began


@pytest.mark.parametrize("cold", [True, False])
def test_a_call_that_blocks_its_event_loop_holds_nobody_up_while_a_replica_is_free_or_may_be_started(
    platform: PlatformProcess, deploy: Deploy, cold: bool
) -> None:
    options = "target_queue_depth=1, downscale_to_zero_delay_s=0" if cold else "min_replicas=2, max_replicas=2"
    name = deploy(BLOCKING.format(options=options))
    path = f"{name}/work"
    if cold:
        eventually(lambda: not platform.status(path)["replicas"], within_s=30)
    with ThreadPoolExecutor(8) as pool:
        long = pool.submit(timed, platform, path, 15)
        short = [pool.submit(timed, platform, path, 0.01) for _ in range(6)]
        for call in short:
            code, seconds = call.result(60)
            assert code == 200
            assert seconds < 12, "it waited for the one that blocks"
        assert not long.done()
        assert long.result(60)[0] == 200


def test_a_call_past_its_deadline_that_blocks_its_event_loop_is_replaced_for_those_that_wait(
    platform: PlatformProcess, deploy: Deploy
) -> None:
    name = deploy(BLOCKING.format(options="timeout_s=60, max_replicas=1"))
    path = f"{name}/work"
    with ThreadPoolExecutor(8) as pool:
        late = pool.submit(platform.post, f"/fn/{path}", {"s": 40}, headers={"X-Clip-Timeout-Ms": "1500"})
        eventually(lambda: platform.status(path)["running"] == 1)
        waiting = [pool.submit(timed, platform, path, 0.01) for _ in range(3)]
        for call in waiting:
            code, seconds = call.result(60)
            assert code == 200
            assert seconds < 25, "it waited for a call that nobody waits for"
        assert late.result(60).status_code == 504


@pytest.mark.timeout(180)
def test_a_function_over_its_memory_limit_fails_alone(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy(
        """
import clipper

@clipper.function(memory_bytes=400_000_000, max_retries=0)
def eat(n: int) -> int:
    return len(b"x" * n)
"""
    )
    assert platform.call(f"{name}/eat", n=1000) == 1000
    answer = platform.post(f"/fn/{name}/eat", json={"n": 2_000_000_000}, timeout=60)
    assert answer.status_code in {500, 502}, answer.text
    eventually(lambda: platform.post(f"/fn/{name}/eat", json={"n": 5}).status_code == 200, within_s=20)


LAST_WORDS = """
import ctypes, logging, os, signal, sys
import clipper

@clipper.function(max_retries=0)
def last(how: str) -> int:
    if how == "print":
        print("last words")
        os._exit(3)
    if how == "flush":
        print("last words", end="", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "stderr":
        sys.stderr.write("last words")
        ctypes.string_at(0)
    if how == "log":
        logging.error("last words")
        os.abort()
    if how == "child":
        os.system("echo last words >&2")
        os._exit(3)
    return 1
"""


@pytest.mark.parametrize("how", ["print", "flush", "stderr", "log", "child"])
def test_what_was_printed_just_before_a_crash_is_in_the_log_and_in_the_callers_hint(
    platform: PlatformProcess, deploy: Deploy, how: str
) -> None:
    name = deploy(LAST_WORDS)
    answer = platform.post(f"/fn/{name}/last", json={"how": how}, timeout=30)
    assert answer.json()["error"]["code"] == "replica_lost"
    assert "last words" in answer.json()["error"]["hint"]
    lines = eventually(
        lambda: [
            line
            for line in map(json.loads, platform.clip("logs", f"{name}/last", "--json").out.splitlines())
            if line["message"] == "last words"
        ]
    )
    assert len(lines) == 1
    assert lines[0]["level"].lower() == ("error" if how == "log" else "info")


@pytest.mark.parametrize(
    ("how", "hint", "logged"),
    [
        ("fault", "File app.py, line", "Fatal Python error: Segmentation fault"),
        ("own handler", "Fatal Python error: Segmentation fault", "Current thread 0x"),
        (
            "runtime",
            "RuntimeError: Event loop stopped",
            "    raise RuntimeError('Event loop stopped before Future completed.')",
        ),
    ],
)
def test_the_traceback_that_ends_a_replica_is_in_the_log_and_in_the_callers_hint(
    platform: PlatformProcess, deploy: Deploy, how: str, hint: str, logged: str
) -> None:
    name = deploy("""
import asyncio, ctypes, faulthandler
import clipper

@clipper.function(max_retries=0)
async def end(how: str) -> None:
    if how == "runtime":
        asyncio.get_running_loop().stop()
        await asyncio.sleep(60)
    if how == "own handler":
        faulthandler.enable()
    ctypes.string_at(0)
""")
    answer = platform.post(f"/fn/{name}/end", json={"how": how}, timeout=30)
    assert answer.json()["error"]["code"] == "replica_lost"
    assert hint in answer.json()["error"]["hint"]
    assert str(platform.home) not in answer.text

    def lines() -> list[str]:
        out = platform.clip("logs", f"{name}/end", "--json").out
        return [json.loads(line)["message"] for line in out.splitlines()]

    eventually(lambda: any(line.startswith(logged) for line in lines()))


def test_levels_of_lines_come_from_the_lines(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy("""
import logging, sys, traceback
import clipper

own = logging.getLogger("own")
own.propagate = False
own.setLevel("DEBUG")
own.addHandler(logging.StreamHandler())
own.handlers[0].setFormatter(logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s"))

@clipper.function()
def speak() -> int:
    own.debug("detail")
    own.warning("careful")
    logging.getLogger("root2").info("up")
    print("plain", file=sys.stderr)
    try:
        raise ValueError("no")
    except ValueError:
        traceback.print_exc()
    return 1
""")
    platform.call(f"{name}/speak")

    def levels() -> dict[str, str]:
        out = platform.clip("logs", f"{name}/speak", "--json").out
        return {
            line["message"].rsplit(" - ", 1)[-1]: line["level"].lower() for line in map(json.loads, out.splitlines())
        }

    found = eventually(lambda: (now := levels()) and "ValueError: no" in now and now)
    expected = {"detail": "debug", "careful": "warning", "up": "info", "plain": "info", "ValueError: no": "error"}
    assert {message: found[message] for message in expected} == expected
