"""Our own side: a platform as its users run it, with a project deployed to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks import model
from tests.benchmarks.peers import bench_home
from tests.benchmarks.servers import BenchmarkError, Endpoint, Running, ended
from tests.support.platform import PlatformProcess

__all__ = ["OursLauncher", "endpoint", "platform", "replica_pids"]

FUNCTIONS = Path(__file__).with_name("functions")


@contextmanager
def platform(home: Path, project: str, settings: Mapping[str, str] | None = None) -> Iterator[PlatformProcess]:
    """`clip up` in `home` with a project of functions/ deployed; gone with all its replicas afterwards."""
    env = {"CLIP_ENVIRONMENTS": str(bench_home() / "environments"), "CLIP_LOG_LEVEL": "warning", **(settings or {})}
    running = PlatformProcess(home, env=env)
    try:
        running.start()
        running.deploy(FUNCTIONS / project)
        yield running
    except AssertionError as error:
        raise BenchmarkError(str(error)) from error
    finally:
        _end(running)


def _end(running: PlatformProcess) -> None:
    """Also where it does not end by itself: nothing that a benchmark started may stay."""
    with contextlib.suppress(AssertionError):
        running.stop()
    if running.process is not None:
        ended(running.process)


def endpoint(running: PlatformProcess, function: str, **more: Any) -> Endpoint:
    """`POST /fn/{function}` with the model's request, unless `more` says otherwise."""
    given = {"body": model.BODY, "expected": model.ANSWER, **more}
    return Endpoint(url=f"{running.url}/fn/{function}", **given)


def replica_pids(running: PlatformProcess, function: str) -> list[int]:
    """The processes that run the function."""
    return [replica["pid"] for replica in running.status(function)["replicas"] if replica["pid"]]


class OursLauncher:
    """Implements `Launcher`. One platform stands for several contestants: a function of the project for each."""

    def __init__(self, home: Path, functions: Mapping[str, str], settings: Mapping[str, str] | None = None) -> None:
        self._home = home
        self._functions = functions
        self._settings = settings or {}

    @property
    def contestants(self) -> Sequence[str]:
        return tuple(self._functions)

    @contextmanager
    def start(self) -> Iterator[Running]:
        with platform(self._home, "total", self._settings) as running:
            if running.process is None:
                raise BenchmarkError("the platform ended")
            endpoints = {key: endpoint(running, path) for key, path in self._functions.items()}
            yield Running(pid=running.process.pid, endpoints=endpoints)
