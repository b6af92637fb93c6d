"""How soon a platform answers again after `kill -9`, and how long `clip` commands take.

    python -m tests.benchmarks.restart [--runs 5] [--load 0]

A function without a snapshot is deployed, the platform is killed and started again, and the function is called until it
answers. The phases, from the start of `clip up`, in milliseconds (best and median of the runs):

    replica     the first process of a replica exists
    listening   platform.json names the new process
    answer      the first answer of the function

with the CPU time that the platform and the replica had used by then. `--load N` keeps N processes busy meanwhile. For
the commands: CPU and wall time of the whole process, an API call of a platform that runs included.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil

from tests.support.platform import CLIP, PlatformProcess, write_project

APP = """
import clipper

@clipper.function()
def one() -> int:
    return 1
"""
COMMANDS = (("--help",), ("list",), ("status", "demo"), ("rollback", "demo"), ("deploy", "."))
POLL_S = 0.004
LIMIT_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--load", type=int, default=0, help="processes that keep a core busy meanwhile")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, busy(options.load):
        place = Path(directory)
        project = write_project(place / "demo", APP, 'name = "demo"\n')
        with PlatformProcess(place / "home") as platform:
            platform.deploy(project)
            runs = [restart(platform) for _ in range(options.runs)]
            print(f"{'after kill -9':24}{'best':>10}{'median':>10}")
            for phase in runs[0]:
                show(phase, [run[phase] for run in runs])
            (project / "app.py").write_text(APP + "\n# the second version\n")
            platform.deploy(project)
            print(f"\n{'command':24}{'best':>10}{'median':>10}")
            for words in COMMANDS:
                spent = [command(platform, words, project) for _ in range(options.runs)]
                show(f"clip {' '.join(words)}, CPU", [cpu for cpu, _ in spent])
                show(f"clip {' '.join(words)}, wall", [wall for _, wall in spent])


def show(name: str, seconds: list[float]) -> None:
    print(f"{name:24}{min(seconds) * 1000:7.0f} ms{statistics.median(seconds) * 1000:7.0f} ms")


def restart(platform: PlatformProcess) -> dict[str, float]:
    """Seconds from the start of `clip up` to each phase."""
    platform.kill()
    with platform.log_path.open("ab") as log:
        begun = time.monotonic()
        platform.process = subprocess.Popen(
            [CLIP, "up", "--home", str(platform.home), "--port", str(platform.port)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=platform.environment(),
            start_new_session=True,
        )
    me, phases = psutil.Process(platform.process.pid), dict[str, float]()
    announced = platform.home / "platform.json"
    # The socket takes connections before anything answers on it, so the request waits on a thread of its own.
    with ThreadPoolExecutor(1) as threads:
        answered = threads.submit(first_answer, platform.port, begun)
        replica: psutil.Process | None = None
        while not (answered.done() and replica and "listening" in phases):
            passed = time.monotonic() - begun
            if "listening" not in phases and f'"pid": {me.pid}' in text_of(announced):
                phases["listening"] = passed
            if replica is None and (replica := replica_of(me)) is not None:
                phases["replica"] = passed
            if passed > LIMIT_S:
                raise AssertionError(platform.log())
            time.sleep(POLL_S)
    phases["answer"] = answered.result()
    phases["CPU of the platform"] = sum(me.cpu_times()[:2])
    phases["CPU of the replica"] = sum(replica.cpu_times()[:2])
    return {key: phases[key] for key in ("replica", "listening", "answer", *list(phases)[-2:])}


def first_answer(port: int, begun: float) -> float:
    """Seconds since `begun`."""
    while not answers(port):
        if time.monotonic() - begun > LIMIT_S:
            raise TimeoutError(f"no answer within {LIMIT_S:g} s")
        time.sleep(POLL_S)
    return time.monotonic() - begun


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def replica_of(platform: psutil.Process) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        for child in platform.children():
            if "clipper_runtime" in child.cmdline():
                return child
    return None


def answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/fn/demo/one", "{}", {"Content-Type": "application/json"})
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def command(platform: PlatformProcess, words: tuple[str, ...], project: Path) -> tuple[float, float]:
    """CPU and wall seconds of one command."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    platform.clip(*words, cwd=project)
    wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    workers = [multiprocessing.Process(target=spin, args=(os.getpid(),), daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.kill()


def spin(parent: int) -> None:
    while os.getppid() == parent:
        sum(range(100_000))


if __name__ == "__main__":
    main()
