"""Autoscaling on a whole platform: to zero and back, up under load, policies applied live, and why."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipper_platform.control.scaling.idle_history import IdleHistory
from tests.e2e.conftest import Deploy
from tests.support.platform import PlatformProcess, eventually, write_project

SLOW = """
import time
import clipper

@clipper.function(downscale_to_zero_delay_s={zero}, downscale_delay_s=2, target_queue_depth=2, max_replicas={most},
                  stable_window_s=4, panic_window_s=1)
def slow(s: float = 0.0, n: int = 0) -> int:
    time.sleep(s)
    return n
"""


def slow(zero: float = 300, most: int = 3) -> str:
    return SLOW.format(zero=zero, most=most)


def wanted(platform: PlatformProcess, path: str) -> int:
    return int(platform.status(path)["replicas_wanted"])


def at(platform: PlatformProcess, path: str, count: int) -> Callable[[], bool]:
    return lambda: wanted(platform, path) == count


def together(platform: PlatformProcess, path: str, count: int, **arguments: Any) -> list[Any]:
    """Results of calls made at the same time, each with its number."""
    results: list[Any] = [None] * count
    start = threading.Barrier(count)

    def call(number: int) -> None:
        start.wait()
        results[number] = platform.call(path, n=number, **arguments)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return results


def test_an_idle_function_goes_to_zero_and_a_call_brings_it_back(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy(slow(zero=1))
    path = f"{name}/slow"
    eventually(at(platform, path, 0), what="no replicas")
    eventually(lambda: not platform.status(path)["replicas"], what="the replica's end")
    assert platform.status(path)["state"] == "ready"

    assert platform.call(path, n=7) == 7
    told = platform.clip("explain", path, "--json").json()
    assert [c["rule"] for c in told["changes"]][:2] == ["cold_start", "scale_to_zero"]
    events = platform.api("GET", f"/projects/{name}/events").json()["events"]
    assert [e["data"]["rule"] for e in events if e["kind"] == "scale"][:2] == ["scale_to_zero", "cold_start"]
    assert platform.metrics()[f'clip_scaling_decisions_total{{function="{path}",rule="cold_start"}}'] == 1


def test_a_burst_from_zero_loses_no_call(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy(slow(zero=1))
    path = f"{name}/slow"
    eventually(at(platform, path, 0), what="no replicas")
    assert together(platform, path, 60, s=0.05) == list(range(60))


def test_load_adds_replicas_and_its_end_takes_them_away(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy(slow())
    path = f"{name}/slow"
    calls = threading.Thread(target=together, args=(platform, path, 24), kwargs={"s": 0.5})
    calls.start()
    eventually(at(platform, path, 3), what="three replicas")
    calls.join()
    eventually(at(platform, path, 1), within_s=20, what="one replica again")
    said = platform.clip("explain", path).out
    assert "1 replica: keep_alive" in said
    assert "→ 3" in said


def test_an_applied_policy_lasts_until_the_project_declares_another(tmp_path: Path) -> None:
    with PlatformProcess(tmp_path / "home") as platform:
        project = tmp_path / "p"

        def deploy(app: str) -> None:
            write_project(project, app, 'name = "p"\n')
            platform.deploy(project)

        def source() -> tuple[str, int]:
            shown = platform.clip("policy", "show", "p/slow", "--json").json()
            return shown["source"], shown["policy"]["min_replicas"]

        deploy(slow())
        file = tmp_path / "live.toml"
        file.write_text("min_replicas = 2\nmax_replicas = 3\n")
        assert "has the policy of live.toml" in platform.clip("policy", "apply", "p/slow", file).out
        eventually(at(platform, "p/slow", 2), what="two replicas")

        deploy(slow() + "\n# only the code changed\n")
        assert platform.status("p/slow")["version"] == 2
        assert (source(), wanted(platform, "p/slow")) == (("applied", 2), 2)

        platform.kill()
        platform.start()
        assert source() == ("applied", 2)
        eventually(at(platform, "p/slow", 2), what="two replicas after a restart")

        deploy(slow(most=4))
        eventually(lambda: source() == ("deployed", 0), what="the end of the applied policy")
        deploy(slow())
        assert source() == ("deployed", 0)

        file.write_text("min_replicas = 2\nmax_replica = 3\n")
        refused = platform.clip("policy", "apply", "p/slow", file, check=False)
        assert (refused.code, "did you mean 'max_replicas'" in refused.err) == (1, True)


def test_the_deployed_policy_returns_on_request(platform: PlatformProcess, deploy: Deploy, tmp_path: Path) -> None:
    name = deploy(slow())
    file = tmp_path / "live.toml"
    file.write_text("min_replicas = 2\n")
    platform.clip("policy", "apply", name, file)
    assert platform.clip("policy", "show", name, "--json").json()["source"] == "applied"
    platform.clip("policy", "reset", name)
    assert platform.clip("policy", "show", name, "--json").json()["source"] == "deployed"
    assert platform.clip("policy", "reset", name, check=False).code == 1


def test_learnt_idle_times_survive_a_restart(tmp_path: Path) -> None:
    def learnt() -> int:
        known = IdleHistory(tmp_path / "home" / "idle_times")
        asyncio.run(known.open())
        return known.of("p/slow").total

    def calls() -> None:
        for n in range(3):
            time.sleep(1.2)  # an idle time counts from a second on
            assert platform.call("p/slow", n=n) == n

    with PlatformProcess(tmp_path / "home") as platform:
        app = slow(zero=1).replace("downscale_delay_s", 'keep_alive="learnt", downscale_delay_s')
        platform.deploy(write_project(tmp_path / "p", app, 'name = "p"\n'))
        calls()
        platform.stop()
        before = learnt()
        assert before
        platform.start()
        calls()
        platform.stop()
        assert learnt() > before
        (platform.home / "idle_times").write_bytes(b"damaged")
        platform.start()
        assert "counted anew" in platform.log()
        assert platform.call("p/slow", n=7) == 7
