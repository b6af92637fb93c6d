"""The runtime as it is launched: a process, a socket pair, a bundle."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import numpy as np
import pytest

from clipper.contract import wire
from clipper.contract.wire import Status
from tests.support.frames import frame_of
from tests.support.runtime_process import RuntimeProcess, gone

Launch = Callable[..., RuntimeProcess]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Launch]:
    """Launch a runtime whose bundle has `code` as app.py; nothing is sent to it yet."""
    processes: list[RuntimeProcess] = []

    def run(code: str = "", **options: Any) -> RuntimeProcess:
        (tmp_path / "app.py").write_text(code)
        processes.append(RuntimeProcess(tmp_path, **options))
        return processes[-1]

    yield run
    for process in processes:
        process.end()


@pytest.fixture
def serve(spawn: Launch) -> Launch:
    """Launch and wait until it is ready."""

    def run(code: str, *, env: dict[str, str] | None = None, leader: bool = True, **options: Any) -> RuntimeProcess:
        process = spawn(code, env=env, leader=leader)
        process.start(**options)
        process.ready = process.receive(wire.Ready)
        return process

    return run


# Start


def test_hello_names_the_runtime_and_its_versions(spawn: Launch) -> None:
    hello = spawn().receive(wire.Hello)
    assert (hello.protocol_min, hello.protocol_max, hello.runtime) == (1, 1, "clipper-python")
    assert hello.token == "token"
    assert hello.python == ".".join(map(str, sys.version_info[:3]))


def test_a_replica_that_is_not_started_yet_answers_pings(spawn: Launch) -> None:
    process = spawn()
    process.receive(wire.Hello)
    process.send(wire.Ping(9))
    assert process.receive(wire.Pong) == wire.Pong(9, 0, 0.0)


def test_ready_describes_the_function(serve: Launch) -> None:
    process = serve(
        "import clipper\n@clipper.function(max_batch_size=8)\ndef f(x: list[int]) -> list[str]: return ['a'] * len(x)",
        max_batch_size=8,
    )
    ready = process.ready
    assert (ready.batched, ready.streaming, ready.concurrency) == (True, False, 1)
    assert ready.schema["parameters"]["properties"] == {"x": {"type": "integer"}}
    assert ready.schema["returns"] == {"type": "string"}
    assert ready.phases.keys() == {"import", "load", "setup"}


@pytest.mark.parametrize(
    ("code", "options", "expected"),
    [
        ("def f(): ...", {}, (False, 1)),
        ("def f(): ...", {"max_ongoing_requests": 3}, (False, 3)),
        ("async def f(): ...", {}, (False, 32)),
        ("async def f(): ...", {"max_ongoing_requests": 5}, (False, 5)),
        ("def f(): yield 1", {}, (True, 1)),
        ("async def f(): yield 1", {}, (True, 32)),
    ],
)
def test_ready_gives_the_concurrency(
    serve: Launch, code: str, options: dict[str, int], expected: tuple[bool, int]
) -> None:
    ready = serve(code, **options).ready
    assert (ready.streaming, ready.concurrency) == expected


@pytest.mark.parametrize(
    ("code", "phase", "error_type"),
    [
        ("import no_such_module_anywhere", "import", "ModuleNotFoundError"),
        ("def g(): ...", "load", "LoadError"),
        ("def f(*a): ...", "schema", "SchemaError"),
        (
            "class f:\n  def __init__(self): print('trying'); raise OSError('no weights')\n  def __call__(self): ...",
            "setup",
            "OSError",
        ),
        ("class f:\n  def __init__(self): raise SystemExit(9)\n  async def __call__(self): ...", "setup", "SystemExit"),
    ],
)
def test_a_failed_start_says_why_and_exits_with_status_1(spawn: Launch, code: str, phase: str, error_type: str) -> None:
    process = spawn(code)
    process.start()
    failed = process.receive(wire.Failed)
    assert (failed.phase, failed.error_type) == (phase, error_type)
    assert "clipper_runtime" not in failed.traceback
    assert ("app.py" in failed.traceback) == (phase in ("import", "setup"))
    assert process.wait() == 1
    if error_type == "OSError":
        assert "trying" in [record.message for record in process.logs]


def test_a_protocol_version_that_it_does_not_speak_is_refused(spawn: Launch) -> None:
    process = spawn("def f(): ...")
    process.receive(wire.Hello)
    process.send(wire.Start(99, "p", "f", 1, "r", str(process.bundle), {}))
    assert process.receive(wire.Failed).phase == "handshake"
    assert process.wait() == 1


def test_output_and_pings_come_while_setup_hangs(spawn: Launch) -> None:
    process = spawn(
        "import time\nclass f:\n  def __call__(self): ...\n"
        "  def __init__(self):\n    print('loading')\n    time.sleep(600)"
    )
    process.start()
    assert process.wait_log("loading").stream == "stdout"
    process.send(wire.Ping(1))
    assert process.receive(wire.Pong).nonce == 1
    process.socket.close()
    assert process.wait() == -signal.SIGKILL


def test_user_modules_named_like_the_standard_library_break_nothing(spawn: Launch, tmp_path: Path) -> None:
    for name in ("queue", "types", "logging", "socket", "asyncio", "concurrent", "numbers", "dataclasses"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('shadowed')")
    process = spawn("async def f(x: int) -> int: return x")
    process.start()
    process.receive(wire.Ready)
    assert process.values({"x": 4}) == [4]


def test_a_pickled_closure_is_served(spawn: Launch, tmp_path: Path) -> None:
    offset = np.array([1.0, 2.0])

    def add(x):
        return (np.array(x) + offset).tolist()

    add.__annotations__ = {"x": list[float]}  # as in a notebook, where hints are types and not text
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        (tmp_path / "__closure__.pkl").write_bytes(cloudpickle.dumps(add))
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    process = spawn()
    process.start("__closure__:add")
    process.receive(wire.Ready)
    assert process.values({"x": [1, 1]}) == [[2.0, 3.0]]


def test_unix_and_tcp_channels_work_like_the_inherited_one(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def f(x: int) -> int: return x")
    for listener, address in _listeners(tmp_path):
        with listener:
            process = RuntimeProcess(tmp_path, channel=address)
            try:
                listener.settimeout(30)
                process.socket.close()
                process.socket, _ = listener.accept()
                process.socket.settimeout(30)
                process.start()
                process.receive(wire.Ready)
                assert process.values({"x": 1}) == [1]
            finally:
                process.end()


def _listeners(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "s"))
    unix.listen()
    yield unix, f"unix:{tmp_path / 's'}"
    tcp = socket.create_server(("127.0.0.1", 0))
    yield tcp, f"tcp:127.0.0.1:{tcp.getsockname()[1]}"


# Batches


BATCHED = """
import sys, clipper

