"""Where replicas have their temporary directories."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

__all__ = ["TemporaryRoot", "remove_tmp", "sweep_roots"]

MAX_ROOT_CHARACTERS = 48
"""The path of a Unix socket has at most 107 bytes. `multiprocessing` takes 32 of them below TMPDIR
(`/pymp-xxxxxxxx/listener-xxxxxxxx`), and a replica's directory up to 27 below this one."""

_OUTSIDE = re.compile(r"clip-[0-9a-f]{10}\Z")


class TemporaryRoot:
    """`<home>/tmp`, or a directory of the system's temporary one where that path is too long. The user's alone."""

    def __init__(self, home: Path) -> None:
        inside = home / "tmp"
        self.path = inside if len(os.fsencode(inside)) <= MAX_ROOT_CHARACTERS else _outside(home)
        self._inside = self.path == inside
        self._lock = -1

    def open(self) -> None:
        """Raises OSError, also where another user has made a directory of its name."""
        sweep_roots()
        while True:
            self.path.mkdir(mode=0o700, parents=self._inside, exist_ok=True)
            found = self.path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise PermissionError(f"{self.path} belongs to another user: replicas' files must not be put there")
            self.path.chmod(0o700)
            # systemd-tmpfiles removes what is old in the system's temporary directory, but not below a locked one.
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            if _is_at(self.path, self._lock):
                return
            os.close(self._lock)  # another platform swept it before it was locked

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if not self._inside:
            try:
                self.path.rmdir()
            except OSError:
                pass  # another platform's, or a directory that could not be removed yet


def sweep_roots() -> list[Path]:
    """Remove what killed platforms of this user left in the system's temporary directory: roots that no platform holds
    locked. Returns them. Never raises OSError."""
    removed = []
    for path in _system().glob("clip-*"):
        if not _OUTSIDE.match(path.name):
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # another user's, or gone
        try:
            if os.fstat(descriptor).st_uid != os.geteuid():
                continue
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
        except OSError:
            continue  # a platform has it
        finally:
            os.close(descriptor)
    return removed


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False


def remove_tmp(directory: Path) -> None:
    """Remove a replica's or a zygote's directory, and the area that it lies in when nothing else does."""
    shutil.rmtree(directory, ignore_errors=True)
    if "-" not in directory.name:  # not one of `tmp_prefix`, so it lies in an area
        try:
            directory.parent.rmdir()
        except OSError:
            pass  # siblings have theirs there


def _outside(home: Path) -> Path:
    return _system() / f"clip-{hashlib.sha256(os.fsencode(home.absolute())).hexdigest()[:10]}"


def _system() -> Path:
    system = tempfile.gettempdir()
    return Path(system if len(system) <= MAX_ROOT_CHARACTERS - 16 else "/tmp")
