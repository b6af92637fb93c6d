"""User code that takes over its replica's channel harms its own function alone.

The code finds the runtime's socket among its descriptors and writes what it likes. Beside it, a function of another
project is asked without a pause: each of its answers is right, and the platform's memory stays bounded.
"""

from __future__ import annotations

import asyncio

import psutil
import pytest

from tests.e2e.conftest import Deploy
from tests.support.load import Tally, assert_idle, drive
from tests.support.platform import PlatformProcess, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

HEALTHY = """
import clipper

@clipper.function(max_batch_size=16)
def add(numbers: list[list[int]]) -> list[int]:
    return [sum(n) for n in numbers]
"""

HOSTILE = """
import os, signal, socket, time
import clipper
from clipper.contract import wire

def channel():
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found = socket.socket(fileno=os.dup(int(name)))
                found.getpeername()
                found.setblocking(True)
                return found
        except OSError:
            pass

def write(data, seconds=2.0):
    sock, end = channel(), time.monotonic() + seconds
    sock.settimeout(1.0)
    while time.monotonic() < end:
        sock.sendall(data)

def frame(message, size=0):
    return wire.encode(message, size)

@clipper.function(max_retries=0, timeout_s=8, health_check_period_s=1, max_ongoing_requests=4)
def attack(how: str, body: str = "") -> str:
    if how == "garbage":
        write(b"\\xff" * 65536)
    elif how == "an http server":
        write(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
    elif how == "a frame of 4 GiB":
        write(b"\\xff\\xff\\xff\\xff" + bytes([6]) + b"\\x00\\x00\\x00\\x04")
    elif how == "the longest header, never complete":
        sock = channel()
        sock.sendall(wire.PREFIX.pack(wire.MAX_FRAME_BYTES, 6, wire.MAX_HEADER_BYTES) + bytes(1 << 20))
        time.sleep(3)
    elif how == "a frame of the largest size":
        sock = channel()
        sock.sendall(wire.PREFIX.pack(wire.MAX_FRAME_BYTES, 7, 10))
        for _ in range(100):
            sock.sendall(bytes(1 << 20))
    elif how == "a million outcomes":
        header = b"\\x93\\x01\\xdd" + (1 << 20).to_bytes(4, "big") + b"\\x92\\x00\\x00" * (1 << 20) + b"\\x00"
        write(wire.PREFIX.pack(5 + len(header), 6, len(header)) + header)
    elif how == "a schema of a million lists":
        lists = b"\\xdd" + (1 << 22).to_bytes(4, "big") + b"\\x90" * (1 << 22)
        header = b"\\x95\\x81\\xa1a" + lists + b"\\xc2\\xc2\\x01\\x80"
        write(wire.PREFIX.pack(5 + len(header), 3, len(header)) + header)
    elif how == "deep nesting":
        header = b"\\x95\\x81\\xa1a" + b"\\x91" * 100000
        write(wire.PREFIX.pack(5 + len(header), 3, len(header)) + header)
    elif how == "answers for foreign ids":
        head = wire.ResponseHead(200, (("set-cookie", "a=b"),))
        outcomes = [wire.Outcome(n, 0, "text/html", 2, response=head) for n in range(200)]
        frames = b"".join(frame(wire.Result(b, outcomes), 400) + b"!!" * 200 for b in range(50))
        write(frames)
    elif how == "chunks that nobody wants":
        write(b"".join(frame(wire.Chunk(n, n, "text/html"), 1000) + bytes(1000) for n in range(100)))
    elif how == "pongs":
        write(frame(wire.Pong(1, -5, float("inf"))) * 1000)
    elif how == "log lines":
        records = [wire.LogRecord(float("nan"), "x" * 50, "y" * 50, "z", "line " * 20) for _ in range(1000)]
        write(frame(wire.Log(records, 1 << 62, records)))
    elif how == "ready again":
        write(frame(wire.Ready({}, True, True, 1 << 40, {"setup": -1.0})))
    elif how == "hello again":
        write(frame(wire.Hello(1, 1, "x", "x", "x", 1)))
    elif how == "never reads":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "closes":
        channel().shutdown(socket.SHUT_RDWR)
        time.sleep(3)
    return "done"
"""

ATTACKS = (
    *("garbage", "an http server", "a frame of 4 GiB", "the longest header, never complete"),
    *("a frame of the largest size", "a million outcomes", "a schema of a million lists", "deep nesting"),
    *("answers for foreign ids", "chunks that nobody wants", "pongs", "log lines", "ready again", "hello again"),
    *("never reads", "closes"),
)
MEMORY_BYTES = 400 * 1024 * 1024  # of the platform at most, beside what it had: a few of the largest frames


@pytest.fixture(scope="module")
def projects(platform: PlatformProcess, deploy_once: Deploy) -> tuple[str, str]:
    return deploy_once(HEALTHY), deploy_once(HOSTILE)


@pytest.mark.parametrize("how", ATTACKS)
async def test_a_hostile_replica_harms_its_own_function_alone(
    platform: PlatformProcess, projects: tuple[str, str], how: str
) -> None:
    healthy, hostile = projects
    process = psutil.Process(platform.pid)
    before, peak = process.memory_info().rss, 0
    calm, over = Tally(), asyncio.Event()

    async def attack() -> None:
        body = "x" * (1 << 20 if how == "never reads" else 10)
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(asyncio.to_thread(platform.post, f"/fn/{hostile}/attack", {"how": how, "body": body}))
        over.set()

    async def watch() -> None:
        nonlocal peak
        while not over.is_set():
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.02)

    def right(n: int, reply: object) -> str:
        return "" if reply.status == 200 and reply.json() == 3 * n else "it must be the sum"  # type: ignore[attr-defined]

    def ask(n: int) -> tuple[str, object]:
        return f"{healthy}/add", {"numbers": [n, 2 * n]}

    def enough() -> bool:
        return over.is_set() and calm.answers >= 100

    async with asyncio.TaskGroup() as group:
        group.create_task(attack())
        group.create_task(watch())
        group.create_task(drive(platform.port, ask, right, until=enough, connections=8, tally=calm))
    calm.assert_right()
    assert calm.answers >= 100
    assert peak - before < MEMORY_BYTES
    assert_idle(platform, hostile)
    assert_idle(platform, healthy)
    assert eventually(
        lambda: platform.post(f"/fn/{hostile}/attack", {"how": ""}).status_code == 200, within_s=30, every_s=0.5
    )