@clipper.function(max_batch_size=64)
class f:
    def __init__(self):
        self.sizes = []
    def __call__(self, x: list[int]) -> list[int]:
        self.sizes.append(len(x))
        if 13 in x: raise ValueError("unlucky")
        if 66 in x: sys.exit(66)
        return [KeyError("seven") if n == 7 else n * 10 for n in x]
"""


def test_a_batch_with_all_kinds_of_trouble_answers_each_item(serve: Launch) -> None:
    process = serve(BATCHED, max_batch_size=64)
    good = {"x": 1}
    ok, unlucky, exits, returned, wrong, malformed, deep, also_ok = process.values(
        good, {"x": 13}, {"x": 66}, {"x": 7}, {"x": "a"}, b"{", b'{"x":' + b"[" * 100_000, {"x": 5}
    )
    assert (ok, also_ok) == (10, 50)
    assert (unlucky.error_type, unlucky.message) == ("ValueError", "unlucky")
    assert (exits.error_type, returned.error_type) == ("SystemExit", "KeyError")
    assert (wrong.status, malformed.status) == (Status.INVALID, Status.MALFORMED)
    assert deep.status in (Status.INVALID, Status.MALFORMED)
    assert process.values(good) == [10]
    assert {r.request_id for r in process.logs if "unlucky" in r.message} == {"req-1"}


def test_reruns_are_counted_and_fail_mode_does_none(serve: Launch) -> None:
    process = serve(BATCHED, max_batch_size=64)
    process.invoke(*[{"x": n + 10} for n in range(8)])
    assert 1 <= process.receive(wire.Result).reruns <= 6
    process.end()
    failing = serve(BATCHED, max_batch_size=64, on_batch_error="fail")
    failing.invoke(*[{"x": n + 10} for n in range(8)])
    result = failing.receive(wire.Result)
    assert result.reruns == 0
    assert {o.error_type for o in result.outcomes} == {"ValueError"}


def test_several_batches_may_be_sent_before_the_first_is_answered(serve: Launch) -> None:
    process = serve(BATCHED, max_batch_size=64)
    for batch in range(20):
        process.invoke(*[{"x": 1}] * 32, batch=batch)
    assert [process.receive(wire.Result).batch for _ in range(20)] == list(range(20))


def test_a_large_batch_comes_back_in_frames_within_the_limit(serve: Launch) -> None:
    process = serve(
        "def f(x: list[int]) -> list[str]: return ['a' * n for n in x]", max_batch_size=1000, max_frame_bytes=1 << 20
    )
    sizes = [200_000] * 8 + [1 << 20] + [1] * 600
    ids = process.invoke(*[{"x": n} for n in sizes])
    found = process.results(len(ids))
    for n, size in zip(ids, sizes, strict=True):
        assert (found[n][0].status == Status.TOO_LARGE) == (size == 1 << 20)
        assert len(found[n][1]) == (0 if size == 1 << 20 else size + 2)


def test_arrays_and_bytes_travel_without_text(serve: Launch) -> None:
    process = serve("import numpy as np\ndef f(x: np.ndarray) -> np.ndarray:\n  x *= 2\n  return x")
    array = np.arange(3_000_000, dtype=np.float64).reshape(1000, 3000)
    file = io.BytesIO()
    np.save(file, array)
    (n,) = process.invoke(file.getvalue(), content_type="application/x-npy", accept="application/x-npy")
    outcome, body = process.results(1)[n]
    assert outcome.content_type == "application/x-npy"
    assert np.array_equal(np.load(io.BytesIO(body)), array * 2)
    packed = msgspec.msgpack.encode({"x": msgspec.msgpack.Ext(1, file.getvalue())})
    (n,) = process.invoke(packed, content_type="application/msgpack", accept="application/msgpack")
    extension = msgspec.msgpack.decode(process.results(1)[n][1])
    assert extension.code == 1
    assert np.array_equal(np.load(io.BytesIO(bytes(extension.data))), array * 2)


# Single calls


def test_items_of_a_plain_function_are_isolated_and_run_in_order(serve: Launch) -> None:
    process = serve("def f(x: int) -> float:\n  print('call', x)\n  return 1 / x")
    one, zero, two = process.values({"x": 1}, {"x": 0}, {"x": 2})
    assert (one, zero.error_type, two) == (1.0, "ZeroDivisionError", 0.5)
    calls = [(r.message, r.request_id) for r in process.logs if r.message.startswith("call")]
    assert calls == [("call 1", "req-0"), ("call 0", "req-1"), ("call 2", "req-2")]


def test_finished_items_do_not_wait_for_slow_ones_of_their_frame(serve: Launch) -> None:
    process = serve("import time\ndef f(s: float) -> float:\n  time.sleep(s)\n  return s")
    process.invoke({"s": 0.01}, {"s": 0.01}, {"s": 1.0})
    first = process.receive(wire.Result)
    assert 2 not in [o.id for o in first.outcomes]


def test_print_stderr_and_logging_carry_the_request(serve: Launch) -> None:
    process = serve(
        """
