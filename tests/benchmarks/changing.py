"""Load whose rate changes, in an open loop over raw HTTP, and a watch of the function's status meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from clipper_platform.core.simulation import arrivals
from tests.benchmarks.openloop import quantile
from tests.benchmarks.section import Verdict
from tests.support.load import Connection, Hung, request
from tests.support.platform import PlatformProcess

__all__ = ["MOST_REPLICAS", "Answer", "Callers", "Moment", "Site", "Size", "Watch", "at_zero", "none_of", "p99"]

MAX_CONNECTIONS = 1500
MOST_REPLICAS = 6
ZERO_WITHIN_S = 40.0  # beyond the silence of a cycle; then it counts as missed
WATCH_PERIOD_S = 0.2


@dataclass(frozen=True, slots=True)
class Answer:
    """`due`: when the request had to leave. `wrong`: what was wrong with the answer; empty when it was right."""

    due: float
    took_s: float
    wrong: str


@dataclass(frozen=True, slots=True)
class Moment:
    """The function's status at one instant."""

    at: float
    wanted: int
    ready: int
    queued: int
    running: int


def p99(answers: Iterable[Answer]) -> float | None:
    took = [answer.took_s for answer in answers if not answer.wrong]
    return quantile(took, 0.99) if took else None


@dataclass
class Callers:
    """Callers of `soak/work`, which returns squares. Each request ends with one answer or one complaint."""

    port: int
    path: str = "soak/work"
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._idle: list[Connection] = []
        self._open = 0
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def offer(self, rate: Callable[[float], float], most: float, seconds: float, seed: int) -> None:
        """Poisson arrivals at `rate(t)` per second, at most `most`, for so long, whether or not any is answered."""
        began = time.monotonic()
        for at in arrivals(rate, most, seconds, Random(seed)):
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            self.ask(began + at)
        await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))

    async def burst(self, count: int) -> list[Answer]:
        """So many at the same moment, on connections that were open before."""
        while len(self._idle) < count:
            self._idle.append(await Connection.open(self.port))
            self._open += 1
        before = len(self.answers)
        due = time.monotonic()
        for _ in range(count):
            self.ask(due)
        await self.finished()
        return self.answers[before:]

    def ask(self, due: float) -> None:
        task = asyncio.get_running_loop().create_task(self._exchange(due))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finished(self) -> None:
        """Whether every request is answered or given up."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for connection in self._idle:
            connection.close()

    async def _exchange(self, due: float) -> None:
        self._number = number = self._number + 1
        try:
            wrong = await self._asked(number)
        except (Hung, OSError) as error:
            wrong = f"question {number} is lost: {error}"
        self.answers.append(Answer(due, time.monotonic() - due, wrong))

    async def _asked(self, number: int) -> str:
        data = request(self.path, {"n": number})
        sent = None
        while sent is None:
            if self._idle:
                connection = self._idle.pop()
            elif self._open < MAX_CONNECTIONS:
                self._open += 1
                connection = await Connection.open(self.port)
            else:
                return f"question {number} found no free connection"
            try:
                sent = connection.send(data)
            except Hung:  # closed as it was idle for over a minute: nothing was sent, as every client takes another
                self._open -= 1
        reply = await connection.receive(sent)
        self._idle.append(connection)
        if reply.status != 200:
            return f"question {number}: {reply.status} {reply.body[:200]!r}"
        return "" if reply.json() == number * number else f"question {number}: {reply.body[:50]!r}"


class Watch:
    """Looks at the function's status, again and again."""

    def __init__(self, platform: PlatformProcess, function: str) -> None:
        self._project, _, self._function = function.partition("/")
        self._key = platform.api_key
        self._port = platform.port
        self._connection: Connection | None = None
        self.moments: list[Moment] = []

    async def run(self, on_moment: Callable[[Moment], None]) -> None:
        """Looks for ever, and calls `on_moment` with each moment."""
        while True:
            on_moment(await self.look())
            await asyncio.sleep(WATCH_PERIOD_S)

    async def look(self) -> Moment:
        """Now. Raises Hung."""
        project = json.loads(await self.get(f"/api/v1/projects/{self._project}"))
        status = next(f for f in project["functions"] if f["name"] == self._function)
        moment = Moment(
            time.monotonic(),
            status["replicas_wanted"],
            status["replicas_ready"],
            status["queue_depth"],
            status["running"],
        )
        self.moments.append(moment)
        return moment

    async def gauges(self) -> dict[str, float]:
        """Those that count what is under way, and are not zero."""
        found = {}
        for line in (await self.get("/metrics")).decode().splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith(("clip_queue_depth", "clip_running", "clip_replicas{")) and float(value):
                found[name] = float(value)
        return found

    async def get(self, path: str) -> bytes:
        connection = self._connection or await Connection.open(self._port)
        self._connection = None  # while it is in use
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._key}\r\n\r\n"
        reply = await connection.ask(head.encode())
        self._connection = connection
        if reply.status != 200:
            raise Hung(f"{path} answered {reply.status} {reply.body[:200]!r}")
        return reply.body

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Times in seconds. The policy's windows follow `cycle_s`."""

    cycle_s: float
    duration_s: float
    burst: int
    steady_s: float
    step_s: float
    step_per_s: float
    sane: bool = False  # only whether it works: no time is judged

    @property
    def cycles(self) -> int:
        return max(1, round(self.duration_s / self.cycle_s))

    def policy(self) -> str:
        """The autoscaling policy as its file."""
        return (
            f"target_queue_depth = 2\nmin_replicas = 0\nmax_replicas = {MOST_REPLICAS}\n"
            f"stable_window_s = {self.cycle_s / 10:g}\npanic_window_s = {self.cycle_s / 60:g}\n"
            f"downscale_delay_s = {self.cycle_s / 20:g}\ndownscale_to_zero_delay_s = {self.cycle_s / 20:g}\n"
        )


@dataclass(frozen=True, slots=True)
class Site:
    """What the parts of a run share."""

    size: Size
    platform: PlatformProcess
    callers: Callers
    watch: Watch
    step: Callable[[str], None]


async def at_zero(site: Site) -> bool:
    """Wait until the function has no replica, neither wanted nor ready; whether it got there."""
    deadline = time.monotonic() + ZERO_WITHIN_S
    while time.monotonic() < deadline:
        moment = await site.watch.look()
        if not (moment.wanted or moment.ready or await site.watch.gauges()):
            return True
        await asyncio.sleep(0.2)
    return False


def none_of(what: str, found: int) -> Verdict:
    return Verdict(what=what, target="none", measured=str(found) if found else "none", met=not found)
