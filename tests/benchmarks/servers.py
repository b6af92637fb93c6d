"""Server processes: started, asked until they answer correctly, ended with everything that they started."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import psutil

from tests.benchmarks.machine import family

__all__ = [
    "BenchmarkError", "Endpoint", "Launcher", "Running",
    "ask", "ended", "expect_answer", "free_port", "process", "wait_healthy",
]  # fmt: skip

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 5.0


class BenchmarkError(Exception):
    """A measurement that cannot be made, or that must not count, in words for the reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What a load generator sends where, and what must come back."""

    url: str
    body: bytes
    expected: bytes
    content_type: str = "application/json"
    status: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that answers. `endpoints` by the name of the contestant that each one stands for."""

    pid: int
    endpoints: Mapping[str, Endpoint]


class Launcher(Protocol):
    """Starts one server process, which may stand for several contestants (cached and uncached, say)."""

    @property
    def contestants(self) -> Sequence[str]: ...
    def start(self) -> AbstractContextManager[Running]: ...


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(
    argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a process group of its own, ended with all its descendants. Its output goes to the end of `log`."""
    with log.open("ab") as file:
        child = subprocess.Popen(
            [str(word) for word in argv],
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            env=dict(env) if env is not None else None,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        ended(child)


def ended(child: subprocess.Popen[bytes]) -> None:
    """End a child that leads its process group: ask it, then kill whatever is left of its family."""
    members = family(child.pid)
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(END_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    # Those that left the group. psutil compares start times, so a reused id is not mistaken for one of them.
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    child.wait()


def ask(endpoint: Endpoint, timeout_s: float = 10.0) -> tuple[int, bytes]:
    """One request: status and body of the answer. Raises OSError or http.client.HTTPException."""
    parts = urlsplit(endpoint.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("POST", parts.path, endpoint.body, {"Content-Type": endpoint.content_type})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def expect_answer(endpoint: Endpoint) -> None:
    """Ask once. Raises BenchmarkError unless the answer is the right one."""
    try:
        status, body = ask(endpoint)
    except (OSError, http.client.HTTPException) as error:
        raise BenchmarkError(f"{endpoint.url} does not answer: {error!r}") from error
    if (status, body) != (endpoint.status, endpoint.expected):
        raise BenchmarkError(f"{endpoint.url} answered {status} {body[:200]!r}, not {endpoint.expected[:200]!r}")


def wait_healthy(child: subprocess.Popen[bytes], endpoint: Endpoint, log: Path) -> None:
    """Return once the endpoint gives the right answer. Raises BenchmarkError with the end of the log otherwise."""
    deadline = time.monotonic() + START_TIMEOUT_S
    last = "no answer"
    while time.monotonic() < deadline and child.poll() is None:
        try:
            status, body = ask(endpoint)
            if (status, body) == (endpoint.status, endpoint.expected):
                return
            last = f"{status} {body[:200]!r}"
        except (OSError, http.client.HTTPException) as error:
            last = str(error) or type(error).__name__
        time.sleep(0.1)
    output = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    raise BenchmarkError(f"{endpoint.url} gave no right answer (the last: {last})\n{output}")
