"""The command `clip`: in this process, as a process in a pipe, and on a terminal that a test reads and types into."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from clipper.cli.main import main

COMMAND = [sys.executable, "-m", "clipper.cli.main"]
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_])")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str = ""


def clip(*arguments: str, env: Mapping[str, str], stdin: str = "") -> Done:
    """Run in this process, without a terminal: quick, with the same code up to the exit code."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    typed = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
    with (
        mock.patch.dict(os.environ, environment(env), clear=True),
        mock.patch.object(sys, "stdin", typed),
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
    ):
        code = main(list(arguments))
    out, err = (stream.buffer.getvalue().decode() for stream in streams if isinstance(stream.buffer, io.BytesIO))
    return Done(code, out, err)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CLIP_", "NO_COLOR", "FORCE_COLOR"))}
    return kept | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"} | extra


def clip_process(
    *arguments: str, env: Mapping[str, str], cwd: Path | None = None, stdin: str = "", binary: bool = False
) -> Done:
    """Run as a process, without a terminal. `binary`: stdout is decoded as Latin-1, a character per byte."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=environment(env),
        cwd=cwd,
        input=stdin.encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode("latin-1" if binary else "utf-8"), done.stderr.decode())


class Terminal:
    """A running command and the terminal it writes to; stdout and stderr are one, as a person sees them."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self.raw = ""

    def wait_for(self, pattern: str, timeout_s: float = 30) -> str:
        """Read until `pattern` is on the screen. Raises AssertionError with the screen's text."""
        until = time.monotonic() + timeout_s
        while not re.search(pattern, self.text):
            if not self._read(until):
                raise AssertionError(f"{pattern!r} did not come; the terminal shows:\n{self.text}")
        return self.text

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def finish(self, timeout_s: float = 30) -> Done:
        """Read to the end and reap."""
        until = time.monotonic() + timeout_s
        while self._read(until):
            pass
        return Done(self.process.wait(max(0.1, until - time.monotonic())), self.text)

    @property
    def text(self) -> str:
        """What was written, without escape sequences."""
        return _ESCAPES.sub("", self.raw).replace("\r\n", "\n")

    def _read(self, until: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the other side is closed
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)


@contextmanager
def on_terminal(*arguments: str, env: Mapping[str, str], cwd: Path | None = None) -> Iterator[Terminal]:
    """The command on a terminal of its own; at the end a process that still runs is killed by its id."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(env),
        cwd=cwd,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        os.close(master)
