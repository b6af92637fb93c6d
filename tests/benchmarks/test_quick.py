"""That the benchmarks work: they run, their answers are right, their report is written. No times are asserted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import psutil
import pytest

from tests.support.platform import eventually

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.timeout(180),
    # Ends beside nothing else that measures or counts processes.
    pytest.mark.xdist_group("benchmarks"),
]


def start(out: Path, *more: str, module: str = "tests.benchmarks") -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", module, "--quick", "--sanity", "--out", str(out), *more]
    pipe = subprocess.PIPE
    env = {**os.environ, "CLIP_BENCH_HOME": str(out.parent / "bench-home"), "TMPDIR": str(out.parent)}
    return subprocess.Popen(argv, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def test_a_short_run_measures_right_answers_and_writes_its_report_and_plot(tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = start(out)
    output, errors = child.communicate(timeout=150)
    assert child.returncode == 0, errors
    report = (out / "report.md").read_text()
    assert report.strip() == output.strip()
    for row in ("| Clipper |", "| Clipper, cached |", "| Clipper, fast path off |", "| bare uvicorn |"):
        assert row in report
    assert "Not in the tables" not in report, report
    assert "wrong" not in errors
    data = json.loads((out / "results.json").read_text())
    assert data["failures"] == {}
    for contestant in ("clipper", "cached", "asgi", "uvicorn"):
        (sample,) = data["throughput"][f"{contestant} c=8"]
        assert sample["requests"] > 0
    plot = ElementTree.fromstring((out / "throughput.svg").read_text())
    words = ["".join(text.itertext()) for text in plot.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("Clipper") == len(("1 connection", "8 connections"))


def test_ctrl_c_ends_every_server(tmp_path: Path) -> None:
    child = start(tmp_path / "out", "--only", "throughput")
    try:
        benchmark = psutil.Process(child.pid)
        family = eventually(lambda: servers(benchmark), within_s=60, what="a replica serves")
        time.sleep(0.5)  # somewhere inside a measurement
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=40)
        assert child.returncode == 130
        assert not [process for process in family if alive(process)]
    finally:
        child.kill()
        child.communicate()


def test_a_short_soak_loses_nothing_and_writes_its_report_and_plot(tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = start(out, module="tests.benchmarks.soak")
    output, errors = child.communicate(timeout=150)
    assert child.returncode == 0, errors + output
    assert (out / "report.md").read_text().strip() == output.strip()
    for row in ("| answers wrong or lost | none | none | met |", "| ramp | 30 |", "| lost of 100 at once at zero"):
        assert row in output
    assert "missed" not in output
    data = json.loads((out / "results.json").read_text())
    assert data["Changing load"]["answers"] > 50
    assert len(data["A burst at zero replicas"]["took_s"]) == 100
    plot = ElementTree.fromstring((out / "soak.svg").read_text())
    words = ["".join(text.itertext()) for text in plot.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Requests per second", "Replicas", "Queue", "Latency, ms"} <= set(words)


def test_ctrl_c_ends_a_soak(tmp_path: Path) -> None:
    child = start(tmp_path / "out", "--duration", "60", module="tests.benchmarks.soak")
    try:
        benchmark = psutil.Process(child.pid)
        eventually(lambda: len(benchmark.children(recursive=True)) >= 2, within_s=60, what="a replica serves")
        time.sleep(1)  # somewhere inside a cycle
        family = benchmark.children(recursive=True)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=40)
        assert child.returncode == 130, errors
        assert "Traceback" not in errors
        assert not [process for process in family if alive(process)]
    finally:
        child.kill()
        child.communicate()


def servers(benchmark: psutil.Process) -> list[psutil.Process]:
    """All that it started, once a load generator is among them."""
    found = benchmark.children(recursive=True)
    return found if any(name(process) == "wrk" for process in found) else []


def name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
