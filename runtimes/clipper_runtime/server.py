"""The life of a replica: send Hello, load the function, serve it, exit.

The main thread reads the channel whenever it waits for work, the watcher while user code keeps the main thread busy.
The reading thread handles the frames under the read lock, in the order they came.
"""

from __future__ import annotations

import gc
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Never

from clipper.contract.frames import Frame
from clipper.contract.spec import FunctionSpec
from clipper.contract.version import VERSION
from clipper.contract.wire import (
    PROTOCOL_VERSION,
    Cancel,
    Credit,
    Drain,
    Failed,
    Hello,
    Invoke,
    Ping,
    Pong,
    ProtocolError,
    Ready,
    Start,
    encode,
)
from clipper_runtime.channel import Channel, ChannelClosed
from clipper_runtime.core import ExecutionCore
from clipper_runtime.engines import Engine, InlineEngine, ThreadEngine
from clipper_runtime.loader import Loaded, LoadError, Phases, Program, bundle_off_path, load, set_up
from clipper_runtime.logs import LogBuffer, Output, clean_text, format_error, install
from clipper_runtime.modules import report_modules
from clipper_runtime.replies import Replies, max_payload_bytes
from clipper_runtime.watcher import TICK_S, Watcher
from clipper_runtime.work import Work

__all__ = ["EXIT_DEFECT", "EXIT_FAILED", "EXIT_LOST", "EXIT_PROTOCOL", "Prepared", "Replica", "await_start", "greet"]

EXIT_FAILED: Final = 1  # Failed was sent
EXIT_LOST: Final = 3  # the channel ended
EXIT_PROTOCOL: Final = 4  # the platform violated the protocol
EXIT_DEFECT: Final = 70

_DEFAULT_ASYNC_CONCURRENCY: Final = 32
_MAX_FAILURE_CHARACTERS: Final = 64 * 1024

# How long threads and exit handlers of user code may delay the exit of a drained replica.
_EXIT_GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plain function that was loaded and set up before this process was forked."""

    bundle: str
    spec: Mapping[str, Any]
    parsed: FunctionSpec  # of `spec`
    loaded: Loaded
    program: Program

    def fits(self, start: Start) -> bool:
        return self.bundle == start.bundle and self.spec == start.spec


def greet(channel: Channel, token: str) -> None:
    """Send Hello. Raises ChannelClosed."""
    hello = Hello(
        protocol_min=PROTOCOL_VERSION,
        protocol_max=PROTOCOL_VERSION,
        runtime="clipper-python",
        runtime_version=VERSION,
        python=platform.python_version(),
        pid=os.getpid(),
        token=token,
    )
    channel.send([encode(hello)])


def await_start(channel: Channel) -> tuple[Start, list[Frame]]:
    """Wait for Start. Returns it with the frames that came right behind it. Raises ChannelClosed, ProtocolError."""
    starts: list[Start] = []
    later: list[Frame] = []

    def handle(message: Any, body: memoryview) -> None:
        if starts:
            later.append(Frame(message, body))
        elif isinstance(message, Start):
            starts.append(message)
        elif isinstance(message, Ping):
            channel.send([encode(Pong(message.nonce, 0, 0.0))])
        else:
            raise ProtocolError(f"a {type(message).__name__} frame came where Start was expected")

    while not starts:
        channel.pump(handle)
    return starts[0], later


def abandon() -> Never:
    """End this process after the platform's end; where it leads a process group, end its children too."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(EXIT_LOST)


