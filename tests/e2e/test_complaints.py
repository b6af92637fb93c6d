"""What users of serving systems complain of most about replicas that come and go, under load on a whole platform."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Deploy
from tests.support.platform import PlatformProcess, eventually

pytestmark = pytest.mark.timeout(180)

APP = """
import os, time
import clipper

with open({starts!r}, "a") as file:
    file.write("x")

@clipper.function({options})
{kind} work(s: float = 0) -> int:
    {sleep}(s)
    return os.getpid()
"""


def app(tmp_path: Path, options: str, *, asynchronous: bool = False) -> str:
    kind, sleep = ("async def", "await __import__('asyncio').sleep") if asynchronous else ("def", "time.sleep")
    return APP.format(starts=str(tmp_path / "starts"), options=options, kind=kind, sleep=sleep)


def calls_until(platform: PlatformProcess, path: str, s: float, until: float) -> list[tuple[int, str]]:
    """Calls one after the other over one connection: each one's status and body."""
    answers = []
    with platform.client() as client:
        while time.monotonic() < until:
            answer = client.post(f"/fn/{path}", json={"s": s})
            answers.append((answer.status_code, answer.text))
    return answers


def replicas(platform: PlatformProcess, path: str, state: str = "ready") -> int:
    return sum(replica["state"] == state for replica in platform.status(path)["replicas"])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_scale_down_under_load_drops_no_request(
    platform: PlatformProcess, deploy: Deploy, tmp_path: Path, asynchronous: bool
) -> None:
    options = "min_replicas=4, max_replicas=4, max_retries=0, downscale_delay_s=0"
    path = f"{deploy(app(tmp_path, options, asynchronous=asynchronous))}/work"
    policies = []
    for count in (1, 4):
        policies.append(tmp_path / f"policy-{count}.toml")
        policies[-1].write_text(f"min_replicas = {count}\nmax_replicas = {count}\ndownscale_delay_s = 0\n")
    with ThreadPoolExecutor(12) as pool:
        until = time.monotonic() + 12
        load = [pool.submit(calls_until, platform, path, 0.05, until) for _ in range(12)]
        while time.monotonic() < until - 3:
            for policy in policies:
                platform.clip("policy", "apply", path, policy)
        answers = [answer for each in load for answer in each.result(60)]
    assert len(answers) > 100
    assert Counter(code for code, _ in answers) == {200: len(answers)}, [a for a in answers if a[0] != 200][:3]
    assert len({pid for _, pid in answers}) > 4, "replicas went and came"


def test_a_function_that_goes_to_zero_always_comes_back(
    platform: PlatformProcess, deploy: Deploy, tmp_path: Path
) -> None:
    path = f"{deploy(app(tmp_path, 'downscale_to_zero_delay_s=0, timeout_s=20'))}/work"
    with platform.client() as client:
        for turn in range(25):
            # At other moments of the scale-down each time: the decision, the drain, the end of the process.
            time.sleep(0.08 * (turn % 9))
            assert client.post(f"/fn/{path}", json={}).status_code == 200
    eventually(lambda: not platform.status(path)["replicas"], within_s=20)
    assert platform.call(path)
    assert len((tmp_path / "starts").read_text()) > 2, "it was at zero in between"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_replicas_get_equal_shares_and_a_slow_one_gets_less(
    platform: PlatformProcess, deploy: Deploy, tmp_path: Path, asynchronous: bool
) -> None:
    options = "min_replicas=3, max_replicas=3"
    path = f"{deploy(app(tmp_path, options, asynchronous=asynchronous))}/work"
    eventually(lambda: replicas(platform, path) == 3)
    with ThreadPoolExecutor(9) as pool:
        until = time.monotonic() + 4
        load = [pool.submit(calls_until, platform, path, 0.02, until) for _ in range(9)]
        shares = Counter(pid for each in load for _, pid in each.result(60))
    assert len(shares) == 3
    assert max(shares.values()) < 1.5 * min(shares.values()), shares
    if not asynchronous:
        with ThreadPoolExecutor(4) as pool:
            long = pool.submit(platform.post, f"/fn/{path}", {"s": 4})
            eventually(lambda: platform.status(path)["running"] == 1)
            until = time.monotonic() + 2
            load = [pool.submit(calls_until, platform, path, 0.02, until) for _ in range(3)]
            others = Counter(pid for each in load for _, pid in each.result(60))
            assert long.result(60).text not in others, "nothing goes to the one that is busy"


def test_a_storm_of_first_calls_starts_as_many_replicas_as_they_need_and_loses_none(
    platform: PlatformProcess, deploy: Deploy, tmp_path: Path
) -> None:
    options = "target_queue_depth=16, max_replicas=8, downscale_to_zero_delay_s=0"
    path = f"{deploy(app(tmp_path, options))}/work"
    eventually(lambda: not platform.status(path)["replicas"], within_s=30)
    (tmp_path / "starts").unlink()

    def call(_: int) -> httpx.Response:
        return platform.post(f"/fn/{path}", {"s": 0.02})

    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(call, range(48)))
    assert [answer.status_code for answer in answers] == [200] * 48
    starts = len((tmp_path / "starts").read_text())
    assert 1 <= starts <= 4, "48 calls at 16 for a replica ask for three"