import logging, sys, os, subprocess
log = logging.getLogger("model")
def f(n: int) -> int:
    print("printed", n)
    print("complained", n, file=sys.stderr)
    log.warning("warned %d", n)
    log.debug("whispered %d", n)
    print("unfinished", n, end="")
    os.write(1, b"from C code\\n")
    subprocess.run(["/bin/echo", "from a child"], stdout=sys.stdout, check=True)
    return n
"""
    )
    assert process.values({"n": 1}) == [1]
    found = [(r.stream, r.level, r.logger, r.message, r.request_id) for r in process.logs]
    assert found == [
        ("stdout", "INFO", "", "printed 1", "req-0"),
        ("stderr", "INFO", "", "complained 1", "req-0"),
        ("log", "WARNING", "model", "warned 1", "req-0"),
        ("stdout", "INFO", "", "unfinished 1", "req-0"),
    ]
    process.send(wire.Drain(5.0))
    assert process.wait() == 0
    assert process.output() == "from C code\nfrom a child\n"


def test_output_of_a_long_call_comes_while_it_runs(serve: Launch) -> None:
    process = serve("import time\ndef f():\n  print('begun')\n  time.sleep(600)")
    process.invoke({})
    assert process.wait_log("begun").request_id == "req-0"


def test_output_of_a_background_thread_of_an_idle_replica_is_sent(serve: Launch) -> None:
    process = serve(
        """
