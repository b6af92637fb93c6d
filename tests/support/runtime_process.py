"""A real `python -m clipper_runtime` over a socket pair, with a bundle in a temporary directory."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from clipper.contract import wire
from clipper.contract.frames import Frame, FrameReader, split_body
from clipper.contract.spec import FunctionSpec
from tests.support.frames import frame_of

ROOT = Path(__file__).parents[2]
T = TypeVar("T")

DEADLINE_S = 30.0  # for anything that is awaited: generous, since it is only spent on failure


class RuntimeProcess:
    """The platform's side of one replica. Every wait is bounded; `end` kills the process by its id."""

    def __init__(
        self, bundle: Path, *, leader: bool = True, env: dict[str, str] | None = None, channel: str = ""
    ) -> None:
        self.bundle = bundle
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-u", "-m", "clipper_runtime", "--channel", channel or f"fd:{theirs.fileno()}"],
                pass_fds=[theirs.fileno()],
                cwd=bundle,
                env={"PYTHONPATH": f"{ROOT / 'runtimes'}:{ROOT / 'sdk'}", "CLIP_CHANNEL_TOKEN": "token", **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=leader,
            )
        self.socket = ours
        self.socket.settimeout(DEADLINE_S)
        self.ready: wire.Ready  # set by the caller that waits for it
        self.hello: wire.Hello
        self.logs: list[wire.LogRecord] = []
        self._reader = FrameReader()
        self._frames: list[Frame] = []
        self._ids = 0

    def start(self, entrypoint: str = "app:f", *, max_frame_bytes: int = wire.MAX_FRAME_BYTES, **options: Any) -> None:
        """Receive Hello and send Start."""
        self.hello = self.receive(wire.Hello)
        spec = FunctionSpec.parse("f", entrypoint, options).to_dict()
        self.send(wire.Start(1, "p", "f", 1, "replica-1", str(self.bundle), spec, max_frame_bytes))

    def send(self, message: Any, payloads: Sequence[bytes] = ()) -> None:
        self.socket.sendall(frame_of(message, payloads))

    def invoke(
        self,
        *values: Any,
        batch: int = 1,
        content_type: str = "application/json",
        accept: str = "*/*",
        timeout_s: float = 0.0,
    ) -> list[int]:
        """Send a batch; a value that is not bytes becomes JSON. The items' ids; their request ids are `req-ID`."""
        bodies = [v if isinstance(v, bytes) else json.dumps(v).encode() for v in values]
        ids = list(range(self._ids, self._ids + len(bodies)))
        self._ids += len(bodies)
        items = [
            wire.Item(n, f"req-{n}", content_type, accept, timeout_s, len(body))
            for n, body in zip(ids, bodies, strict=True)
        ]
        self.send(wire.Invoke(batch, items), bodies)
        return ids

    def next_frame(self) -> Frame:
        """Raises EOFError at the end of the stream, TimeoutError when nothing comes."""
        while not self._frames:
            try:
                data = self.socket.recv(1 << 18)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    def receive_frame(self, kind: type[Any]) -> Frame:
        """The next frame, which must be of this kind; log lines before it are kept in `logs`."""
        while True:
            frame = self.next_frame()
            if isinstance(frame.message, wire.Log):
                self.logs += frame.message.records
                if kind is wire.Log:
                    return frame
            elif isinstance(frame.message, kind):
                return frame
            else:
                raise AssertionError(f"expected {kind.__name__}, got {frame}")

    def receive(self, kind: type[T]) -> T:
        message: T = self.receive_frame(kind).message
        return message

    def results(self, count: int) -> dict[int, tuple[wire.Outcome, bytes]]:
        """Outcomes and payloads of `count` items, however many Results they come in."""
        found: dict[int, tuple[wire.Outcome, bytes]] = {}
        while len(found) < count:
            frame = self.receive_frame(wire.Result)
            outcomes = frame.message.outcomes
            parts = split_body(frame.body, [o.length for o in outcomes])
            for outcome, part in zip(outcomes, parts, strict=True):
                assert outcome.id not in found, f"item {outcome.id} was answered twice"
                found[outcome.id] = (outcome, bytes(part))
        return found

    def values(self, *values: Any, **options: Any) -> list[Any]:
        """Invoke and wait: the decoded value of each item, or its outcome if it did not go well."""
        ids = self.invoke(*values, **options)
        found = self.results(len(ids))
        return [json.loads(found[n][1]) if found[n][0].status == wire.Status.OK else found[n][0] for n in ids]

    def wait_log(self, text: str, request_id: str | None = None) -> wire.LogRecord:
        """The first log line that contains `text`, of that request if one is named, waiting for it."""
        while True:
            for record in self.logs:
                if text in record.message and request_id in (None, record.request_id):
                    return record
            self.receive(wire.Log)

    def drain_logs(self) -> None:
        """Read log lines until the stream ends."""
        try:
            while True:
                self.receive(wire.Log)
        except EOFError:
            return

    def wait(self) -> int:
        return self.process.wait(DEADLINE_S)

    def output(self) -> str:
        """What reached the descriptors, once the process has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.read().decode()

    def cpu_s(self) -> float:
        """Processor seconds used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def end(self) -> None:
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether the process ends in time; one that nobody has waited for yet counts as ended."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False
