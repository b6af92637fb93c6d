"""Warm pools and snapshots as a user asks for them: in clip.toml, seen in headers, metrics and the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.platform import PlatformProcess, eventually, write_project

APP = """
import os, threading

class Where:
    def __init__(self):
        self.setup_in = os.getpid()

    def __call__(self) -> list[int]:
        return [self.setup_in, os.getpid()]

class Threaded:
    def __init__(self):
        self.stop = threading.Event()
        threading.Thread(target=self.stop.wait, name="poller", daemon=True).start()

    def __call__(self) -> str:
        return "served"
"""

TO_ZERO = """
min_replicas = 0
downscale_delay_s = 0
downscale_to_zero_delay_s = 0.1
stable_window_s = 1
panic_window_s = 0.5
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    with PlatformProcess(tmp_path_factory.mktemp("platform") / "home") as running:
        yield running


def metrics(platform: PlatformProcess) -> str:
    return platform.get("/metrics", headers={"authorization": f"Bearer {platform.api_key}"}).text


def replicas(platform: PlatformProcess, function: str) -> int:
    lines = [
        line for line in metrics(platform).splitlines() if line.startswith(f'clip_replicas{{function="{function}"')
    ]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))


def test_from_zero_replicas_a_snapshot_answers_after_a_fork_alone(platform: PlatformProcess, tmp_path: Path) -> None:
    toml = f'name = "shots"\n[functions.where]\nentrypoint = "app:Where"\nsnapshot = true\n{TO_ZERO}'
    write_project(tmp_path / "shots", APP, toml)
    platform.deploy(tmp_path / "shots")
    first = platform.post("/fn/shots/where", json={}).json()
    eventually(lambda: replicas(platform, "shots/where") == 0, within_s=30, what="scaled to zero")
    answer = platform.post("/fn/shots/where", json={})
    assert answer.json()[0] == first[0], "one setup for all replicas"
    assert answer.json()[1] != first[1]
    timing = answer.headers["server-timing"]
    assert [entry.partition(";")[0] for entry in timing.split(", ")] == [
        "queue", "place", "fork", "batch", "exec", "first_batch",
    ]  # fmt: skip
    exposition = metrics(platform)
    for phase in ("queue", "place", "fork", "first_batch"):
        assert f'clip_cold_start_seconds_count{{function="shots/where",phase="{phase}"}}' in exposition
    again = platform.post("/fn/shots/where", json={}).headers["server-timing"]
    assert [entry.partition(";")[0] for entry in again.split(", ")] == ["queue", "batch", "exec"]
    assert json.loads(platform.clip("status", "shots/where", "--json").out)["snapshot"] == {
        "state": "ready", "reason": "", "retry_in_s": None,
    }  # fmt: skip


def test_from_zero_replicas_a_warm_pool_answers_without_a_new_interpreter(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    toml = f'name = "pool"\n[environment]\nwarm_pool_size = 1\n[functions.where]\nentrypoint = "app:Where"\n{TO_ZERO}'
    write_project(tmp_path / "pool", APP, toml)
    platform.deploy(tmp_path / "pool")

    def forked() -> bool:
        eventually(lambda: replicas(platform, "pool/where") == 0, within_s=30, what="scaled to zero")
        timing = platform.post("/fn/pool/where", json={}).headers["server-timing"]
        return "fork;dur=" in timing and "setup;dur=" in timing and "launch;dur=" not in timing

    assert eventually(forked, within_s=60, what="the pool has a zygote")


def test_a_refused_snapshot_says_why_in_the_functions_log_and_in_its_status(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    toml = 'name = "refused"\n[functions.threaded]\nentrypoint = "app:Threaded"\nsnapshot = true\n'
    write_project(tmp_path / "refused", APP, toml)
    platform.deploy(tmp_path / "refused")
    assert platform.post("/fn/refused/threaded", json={}).json() == "served"
    log_text = eventually(
        lambda: (log := platform.clip("logs", "refused/threaded").out) and "no snapshot" in log and log
    )
    assert "poller" in log_text
    state = json.loads(platform.clip("status", "refused/threaded", "--json").out)["snapshot"]
    assert state["state"] == "refused"
    assert "it started 1 threads ('poller')" in state["reason"]
    assert 0 <= state["retry_in_s"] <= 30
    shown = " ".join(platform.clip("status", "refused/threaded").out.split())
    assert "no snapshot: it started 1 threads ('poller'), which a forked process would lack" in shown