import threading, time
def later():
    time.sleep(1.8)
    print("from the background")
def f() -> None:
    threading.Thread(target=later, daemon=True).start()
"""
    )
    process.values({})
    assert process.wait_log("from the background").request_id == ""


def test_too_much_output_is_dropped_and_counted(serve: Launch) -> None:
    process = serve("def f():\n  for n in range(100_000): print(n)")
    process.invoke({})
    lines = dropped = 0
    while True:
        frame = process.next_frame()
        if not isinstance(frame.message, wire.Log):
            break
        lines += len(frame.message.records)
        dropped += frame.message.dropped
    assert isinstance(frame.message, wire.Result)
    assert (lines + dropped, dropped > 0) == (100_000, True)


# While user code runs


def test_pings_are_answered_during_a_long_call(serve: Launch) -> None:
    process = serve("import time\ndef f(): time.sleep(600)")
    process.invoke({})
    time.sleep(0.2)
    began = time.monotonic()
    process.send(wire.Ping(5))
    pong = process.receive(wire.Pong)
    assert (pong.nonce, pong.in_flight) == (5, 1)
    assert 0.1 < pong.busy_s < 30
    assert time.monotonic() - began < 5


def test_pings_are_answered_during_a_call_that_never_leaves_the_interpreter(serve: Launch) -> None:
    process = serve("def f():\n  while True: pass")
    process.invoke({})
    process.send(wire.Ping(5))
    assert process.receive(wire.Pong).in_flight == 1


def test_pings_are_answered_while_async_code_blocks_its_loop(serve: Launch) -> None:
    process = serve("import time\nasync def f(s: float) -> float:\n  time.sleep(s)\n  return s")
    process.invoke({"s": 1.0})
    process.send(wire.Ping(5))
    assert process.receive(wire.Pong).in_flight == 1
    process.invoke({"s": 0.0})
    assert set(process.results(2)) == {0, 1}


def test_an_idle_replica_reports_itself_idle_and_uses_no_processor(serve: Launch) -> None:
    process = serve("def f() -> int: return 1")
    assert process.values({}) == [1]
    process.send(wire.Ping(1))
    assert process.receive(wire.Pong) == wire.Pong(1, 0, 0.0)
    time.sleep(1.5)  # until the watcher parks
    before = process.cpu_s()
    time.sleep(1.0)
    assert process.cpu_s() - before <= 0.01
    assert process.values({}) == [1]


def test_work_that_is_cancelled_before_its_turn_is_not_run(serve: Launch) -> None:
    process = serve("import time\ndef f(s: float) -> float:\n  print('ran', s)\n  time.sleep(s)\n  return s")
    slow, same_frame = process.invoke({"s": 0.5}, {"s": 0.25})
    (later,) = process.invoke({"s": 0.125})
    (kept,) = process.invoke({"s": 0.0})
    process.send(wire.Cancel([same_frame, later, 12345]))
    found = process.results(4)
    assert [found[n][0].status for n in (slow, same_frame, later, kept)] == [0, Status.CANCELLED, Status.CANCELLED, 0]
    assert [r.message for r in process.logs] == ["ran 0.5", "ran 0.0"]


def test_an_item_whose_time_is_over_before_its_turn_is_not_run(serve: Launch) -> None:
    process = serve("import time\ndef f(s: float) -> float:\n  time.sleep(s)\n  return s")
    process.invoke({"s": 0.4})
    (late,) = process.invoke({"s": 0.0}, timeout_s=0.1)
    assert process.results(2)[late][0].status == Status.CANCELLED


def test_max_ongoing_requests_runs_calls_side_by_side(serve: Launch) -> None:
    process = serve(
        "import threading\nbarrier = threading.Barrier(4)\n"
        "def f(n: int) -> int:\n  barrier.wait(20)\n  print('at', n)\n  return n",
        max_ongoing_requests=4,
    )
    assert process.values(*[{"n": n} for n in range(4)]) == [0, 1, 2, 3]
    assert {(r.message, r.request_id) for r in process.logs} == {(f"at {n}", f"req-{n}") for n in range(4)}
    process.send(wire.Drain(5.0))
    assert process.wait() == 0


# Async


ASYNC = """
import asyncio
from contextlib import asynccontextmanager

