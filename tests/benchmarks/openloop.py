"""An open loop: requests leave at the times of a Poisson process, whether or not earlier ones were answered.

    python -m tests.benchmarks.openloop --rate 1000 --seconds 4 --body '{"x": 1}' URL

A closed loop waits for a slow server and so hides how slow it is; here a latency counts from the moment at which the
request was due. One process, one thread; prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools
import uvloop

from tests.benchmarks.servers import BenchmarkError

__all__ = ["Load", "Outcome", "collect", "start"]

MAX_CONNECTIONS = 4000
GRACE_S = 5.0  # for the last answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The load: `rate_per_s` on average for `seconds`, the same moments for the same seed."""

    url: str
    body: str
    rate_per_s: float
    seconds: float
    seed: int = 1
    skip_s: float = 0.0  # not counted, at the beginning


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The answers. Latencies in seconds: of the answers with status 200, from the moment they were due.

    `answered_per_s` counts the answers that came while load was offered, whenever they had been asked for.
    `late_p99_s` is how late the generator itself was: where it comes near the latencies, they say nothing.
    """

    offered_per_s: float
    answered_per_s: float
    statuses: dict[str, int]
    latencies_s: list[float]
    late_p99_s: float

    def quantile(self, q: float) -> float:
        return quantile(self.latencies_s, q)


def quantile(values: Sequence[float], q: float) -> float:
    """The value that a share `q` does not exceed; inf without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)] if ordered else math.inf


def start(load: Load) -> subprocess.Popen[bytes]:
    """A generator in a process of its own, so that it shares no interpreter with anything measured."""
    argv = [sys.executable, "-m", "tests.benchmarks.openloop", "--json", json.dumps(asdict(load))]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True)


def collect(child: subprocess.Popen[bytes], load: Load) -> Outcome:
    """Its outcome. Raises BenchmarkError."""
    try:
        output = child.communicate(timeout=load.seconds + GRACE_S + 30)[0]
    except subprocess.TimeoutExpired:
        raise BenchmarkError("the open-loop generator did not end") from None
    if child.returncode:
        raise BenchmarkError(f"the open-loop generator ended with {child.returncode}")
    return Outcome(**json.loads(output))


class _Connection(asyncio.Protocol):
    """Carries one request at a time."""

    def __init__(self, generator: _Generator) -> None:
        self._generator = generator
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, due: float) -> None:
        self._due = due
        self._transport.write(self._generator.request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._generator.answered(self, self._due, self._parser.get_status_code())

    def connection_lost(self, exc: Exception | None) -> None:
        self._generator.lost(self)


class _Generator:
    def __init__(self, load: Load) -> None:
        parts = urlsplit(load.url)
        self._load = load
        self._address = (parts.hostname or "", parts.port or 80)
        body = load.body.encode()
        self.request = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._idle: list[_Connection] = []
        self._open = 0
        self._in_flight = 0
        self._statuses: Counter[str] = Counter()
        self._latencies: list[float] = []
        self._lateness: list[float] = []
        self._in_time = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    async def run(self) -> Outcome:
        load, rng = self._load, random.Random(self._load.seed)
        # Connections beforehand: a handshake is not part of a request's latency.
        for _ in range(min(MAX_CONNECTIONS, 16 + int(load.rate_per_s / 10))):
            _, connection = await self._loop.create_connection(lambda: _Connection(self), *self._address)
            self._idle.append(connection)
            self._open += 1
        self._began = due = self._loop.time() + 0.05
        end = due + load.seconds
        while (due := due + rng.expovariate(load.rate_per_s)) < end:
            delay = due - self._loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            self._send(due)
        deadline = self._loop.time() + GRACE_S
        while self._in_flight and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
        return self._outcome()

    def _send(self, due: float) -> None:
        self._in_flight += 1
        self._lateness.append(self._loop.time() - due)
        if self._idle:
            self._idle.pop().send(due)
        elif self._open < MAX_CONNECTIONS:
            self._open += 1
            task = self._loop.create_task(self._send_on_new(due))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        else:
            self._in_flight -= 1
            self._statuses["no connection"] += 1

    async def _send_on_new(self, due: float) -> None:
        try:
            _, connection = await self._loop.create_connection(lambda: _Connection(self), *self._address)
        except OSError:
            self._in_flight -= 1
            self._statuses["no connection"] += 1
            return
        connection.send(due)

    def answered(self, connection: _Connection, due: float, status: int) -> None:
        self._in_flight -= 1
        now, load = self._loop.time(), self._load
        if status == 200 and load.skip_s <= now - self._began < load.seconds:
            self._in_time += 1
        if due - self._began >= load.skip_s:
            self._statuses[str(status)] += 1
            if status == 200:
                self._latencies.append(now - due)
        self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        else:
            self._in_flight -= 1
            self._statuses["lost"] += 1

    def _outcome(self) -> Outcome:
        if self._in_flight:
            self._statuses["unanswered"] += self._in_flight
        counted_s = self._load.seconds - self._load.skip_s
        return Outcome(
            offered_per_s=len(self._lateness) / self._load.seconds,
            answered_per_s=self._in_time / counted_s,
            statuses=dict(self._statuses),
            latencies_s=self._latencies,
            late_p99_s=quantile(self._lateness, 0.99),
        )


async def _run(load: Load) -> Outcome:
    return await _Generator(load).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", nargs="?")
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second, on average")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--body", default="{}")
    parser.add_argument("--json", help="all of it, as one object")
    given = parser.parse_args()
    if given.json:
        load = Load(**json.loads(given.json))
    elif given.url:
        load = Load(url=given.url, body=given.body, rate_per_s=given.rate, seconds=given.seconds)
    else:
        parser.error("give a URL")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(_run(load))
    found = asdict(outcome)
    if not given.json:
        del found["latencies_s"]
        found |= {"p50_s": outcome.quantile(0.5), "p99_s": outcome.quantile(0.99)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
