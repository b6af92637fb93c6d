"""Nothing that a platform started outlives it: kill -9 of the platform, of its guardian, of both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.replicas import FAKE_REPLICA, Recorder, ask, launch_spec, process_backend
from tests.support.waiting import has_ended, until

ROOT = Path(__file__).parents[2]


class Platform:
    """A platform in a process of its own, and what it started."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        assert line, "the platform did not start"
        self.process = process
        self.instance = line[0]
        self.pids = [int(pid) for pid in line[1:]]

    @property
    def guardian(self) -> psutil.Process:
        return next(
            child for child in psutil.Process(self.process.pid).children() if "guardian.py" in " ".join(child.cmdline())
        )

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(10)


@contextmanager
def platform(home: Path, replicas: int = 2) -> Iterator[Platform]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.platform_with_replicas", home, str(replicas)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    started = None
    try:
        started = Platform(process)
        yield started
    finally:
        process.kill()
        process.communicate()
        for pid in started.pids if started else ():
            if not has_ended(pid, 0):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_however_a_platform_dies_its_replicas_and_their_descendants_die_with_it(tmp_path: Path, number: int) -> None:
    with platform(tmp_path) as victim:
        guardian = victim.guardian.pid
        assert len(victim.pids) == 6
        assert all(psutil.pid_exists(pid) for pid in victim.pids)
        victim.kill(number)
        assert all(has_ended(pid) for pid in victim.pids)
        assert has_ended(guardian)


def test_the_guardian_is_started_again_when_it_is_killed(tmp_path: Path) -> None:
    with platform(tmp_path, replicas=1) as victim:
        first = victim.guardian
        first.kill()
        assert has_ended(first.pid)
        assert wait_for_guardian(victim) != first.pid
        victim.kill()
        assert all(has_ended(pid) for pid in victim.pids)


def test_the_guardian_outlives_what_ends_a_whole_terminal(tmp_path: Path) -> None:
    with platform(tmp_path, replicas=1) as victim:
        guardian = victim.guardian
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            guardian.send_signal(number)
        victim.kill()
        assert all(has_ended(pid) for pid in victim.pids)


async def test_what_a_platform_and_its_guardian_left_is_ended_by_the_next_platform_of_the_home(tmp_path: Path) -> None:
    with platform(tmp_path, replicas=1) as victim:
        # Stopped, the guardian cannot act before it is killed together with the platform.
        guardian = victim.guardian
        guardian.suspend()
        victim.kill()
        guardian.kill()
        assert any(psutil.pid_exists(pid) and not has_ended(pid, 0.0) for pid in victim.pids)
        successor = process_backend(tmp_path, command=FAKE_REPLICA)
        await successor.open()
        try:
            assert all(has_ended(pid) for pid in victim.pids)
            assert left_in(successor.temporary_root) == []
            assert left_in(tmp_path / "run") == [f"instance-{successor.instance_id}.json"]
        finally:
            await successor.close()


async def test_a_platform_spares_what_another_living_one_runs(tmp_path: Path) -> None:
    with platform(tmp_path, replicas=1) as other:
        backend = process_backend(tmp_path, command=FAKE_REPLICA)
        await backend.open()
        replica, recorder = await backend.launch(launch_spec(tmp_path)), Recorder()
        replica.attach(recorder)
        assert await ask(replica, recorder, b"x") == [b"x"]
        await backend.close()
        assert not any(has_ended(pid, 0.0) for pid in other.pids)


async def test_a_closed_backends_guardian_is_gone(tmp_path: Path) -> None:
    backend = process_backend(tmp_path, command=FAKE_REPLICA)
    await backend.open()
    await until(lambda: guardians_of(backend.instance_id))
    await backend.close()
    assert guardians_of(backend.instance_id) == []


def wait_for_guardian(victim: Platform) -> int:
    """The pid of the guardian once there is one again. Bounded by the test's own timeout."""
    while True:
        try:
            return victim.guardian.pid
        except (StopIteration, psutil.NoSuchProcess):
            time.sleep(0.02)


def guardians_of(instance: str) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if instance in (process.info["cmdline"] or []) and process.status() != psutil.STATUS_ZOMBIE
    ]


def left_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]