class f:
    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.running = 0
    async def __call__(self, s: float = 0.0, fail: bool = False) -> int:
        self.running += 1
        try:
            await asyncio.sleep(s)
            if fail: raise RuntimeError("asked to")
            assert self.loop is asyncio.get_running_loop()
            print("done", s)
            return self.running
        except asyncio.CancelledError:
            print("cancelled")
            raise
        finally:
            self.running -= 1
    async def close(self):
        await asyncio.sleep(0)
        print("closed")
"""


def test_async_calls_run_concurrently_and_each_has_its_own_outcome(serve: Launch) -> None:
    process = serve(ASYNC)
    values = process.values({"s": 0.2}, {"s": 0.2}, {"s": 0.2, "fail": True}, {"s": "x"})
    assert values[:2] == [3, 2]
    assert (values[2].error_type, values[3].status) == ("RuntimeError", Status.INVALID)
    assert {r.request_id for r in process.logs if r.message == "done 0.2"} == {"req-0", "req-1"}


def test_cancelling_an_async_call_interrupts_it(serve: Launch) -> None:
    process = serve(ASYNC.replace("        try:\n", '        print("begun")\n        try:\n', 1))
    (n,) = process.invoke({"s": 600.0})
    process.send(wire.Cancel([n]))  # before it began, or just after
    assert process.results(1)[n][0].status == Status.CANCELLED
    (n,) = process.invoke({"s": 600.0})
    process.wait_log("begun", f"req-{n}")
    process.send(wire.Cancel([n]))
    assert process.results(1)[n][0].status == Status.CANCELLED
    assert process.wait_log("cancelled", f"req-{n}")
    process.send(wire.Ping(1))
    assert process.receive(wire.Pong) == wire.Pong(1, 0, 0.0)


def test_async_calls_that_came_together_are_cancelled_one_by_one(serve: Launch) -> None:
    process = serve(ASYNC, max_ongoing_requests=4)
    first, second, third = process.invoke({"s": 600.0}, {"s": 600.0}, {"s": 0.5})
    process.send(wire.Cancel([first]))
    process.send(wire.Cancel([second]))
    outcomes = process.results(3)
    assert [outcomes[n][0].status for n in (first, second, third)] == [Status.CANCELLED, Status.CANCELLED, Status.OK]


def test_no_more_async_calls_run_at_once_than_allowed(serve: Launch) -> None:
    process = serve(ASYNC, max_ongoing_requests=2)
    assert max(process.values(*[{"s": 0.02}] * 10)) <= 2


def test_an_async_batch_runs_and_is_cancelled_only_as_a_whole(serve: Launch) -> None:
    process = serve(
        "import asyncio\nasync def f(x: list[float]) -> list[float]:\n  await asyncio.sleep(max(x))\n  return x",
        max_batch_size=8,
    )
    assert process.values({"x": 0.0}, {"x": 0.1}) == [0.0, 0.1]
    a, b = process.invoke({"x": 0.5}, {"x": 0.2})
    time.sleep(0.2)  # it runs by now
    process.send(wire.Cancel([a]))
    assert [o.status for o, _ in process.results(2).values()] == [Status.OK, Status.OK]
    a, b = process.invoke({"x": 600.0}, {"x": 600.0})
    process.send(wire.Cancel([a, b]))
    assert {o.status for o, _ in process.results(2).values()} == {Status.CANCELLED}


def test_draining_an_async_replica_finishes_what_runs_and_closes(serve: Launch) -> None:
    process = serve(ASYNC)
    process.invoke({"s": 0.3})
    process.send(wire.Drain(10.0))
    assert process.results(1)[0][0].status == Status.OK
    process.drain_logs()
    assert process.logs[-1].message == "closed"
    assert process.wait() == 0


# Streams


SYNC_STREAM = """
def f(n: int, fail_at: int = -1):
    try:
        for i in range(n):
            if i == fail_at: raise ValueError("broke")
            print("making", i)
            yield {"i": i}
    finally:
        print("cleaned up")
