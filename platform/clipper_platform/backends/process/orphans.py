"""No process outlives its platform: the guardian ends its processes, a sweep at start ends those of earlier ones."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from clipper_platform.backends.process import guardian
from clipper_platform.backends.process.child import watch_exit
from clipper_platform.backends.process.procfs import boot_id, start_time

__all__ = ["Guardian", "InstanceRecord", "marker", "sweep_abandoned", "tmp_prefix"]

_logger = logging.getLogger(__name__)

# A guardian that is killed is started again; not faster than this, should it be killed at once each time.
RESTART_DELAY_S = 1.0
CLOSE_TIMEOUT_S = 5.0


def marker(instance_id: str) -> bytes:
    """The entry that every process of the instance has in its environment."""
    return f"{guardian.MARKER}={instance_id}".encode()


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """A run of a platform, as written under `<home>/run/` while it lasts. A pid with its start time is unique."""

    instance: str
    pid: int
    started: int
    boot: str

    @classmethod
    def of_this_process(cls, instance_id: str) -> InstanceRecord:
        return cls(instance_id, os.getpid(), start_time(os.getpid()) or 0, boot_id())

    def write(self, directory: Path) -> Path:
        """Write it atomically. Returns the file."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"instance-{self.instance}.json"
        draft = path.with_suffix(".draft")
        text = json.dumps({"instance": self.instance, "pid": self.pid, "started": self.started, "boot": self.boot})
        draft.write_text(text)
        os.replace(draft, path)
        return path

    @classmethod
    def read(cls, path: Path) -> InstanceRecord | None:
        try:
            data = json.loads(path.read_text())
            return cls(str(data["instance"]), int(data["pid"]), int(data["started"]), str(data["boot"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def alive(self) -> bool:
        return self.boot == boot_id() and start_time(self.pid) == self.started


def sweep_abandoned(directory: Path, tmp: Path) -> int:
    """Kill the processes of platforms that are recorded in `directory` and gone, and remove their replicas' directories
    from `tmp`. Returns how many processes were killed.

    Nothing of a platform that still runs is touched. Blocking; takes seconds at most.
    """
    killed = 0
    for path in sorted(directory.glob("instance-*.json")):
        record = InstanceRecord.read(path)
        if record is not None and record.alive:
            continue
        if record is not None and record.instance:
            killed += guardian.kill_marked(frozenset([marker(record.instance)]))
            for left in tmp.glob(f"{tmp_prefix(record.instance)}*"):
                shutil.rmtree(left, ignore_errors=True)
        path.unlink(missing_ok=True)
    return killed


def tmp_prefix(instance_id: str) -> str:
    """Prefix of an instance's temporary directories. Short, because the path of a socket has at most 108 bytes."""
    return f"{instance_id[:8]}-"


class Guardian:
    """Runs guardian.py for an instance from `start` to `close`."""

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id
        self._process: subprocess.Popen[bytes] | None = None
        self._exited: asyncio.Future[int] | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._closing = False

    @property
    def pid(self) -> int | None:
        """None between a death and the restart."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Raises OSError."""
        self._restart = None
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, "--instance", self._instance_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            bufsize=0,
            start_new_session=True,
        )
        self._process = process
        self._exited = watch_exit(process, kill_group=False)
        self._exited.add_done_callback(lambda future: self._ended(process, future))

    async def close(self) -> None:
        """Let it do its work and end. Call it when all replicas have ended."""
        self._closing = True
        if self._restart is not None:
            self._restart.cancel()
        if self._process is None or self._exited is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        await asyncio.wait([self._exited], timeout=CLOSE_TIMEOUT_S)
        if not self._exited.done():
            self._process.kill()
            await self._exited

    def _ended(self, process: subprocess.Popen[bytes], exited: asyncio.Future[int]) -> None:
        if process.stdin is not None:
            process.stdin.close()
        if self._closing or exited.cancelled():
            return
        self._process = self._exited = None
        _logger.warning("the guardian of the replicas ended with status %d and is started again", exited.result())
        self._restart = asyncio.get_running_loop().call_later(RESTART_DELAY_S, self._start_again)

    def _start_again(self) -> None:
        try:
            self.start()
        except OSError:
            _logger.exception("the guardian of the replicas cannot be started; trying again")
            self._restart = asyncio.get_running_loop().call_later(RESTART_DELAY_S, self._start_again)