class Replica:
    """A process that serves one function. It is the `Lifeline` of its engine."""

    def __init__(self, channel: Channel, start: Start, prepared: Prepared | None = None) -> None:
        self._channel = channel
        self._start = start
        self._prepared = prepared if prepared is not None and prepared.fits(start) else None
        self.output: Output = install(LogBuffer())
        self._replies = Replies(channel, self.output, start.max_frame_bytes)
        self._engine: Engine | None = None
        self._early: list[Frame] = []  # came before the engine existed
        self._setting_up = True
        self.draining = False
        self.watcher = Watcher(
            channel,
            read=lambda: channel.pump(self.handle, wait=False, yielding=True),
            flush=self._flush,
            busy=self._busy,
            fatal=self.fatal,
        )
        self._handlers: dict[type, Callable[[Any], None]] = {
            Ping: self._on_ping,
            Cancel: lambda m: self._with_engine(lambda e: (e.withdraw if m.withdraw else e.cancel)(m.ids)),
            Credit: lambda m: self._with_engine(lambda e: e.credit(m.id, m.n)),
            Drain: lambda _: self.drain(),
        }

    def run(self, later: Sequence[Frame] = ()) -> int:
        """Load and serve the function until a drain. Returns the exit status."""
        self._channel.limit_frames(self._start.max_frame_bytes)
        self.output.logs.on_waiting = self.watcher.wake
        self.output.logs.on_urgent = self._replies.send_logs_now
        os.register_at_fork(after_in_child=self._forget)
        signal.signal(signal.SIGTERM, lambda *_: self._on_sigterm())
        if self._prepared is None:
            self.watcher.start()
        phases = Phases()
        try:
            with phases.measure("handshake"):
                spec = self._check_start()
            loaded, program, loop = self._set_up(spec, phases)
        except LoadError as error:
            return self._fail(error)
        del phases.seconds["handshake"]
        report_modules(self._start.bundle)
        self._serve(spec, loaded, program, loop, phases, later)
        return 0

    # Start

    def _check_start(self) -> FunctionSpec:
        if self._start.protocol != PROTOCOL_VERSION:
            raise ProtocolError(f"protocol {self._start.protocol} was chosen; this runtime speaks {PROTOCOL_VERSION}")
        if self._prepared is not None:
            return self._prepared.parsed
        return FunctionSpec.from_dict(self._start.spec, where="Start.spec")

    def _set_up(self, spec: FunctionSpec, phases: Phases) -> tuple[Loaded, Program, Any]:
        if self._prepared is not None:
            return self._prepared.loaded, self._prepared.program, None
        loaded = load(self._start.bundle, spec, phases)
        loop = self._make_loop(loaded)
        with phases.measure("setup"):
            program: Program = loop.call(lambda: set_up(loaded)) if loop else set_up(loaded)
        return loaded, program, loop

    def _make_loop(self, loaded: Loaded) -> Any:
        if loaded.kind != "async":
            return None
        with bundle_off_path(self._start.bundle):
            from clipper_runtime.aio import Loop
        return Loop()

    def _make_engine(self, spec: FunctionSpec, program: Program, loop: Any, concurrency: int) -> Engine:
        core = ExecutionCore(
            program,
            self.output.logs,
            bisect=spec.on_batch_error == "bisect",
            max_payload_bytes=max_payload_bytes(self._start.max_frame_bytes),
        )
        if loop is not None:
            from clipper_runtime.aio import AsyncEngine

            return AsyncEngine(core, self._replies, self, concurrency, loop=loop, descriptor=self._channel.fileno())
        if program.streaming or concurrency > 1:
            return ThreadEngine(core, self._replies, self, concurrency)
        return InlineEngine(core, self._replies, self, self._channel)

    def _fail(self, error: LoadError) -> int:
        self.watcher.stop()
        trace = format_error(error.cause) if error.cause is not None else ""
        self.output.end_lines()
        self._replies.flush_logs()
        self._replies.send(
            Failed(
                error.phase,
                clean_text(error.error_type, 256),
                clean_text(error.message, _MAX_FAILURE_CHARACTERS),
                clean_text(trace, _MAX_FAILURE_CHARACTERS),
            )
        )
        return EXIT_FAILED

    # Serve

    def _serve(
        self,
        spec: FunctionSpec,
        loaded: Loaded,
        program: Program,
        loop: Any,
        phases: Phases,
        later: Sequence[Frame],
    ) -> None:
        concurrency = spec.max_ongoing_requests or (_DEFAULT_ASYNC_CONCURRENCY if loop is not None else 1)
        self.output.end_lines()
        # Objects of import and setup live as long as the replica, so collections skip them. In a replica from a
        # snapshot they are frozen already.
        if self._prepared is None:
            gc.collect()
        gc.freeze()
        self._replies.flush_logs()
        self._replies.send(Ready(loaded.schema, loaded.batched, loaded.streaming, concurrency, phases.seconds))
        if self._prepared is not None:
            self.watcher.start()  # after Ready: a thread costs more than the rest of a start from a snapshot
        engine = self._make_engine(spec, program, loop, concurrency)
        self._channel.hold(lambda: self._adopt(engine, later))
        engine.serve()
        self.watcher.stop()
        self._close(program, loop)

    def _adopt(self, engine: Engine, later: Sequence[Frame]) -> None:
        # `handle` counts them again.
        self._replies.came -= sum(len(f.message.items) for f in self._early if type(f.message) is Invoke)
        early, self._early = [*later, *self._early], []
        self._engine = engine
        self._setting_up = False
        for frame in early:
            self.handle(frame.message, frame.body)

    def _close(self, program: Program, loop: Any) -> None:
        """Run the user's `close` and send its output; an exception there is logged."""
        try:
            if program.close is not None:
                if loop is not None:
                    loop.call(program.close)
                else:
                    program.close()
            if loop is not None:
                loop.close()
        except BaseException as error:  # noqa: BLE001 - user code; there is nothing left to fail
            self.output.logs.add("log", "ERROR", format_error(error), logger="clipper", request_id="")
        self.output.end_lines()
        try:
            self._replies.flush_logs()
        except ChannelClosed:
            pass  # the platform need not wait for the last log lines

    # Frames

    def pump(self, *, wait: bool = True) -> None:
        try:
            self._channel.pump(self.handle, wait=wait)
        except ChannelClosed:
            abandon()

    def handle(self, message: Any, body: memoryview) -> None:
        """Handle one frame, under the read lock. Raises ProtocolError for a message that only a replica may send."""
        engine = self._engine
        if type(message) is Invoke and engine is not None:
            work = Work(message, body, time.monotonic())
            self._replies.came += len(work.items)  # under the read lock, as all of this is
            engine.invoke(work)
            if self.watcher.parked:
                self.watcher.wake()
            return
        if type(message) is Invoke or (self._engine is None and isinstance(message, (Cancel, Credit))):
            self._early.append(Frame(message, body))
            self._replies.came += len(message.items) if type(message) is Invoke else 0
            return
        handler = self._handlers.get(type(message))
        if handler is None:
            raise ProtocolError(f"a {type(message).__name__} frame is not for a replica that was started")
        handler(message)

    def _with_engine(self, action: Callable[[Engine], None]) -> None:
        if self._engine is not None:
            action(self._engine)

    def _on_ping(self, ping: Ping) -> None:
        since = self._engine.busy_since if self._engine is not None else 0.0
        busy_s = time.monotonic() - since if since else 0.0
        self._replies.send(Pong(ping.nonce, self._replies.in_flight, busy_s))

    def drain(self) -> None:
        """Answer the items that came, then exit. Any thread or a signal handler may call it."""
        self.draining = True
        # The main thread may wait in a read, and nothing more comes that would end it.
        self._channel.set_read_timeout(TICK_S)
        self._with_engine(lambda engine: engine.drain())

    def _flush(self) -> None:
        self._replies.flush_logs()
        if isinstance(self._engine, InlineEngine):
            self._engine.flush()

    # The process

    def _busy(self) -> bool:
        return self._setting_up or self._replies.in_flight > 0 or self.output.logs.waiting

    def _on_sigterm(self) -> None:
        if self._setting_up:
            os._exit(128 + signal.SIGTERM)
        self.drain()

    def _forget(self) -> None:
        """In a child that user code forked: print to the descriptors and close the channel."""
        self.output.remove()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._channel.forget()

    def fatal(self, error: BaseException) -> None:
        """End the process: the channel ended, the platform violated the protocol, or the runtime has a defect."""
        if isinstance(error, ChannelClosed):
            abandon()
        self._replies.send_logs_now()
        traceback.print_exception(error, file=sys.__stderr__)
        if sys.__stderr__ is not None:
            sys.__stderr__.flush()
        os._exit(EXIT_PROTOCOL if isinstance(error, ProtocolError) else EXIT_DEFECT)


def leave(status: int, output: Output | None = None) -> Never:
    """Exit as Python does, with exit handlers; after a time limit without waiting for user code's threads."""
    timer = threading.Timer(_EXIT_GRACE_S, os._exit, (status,))
    timer.daemon = True
    timer.start()
    if output is not None:
        output.remove()
    sys.exit(status)