"""
ASYNC_STREAM = "import asyncio\n" + SYNC_STREAM.replace("def f", "async def f").replace(
    "yield", "await asyncio.sleep(0)\n            yield"
)
STREAMS = pytest.mark.parametrize("code", [SYNC_STREAM, ASYNC_STREAM], ids=["sync", "async"])


def chunks(process: RuntimeProcess, count: int) -> list[Any]:
    found = []
    for seq in range(count):
        frame = process.receive_frame(wire.Chunk)
        assert (frame.message.seq, frame.message.content_type) == (seq, "application/json")
        found.append(msgspec.json.decode(frame.body)["i"])
    return found


@STREAMS
def test_a_generator_streams_its_values_and_ends_with_a_result(serve: Launch, code: str) -> None:
    process = serve(code)
    process.invoke({"n": 16})
    assert chunks(process, 16) == list(range(16))
    result = process.receive(wire.Result)
    assert [(o.status, o.length) for o in result.outcomes] == [(0, 0)]
    assert process.wait_log("making 15").request_id == "req-0"


@STREAMS
def test_a_stream_without_credit_waits(serve: Launch, code: str) -> None:
    process = serve(code)
    (n,) = process.invoke({"n": 100})
    chunks(process, wire.INITIAL_CREDIT)
    process.send(wire.Ping(1))
    assert process.receive(wire.Pong).in_flight == 1
    time.sleep(0.1)
    process.send(wire.Ping(2))
    process.receive(wire.Pong)  # no chunk came in between
    assert max(int(r.message.split()[1]) for r in process.logs) <= wire.INITIAL_CREDIT
    process.send(wire.Credit(n, 100))
    for seq in range(wire.INITIAL_CREDIT, 100):
        assert process.receive(wire.Chunk).seq == seq
    assert process.receive(wire.Result).outcomes[0].status == Status.OK


@STREAMS
def test_cancelling_a_stream_closes_its_generator(serve: Launch, code: str) -> None:
    process = serve(code)
    (n,) = process.invoke({"n": 10_000})
    chunks(process, wire.INITIAL_CREDIT)
    process.send(wire.Cancel([n]))
    assert process.receive(wire.Result).outcomes[0].status == Status.CANCELLED
    process.wait_log("cleaned up")
    process.invoke({"n": 1})
    assert chunks(process, 1) == [0]


@STREAMS
def test_an_error_in_a_stream_follows_the_chunks_before_it(serve: Launch, code: str) -> None:
    process = serve(code)
    process.invoke({"n": 5, "fail_at": 2})
    assert chunks(process, 2) == [0, 1]
    assert process.receive(wire.Result).outcomes[0].error_type == "ValueError"
    (wrong,) = process.values({"n": "x"})
    assert wrong.status == Status.INVALID


def test_a_chunk_that_cannot_be_encoded_ends_the_stream(serve: Launch) -> None:
    process = serve("def f():\n  yield 1\n  yield float('nan')\n  yield 2")
    process.invoke({})
    process.receive(wire.Chunk)
    assert process.receive(wire.Result).outcomes[0].status == Status.UNENCODABLE


def test_async_streams_interleave(serve: Launch) -> None:
    process = serve(
        "import asyncio\nasync def f(n: int):\n  for i in range(n):\n    await asyncio.sleep(0.05)\n    yield i"
    )
    process.invoke({"n": 4}, {"n": 4})
    order = [process.receive(wire.Chunk).id for _ in range(8)]
    assert set(order[:4]) == {0, 1}


# The end


CLOSES = """
import atexit, time
atexit.register(lambda: print("at exit"))
class f:
    def __call__(self, s: float) -> float:
        time.sleep(s)
        return s
    def close(self):
        print("closed")
