"""A replica that speaks the wire protocol and obeys commands: FAKE_MODE at its start, its payloads later.

Run as a script in the place of `python -m clipper_runtime`, with the staged packages on PYTHONPATH.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time

from clipper.contract import wire
from clipper.contract.frames import Frame, FrameReader, split_body

MODE = os.environ.get("FAKE_MODE", "")
HELLO = wire.Hello(1, 1, "fake", "0", sys.version.split()[0], os.getpid())
READY = wire.Ready({"type": "object"}, True, False, 4, {"import": 0.0, "load": 0.0, "setup": 0.0})


def main() -> None:
    if MODE == "exit-first":
        print("no such module: frobnicator", file=sys.stderr)
        sys.exit(3)
    descriptor = int(sys.argv[sys.argv.index("--channel") + 1].removeprefix("fd:"))
    channel = socket.socket(fileno=descriptor)
    if MODE == "mute":
        time.sleep(600)
    if MODE == "garbage-first":
        channel.sendall(b"HTTP/1.1 200 OK\r\n\r\n" * 3)
        time.sleep(600)
    if MODE == "close-first":
        channel.close()
        time.sleep(600)
    hello = HELLO if MODE != "future" else wire.Hello(7, 9, "fake", "0", "3.99", os.getpid())
    channel.sendall(wire.encode(wire.Ready({}, True, False, 0, {}) if MODE == "ready-first" else hello))
    serve(channel)


def serve(channel: socket.socket) -> None:
    reader = FrameReader()
    while data := channel.recv(1 << 18):
        for frame in reader.feed(data):
            answer(channel, frame)


def answer(channel: socket.socket, frame: Frame) -> None:
    message = frame.message
    if isinstance(message, wire.Start):
        start(channel, message)
    elif isinstance(message, wire.Invoke):
        payloads = split_body(frame.body, [item.length for item in message.items])
        bodies = [obey(channel, bytes(payload)) for payload in payloads]
        outcomes = [
            wire.Outcome(item.id, 0, item.content_type, len(body))
            for item, body in zip(message.items, bodies, strict=True)
        ]
        head = wire.encode(wire.Result(message.batch, outcomes), sum(map(len, bodies)))
        channel.sendall(b"".join((head, *bodies)))
    elif isinstance(message, wire.Ping):
        channel.sendall(wire.encode(wire.Pong(message.nonce, 0, 0.0)))
    elif isinstance(message, wire.Drain) and MODE != "ignore-drain":
        print("closed")
        sys.exit(0)


def start(channel: socket.socket, message: wire.Start) -> None:
    print(f"starting {message.project}/{message.function}@{message.version} in {os.getcwd()}")
    if MODE == "hang-in-setup":
        hang_in_setup()
    if MODE == "crash-in-setup":
        crash()
    if MODE == "fail":
        print("Traceback (most recent call last):", file=sys.stderr)
        failed = wire.Failed("import", "ModuleNotFoundError", "No module named 'frobnicator'", "Traceback …")
        channel.sendall(wire.encode(failed))
        sys.exit(1)
    records = [wire.LogRecord(1.5, "log", "WARNING", "r-1", "by frame", "app")]
    channel.sendall(wire.encode(wire.Log(records)) + wire.encode(READY))


def hang_in_setup() -> None:
    time.sleep(600)


def crash() -> None:
    ctypes.string_at(0)


def obey(channel: socket.socket, payload: bytes) -> bytes:
    """What the payload says, in words; any other is echoed."""
    command, _, argument = payload.partition(b":")
    if command == b"exit":
        os._exit(int(argument))
    elif command == b"crash":
        crash()
    elif command == b"signal":
        os.kill(os.getpid(), int(argument))
    elif command == b"hang":
        time.sleep(600)
    elif command == b"hang-up":
        channel.close()
        time.sleep(600)
    elif command == b"garbage":
        channel.sendall(b"\xff" * 64)
    elif command == b"short":
        channel.sendall(wire.encode(wire.Result(1, [wire.Outcome(1, 0, "", 9)]), 3) + b"abc")
    elif command == b"print":
        print(argument.decode(), flush=True)
    elif command == b"flood":
        line = b"y" * 99 + b"\n"
        for _ in range(int(argument) // 100_000):
            os.write(1, line * 1_000)
        os.write(2, b"the last words\n")
    elif command == b"environ":
        return "\n".join(f"{key}={value}" for key, value in sorted(os.environ.items())).encode()
    elif command == b"limits":
        import resource

        return repr((resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CORE))).encode()
    elif command == b"allocate":
        try:
            return str(len(bytearray(int(argument)))).encode()
        except MemoryError:
            return b"MemoryError"
    elif command == b"spawn":
        return spawn(argument == b"session")
    return payload


def spawn(own_session: bool) -> bytes:
    """A grandchild that ignores what it can, in our process group or a session of its own; its pid."""
    code = (
        "import signal, time\n"
        "for s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\n"
        "print(1, flush=True)\n"
        "time.sleep(600)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, start_new_session=own_session, close_fds=False
    )
    child.stdout.readline()  # type: ignore[union-attr]  # it is piped
    return str(child.pid).encode()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
