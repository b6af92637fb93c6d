"""No zygote, spare child, template or forked replica outlives its platform."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from clipper_platform.backends.process.guardian import MARKER, marked_processes
from tests.support.waiting import has_ended

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", ["platform", "zygote"])
def test_no_forked_process_outlives_the_platform_whichever_is_killed_first(tmp_path: Path, first: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.platform_with_zygotes", tmp_path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    pids: list[int] = []
    try:
        assert process.stdout is not None
        instance, *numbers = process.stdout.readline().split()
        marked = set(marked_processes(frozenset([f"{MARKER}={instance}".encode()])))
        assert set(map(int, numbers)) <= marked, "forked processes have the marker that the guardian looks for"
        pids = sorted(marked)
        assert len(pids) >= 7, "two zygotes with a spare child each, three forked replicas"
        if first == "zygote":
            os.kill(int(numbers[0]), signal.SIGKILL)
            assert has_ended(int(numbers[0]))
            assert all(psutil.pid_exists(int(pid)) for pid in numbers[2:]), "replicas outlive their zygote"
        process.kill()
        process.wait(10)
        assert all(has_ended(pid) for pid in pids)
    finally:
        process.kill()
        process.communicate()
        for pid in pids:
            if not has_ended(pid, 0):
                os.kill(pid, signal.SIGKILL)
