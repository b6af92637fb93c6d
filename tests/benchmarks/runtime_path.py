"""Processor time of the runtime per invocation: `python -m tests.benchmarks.runtime_path [TREE …]`.

Each case starts a real `python -m clipper_runtime` on a socket pair and sends it one batch after the other, ten floats
as JSON an invocation. The time is that of all threads of the runtime, system calls included, as the kernel's scheduler
counts it in nanoseconds. With several source trees (each with its own `.venv`) their processes take turns in one run;
the median over the rounds is shown, so that other work on the machine hits all of them alike.

Everything runs on one core, so a read never spins. In the cases named "cold" a buffer larger than the second-level
cache is written between two batches, as other processes do between two batches of a replica that is not saturated.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipper.contract import wire
from clipper.contract.frames import FrameReader
from clipper.contract.spec import FunctionSpec
from tests.benchmarks import model

__all__ = ["measure"]

ROOT = Path(__file__).parents[2]
ROUNDS = 100
BATCHES = 20  # of one round
WARM_UP = 200
COLD_BYTES = 4 << 20

CODE = """
from collections.abc import AsyncIterator, Iterator

def batched(numbers: list[list[float]]) -> list[float]:
    return [sum(row) for row in numbers]

def single(numbers: list[float]) -> float:
    return sum(numbers)

async def coroutine(numbers: list[float]) -> float:
    return sum(numbers)

async def coroutine_batched(numbers: list[list[float]]) -> list[float]:
    return [sum(row) for row in numbers]

def stream(numbers: list[float]) -> Iterator[float]:
    yield from numbers

async def async_stream(numbers: list[float]) -> AsyncIterator[float]:
    for number in numbers:
        yield number
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    function: str
    size: int  # invocations of a batch
    cold: bool = False
    options: dict[str, Any] = field(default_factory=dict)


BATCHED = {"max_batch_size": model.BATCH_LIMIT}
CASES = (
    Case(name="inline, batches of 1", function="batched", size=1, options=BATCHED),
    Case(name="inline, batches of 1, cold", function="batched", size=1, cold=True, options=BATCHED),
    Case(name="inline, batches of 32", function="batched", size=32, options=BATCHED),
    Case(name="inline, batches of 32, cold", function="batched", size=32, cold=True, options=BATCHED),
    Case(name="inline, unbatched", function="single", size=1),
    Case(name="threads, unbatched", function="single", size=1, options={"max_ongoing_requests": 2}),
    Case(name="threads, batches of 32", function="batched", size=32, options={**BATCHED, "max_ongoing_requests": 2}),
    Case(name="async, unbatched", function="coroutine", size=1),
    Case(name="async, batches of 32", function="coroutine_batched", size=32, options=BATCHED),
    Case(name="stream of 10 chunks", function="stream", size=1),
    Case(name="async stream of 10 chunks", function="async_stream", size=1),
)


class Subject:
    """A runtime of one source tree that serves the function of one case."""

    def __init__(self, tree: Path, case: Case, bundle: Path, channel: socket.socket, process: int) -> None:
        self.tree = tree
        self.case = case
        self._channel = channel
        self._process = process
        self._reader = FrameReader()
        self._cold = bytearray(COLD_BYTES) if case.cold else bytearray()
        spec = FunctionSpec.parse("f", f"app:{case.function}", case.options).to_dict()
        self._receive(wire.Hello)
        channel.sendall(wire.encode(wire.Start(wire.PROTOCOL_VERSION, "p", "f", 1, "r", str(bundle), spec)))
        self._receive(wire.Ready)
        items = [
            wire.Item(n, f"request-{n}", "application/json", "*/*", 60.0, len(model.BODY)) for n in range(case.size)
        ]
        self._invoke = wire.encode(wire.Invoke(1, items), case.size * len(model.BODY)) + model.BODY * case.size

    def run(self, batches: int) -> float:
        """Microseconds of processor time per invocation."""
        began = self._spent_ns()
        for _ in range(batches):
            if self._cold:
                self._cold[:] = bytes(len(self._cold))
            self._channel.sendall(self._invoke)
            answered = 0
            while answered < self.case.size:
                outcomes = self._receive(wire.Result).outcomes
                assert all(outcome.status == wire.Status.OK for outcome in outcomes)
                answered += len(outcomes)
        return (self._spent_ns() - began) / 1000 / batches / self.case.size

    def _receive(self, kind: type[Any]) -> Any:
        while True:
            for frame in self._reader.feed(self._channel.recv(1 << 18)):
                if isinstance(frame.message, kind):
                    return frame.message
                assert not isinstance(frame.message, wire.Failed), frame.message

    def _spent_ns(self) -> int:
        tasks = Path(f"/proc/{self._process}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks)


@contextmanager
def subject(tree: Path, case: Case, bundle: Path) -> Iterator[Subject]:
    own = tree / ".venv/bin/python"
    python = str(own) if own.exists() else sys.executable
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30)
        process = subprocess.Popen(
            [python, "-P", "-u", "-m", "clipper_runtime", "--channel", f"fd:{theirs.fileno()}"],
            pass_fds=[theirs.fileno()],
            cwd=bundle,
            env={"PYTHONPATH": f"{tree / 'runtimes'}:{tree / 'sdk'}"},
        )
        try:
            yield Subject(tree, case, bundle, ours, process.pid)
        finally:
            process.kill()
            process.wait()


def measure(
    trees: Sequence[Path] = (ROOT,), *, show: Callable[[str], None] = print, rounds: int = ROUNDS, only: str = ""
) -> dict[str, list[float]]:
    """For each case the microseconds per invocation of each tree."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "app.py").write_text(CODE)
        for case in CASES:
            if not case.name.startswith(only):
                continue
            with ExitStack() as stack:
                subjects = [stack.enter_context(subject(tree, case, Path(directory))) for tree in trees]
                for one in subjects:
                    one.run(WARM_UP)
                times = [[one.run(BATCHES) for one in subjects] for _ in range(rounds)]
            medians = [statistics.median(column) for column in zip(*times, strict=True)]
            found[case.name] = medians
            change = f"   {medians[-1] / medians[0] - 1:+.1%}" if len(medians) > 1 else ""
            show(f"{case.name:28}" + "".join(f"{median:8.2f} µs" for median in medians) + change)
    return found


if __name__ == "__main__":
    measure([Path(name).resolve() for name in sys.argv[1:]] or [ROOT])