"""


@pytest.mark.parametrize("how", ["drain", "sigterm"])
def test_draining_finishes_what_was_sent_calls_close_and_exits_with_status_0(serve: Launch, how: str) -> None:
    process = serve(CLOSES)
    process.invoke({"s": 0.2}, {"s": 0.2})
    process.invoke({"s": 0.1})
    if how == "drain":
        process.send(wire.Drain(10.0))
    else:
        time.sleep(0.1)
        os.kill(process.process.pid, signal.SIGTERM)
    assert {o.status for o, _ in process.results(3).values()} == {Status.OK}
    process.drain_logs()
    assert [r.message for r in process.logs] == ["closed"]
    assert process.wait() == 0
    assert process.output() == "at exit\n"


@pytest.mark.parametrize("code", [CLOSES, ASYNC, SYNC_STREAM], ids=["inline", "async", "threads"])
def test_sigterm_drains_an_idle_replica_at_once(serve: Launch, code: str) -> None:
    process = serve(code)
    time.sleep(0.1)
    os.kill(process.process.pid, signal.SIGTERM)
    process.drain_logs()
    assert process.wait() == 0


def test_sigint_is_ignored(serve: Launch) -> None:
    process = serve(CLOSES)
    os.kill(process.process.pid, signal.SIGINT)
    assert process.values({"s": 0.0}) == [0.0]


def test_an_error_in_close_is_logged_and_the_exit_stays_orderly(serve: Launch) -> None:
    process = serve("class f:\n  def __call__(self): ...\n  def close(self): raise OSError('stuck')")
    process.send(wire.Drain(5.0))
    process.drain_logs()
    assert process.logs[-1].message == "OSError: stuck"
    assert process.wait() == 0


def test_a_thread_that_never_ends_does_not_keep_a_drained_replica(serve: Launch) -> None:
    process = serve("import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\ndef f(): ...")
    process.send(wire.Drain(5.0))
    assert process.wait() == 0


def test_a_segfault_is_seen_as_the_end_of_the_stream_and_leaves_a_stack(serve: Launch) -> None:
    process = serve("import ctypes\ndef f(): ctypes.string_at(0)")
    process.invoke({})
    with pytest.raises(EOFError):
        process.receive(wire.Result)
    assert process.wait() == -signal.SIGSEGV
    assert "app.py" in process.output()


BUSY = {
    "idle": ("def f(): ...", False),
    "sleeping": ("import time\ndef f(): time.sleep(600)", True),
    "spinning": ("def f():\n  while True: pass", True),
    "threads": ("import time\ndef f():\n  time.sleep(600)\n  yield 1", True),
    "async": ("import asyncio\nasync def f(): await asyncio.sleep(600)", True),
    "blocked loop": ("import time\nasync def f(): time.sleep(600)", True),
}


@pytest.mark.parametrize("state", BUSY)
@pytest.mark.parametrize("leader", [True, False])
def test_a_replica_ends_promptly_when_the_platform_goes_away(serve: Launch, state: str, leader: bool) -> None:
    code, busy = BUSY[state]
    process = serve(code, leader=leader)
    if busy:
        process.invoke({})
        time.sleep(0.1)
    began = time.monotonic()
    process.socket.close()
    assert process.wait() == (-signal.SIGKILL if leader else 3)
    assert time.monotonic() - began < 5


def test_its_children_end_with_it_when_the_platform_goes_away(serve: Launch) -> None:
    process = serve("import subprocess\ndef f() -> int: return subprocess.Popen(['/bin/sleep', '600']).pid")
    (child,) = process.values({})
    process.socket.close()
    process.wait()
    assert gone(child)


def test_a_forked_child_of_user_code_holds_no_end_of_the_channel(serve: Launch) -> None:
    process = serve(
        """
import os, time
def f() -> int:
    printed, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        print("in the child", flush=True)
        os.write(tell, b"!")
        time.sleep(600)
        os._exit(0)
    os.read(printed, 1)  # else the child may be killed before its turn came
    return pid
""",
        leader=True,
    )
    (child,) = process.values({})
    try:
        os.kill(process.process.pid, signal.SIGKILL)
        with pytest.raises(EOFError):
            process.next_frame()
    finally:
        os.kill(child, signal.SIGKILL)
    assert "in the child" in process.output()


def test_garbage_ends_the_replica_with_its_own_status(serve: Launch) -> None:
    for garbage in (b"\xff" * 64, frame_of(wire.Ready({}, False, False, 1, {}))):
        process = serve("def f(): ...")
        process.socket.sendall(garbage)
        assert process.wait() == 4
        assert "protocol" in process.output().lower()
        process.end()


def test_a_channel_that_cannot_be_reached_is_a_usage_error(tmp_path: Path) -> None:
    for channel in (f"unix:{tmp_path}/nobody", "carrier:pigeon", "fd:999"):
        process = RuntimeProcess(tmp_path, channel=channel)
        try:
            assert process.wait() == 2
            assert "cannot reach the platform" in process.output()
        finally:
            process.end()


def test_the_token_is_not_left_for_user_code(serve: Launch) -> None:
    process = serve("import os\ndef f() -> bool: return 'CLIP_CHANNEL_TOKEN' in os.environ")
    assert process.values({}) == [False]
