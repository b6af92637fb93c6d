"""A real `redis-server` for tests: on a Unix socket of its own directory, gone with the test session.

Each xdist worker is a process with its own session, so a session fixture around `RedisServer.start` gives each its own
server. Nothing is skipped where the binary is missing: the store would go untested.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["RedisServer", "free_port", "running_redis"]

START_TIMEOUT_S = 15.0


class RedisServer:
    """One server, which may be stopped and started again at the same place.

    `durable` keeps every write in an append-only file, so that a restart finds it. `port` adds a loopback TCP port.
    """

    def __init__(self, directory: Path, *, durable: bool = False, port: int = 0, password: str = "") -> None:
        self.directory = directory
        self.socket = directory / "redis.sock"
        self.port = port
        self.password = password
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> Self:
        """Start it and wait until it answers."""
        binary = shutil.which("redis-server")
        if binary is None:
            raise RuntimeError("redis-server is not installed: run infra/scripts/test, which provides it")
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket), "--save", ""]
        options += ["--dir", str(self.directory), "--appendonly", "yes" if self._durable else "no"]
        options += ["--appendfsync", "always", "--databases", "16", "--daemonize", "no"]
        if self.password:
            options += ["--requirepass", self.password]
        with (self.directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([binary, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._wait_until_it_answers()
        return self

    def _wait_until_it_answers(self) -> None:
        give_up = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < give_up:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                answer = self.command("PING")
            except OSError:
                answer = b""
            if answer.startswith((b"+PONG", b"-NOAUTH")):
                return
            time.sleep(0.01)
        log = (self.directory / "redis.log").read_text(errors="replace")
        self.kill()
        raise RuntimeError(f"redis-server did not start within {START_TIMEOUT_S:g} s:\n{log}")

    def command(self, *words: str) -> bytes:
        """Send one command outside the code under test; the raw start of the reply."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.socket))
            if self.password and words != ("PING",):
                connection.sendall(_encoded("AUTH", self.password))
                connection.recv(1024)
            connection.sendall(_encoded(*words))
            return connection.recv(65_536)

    def freeze(self) -> None:
        """It keeps its connections and answers nothing, like a machine that hangs."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; a server that is not running is fine."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(timeout=10)
        self.socket.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()


def _encoded(*words: str) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


@contextmanager
def running_redis(*, durable: bool = False, tcp: bool = False, password: str = "") -> Iterator[RedisServer]:
    """A server of one's own, in a directory of its own that goes with it."""
    # Not pytest's tmp_path: its length may exceed what a Unix socket's address holds (107 bytes).
    with tempfile.TemporaryDirectory(prefix="clip-redis-") as directory:
        port = free_port() if tcp else 0
        with RedisServer(Path(directory), durable=durable, port=port, password=password) as server:
            yield server


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
