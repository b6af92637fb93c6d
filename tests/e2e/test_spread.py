"""Calls over several replicas: all of them get their part, a storm starts no more than allowed, and none is dropped as
they become fewer."""

from __future__ import annotations

import threading
import time
from collections import Counter

from tests.e2e.conftest import Deploy
from tests.support.platform import PlatformProcess, eventually

APP = """
import os, time
import clipper

@clipper.function(OPTIONS)
def who(s: float = 0.0) -> int:
    time.sleep(s)
    return os.getpid()
"""


def at_once(platform: PlatformProcess, path: str, count: int, s: float) -> list[int]:
    answers: list[int] = []
    callers = [threading.Thread(target=lambda: answers.append(platform.call(path, s=s))) for _ in range(count)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(answers) == count
    return answers


def test_calls_are_spread_evenly_one_by_one_and_at_once(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy(APP.replace("OPTIONS", "min_replicas=3, max_replicas=3"))
    path = f"{name}/who"
    eventually(lambda: [r["state"] for r in platform.status(path)["replicas"]] == ["ready"] * 3, within_s=30)
    one_by_one = Counter(platform.call(path) for _ in range(60))
    assert len(one_by_one) == 3
    assert min(one_by_one.values()) >= 8, one_by_one  # 20 each, were it exact; by chance fewer than 8 once in 5,000
    together = Counter(at_once(platform, path, 30, s=0.2))
    assert sorted(together.values())[0] >= 6, together


def test_a_storm_from_zero_starts_the_replicas_that_are_allowed_and_loses_no_call(
    platform: PlatformProcess, deploy: Deploy
) -> None:
    name = deploy(APP.replace("OPTIONS", "max_replicas=2, downscale_to_zero_delay_s=0.5, target_queue_depth=1"))
    path = f"{name}/who"
    eventually(lambda: not platform.status(path)["replicas"], within_s=20, what="no replicas")
    assert 1 <= len(set(at_once(platform, path, 50, s=0.02))) <= 2


def test_no_call_is_dropped_while_replicas_come_and_go(platform: PlatformProcess, deploy: Deploy) -> None:
    options = (
        "max_replicas=3, target_queue_depth=1, downscale_delay_s=0.2, downscale_to_zero_delay_s=0.2, "
        "stable_window_s=1, panic_window_s=0.2, max_retries=0"
    )
    name = deploy(APP.replace("OPTIONS", options))
    path = f"{name}/who"
    for pause_s in (0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.6, 0.2, 0.21, 0.22):  # about when the last replica goes
        at_once(platform, path, 8, s=0.05)
        time.sleep(pause_s)
        platform.call(path)
        time.sleep(pause_s)
    changes = platform.clip("explain", path, "--json").json()["changes"]
    assert "scale_to_zero" in {change["rule"] for change in changes}
