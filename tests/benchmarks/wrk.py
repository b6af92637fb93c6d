"""The load generator: wrk, one thread, a closed loop over some connections."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from statistics import median

from tests.benchmarks.machine import Processors
from tests.benchmarks.servers import BenchmarkError, Endpoint, ask, ended

__all__ = ["Sample", "available", "check", "measure", "middle"]

SCRIPT = Path(__file__).with_name("wrk.lua")
GRACE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One run. Latencies in seconds; `foreign`: the machine's share that went to other processes meanwhile."""

    rate_per_s: float
    p50_s: float
    p99_s: float
    requests: int
    foreign: float


def available() -> bool:
    return shutil.which("wrk") is not None


def measure(endpoint: Endpoint, *, connections: int, seconds: int) -> Sample:
    """Load the endpoint. Raises BenchmarkError when any answer had another status than the endpoint's."""
    with Processors() as processors:
        raw = _run(endpoint, connections, seconds, checked=False)
    refused = raw["refused"] if endpoint.status < 400 else raw["requests"] - raw["refused"]
    if refused or raw["lost"]:
        raise BenchmarkError(
            f"{endpoint.url}, {connections} connections: {refused} of {raw['requests']} answers did not have status "
            f"{endpoint.status}, {raw['lost']} were lost"
        )
    if not raw["requests"]:
        raise BenchmarkError(f"{endpoint.url}, {connections} connections: not one answer in {seconds} s")
    return Sample(
        rate_per_s=raw["requests"] / raw["duration_us"] * 1e6,
        p50_s=raw["p50_us"] / 1e6,
        p99_s=raw["p99_us"] / 1e6,
        requests=raw["requests"],
        foreign=processors.foreign,
    )


def check(endpoint: Endpoint, *, connections: int = 16, seconds: int = 1, body: bool = True) -> int:
    """Warm the endpoint up, comparing status and (unless `body` is False) body of every answer; how many there were.

    Raises BenchmarkError when one was wrong.
    """
    raw = _run(endpoint, connections, seconds, checked=True, body=body)
    if raw["wrong"] or raw["lost"] or not raw["checked"]:
        raise BenchmarkError(
            f"{endpoint.url}: {raw['wrong']} of {raw['checked']} answers were wrong, {raw['lost']} were lost; "
            f"now it answers {_shown(endpoint)}"
        )
    return raw["checked"]


def _shown(endpoint: Endpoint) -> str:
    """One answer, for a message."""
    try:
        status, body = ask(endpoint)
    except (OSError, HTTPException) as error:
        return repr(error)
    return f"{status} {body[:200]!r}"


def middle(samples: Iterable[Sample]) -> Sample:
    """The medians of several runs; the requests of all."""
    runs = list(samples)
    return Sample(
        rate_per_s=median(s.rate_per_s for s in runs),
        p50_s=median(s.p50_s for s in runs),
        p99_s=median(s.p99_s for s in runs),
        requests=sum(s.requests for s in runs),
        foreign=median(s.foreign for s in runs),
    )


def _run(endpoint: Endpoint, connections: int, seconds: int, *, checked: bool, body: bool = True) -> dict[str, int]:
    with tempfile.TemporaryDirectory(prefix="bench-wrk-") as folder:
        sent, wanted = Path(folder, "body"), Path(folder, "expected")
        sent.write_bytes(endpoint.body)
        wanted.write_bytes(endpoint.expected)
        env = {**os.environ, "BENCH_BODY": str(sent), "BENCH_TYPE": endpoint.content_type}
        if checked:
            env |= {"BENCH_STATUS": str(endpoint.status)} | ({"BENCH_EXPECTED": str(wanted)} if body else {})
        argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT), endpoint.url]
        child = subprocess.Popen(
            argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            output = child.communicate(timeout=seconds + GRACE_S)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"wrk did not end within {seconds + GRACE_S:g} s") from None
        finally:
            ended(child)
    for line in output.splitlines():
        if line.startswith("BENCH "):
            parsed: dict[str, int] = json.loads(line.removeprefix("BENCH "))
            return parsed
    raise BenchmarkError(f"wrk failed: {output.strip()}")
