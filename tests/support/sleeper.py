"""Processes that wait, for tests that find and end processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["sleeper", "unique"]


@contextmanager
def sleeper(**environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with that environment, which has begun to run."""
    code = "print('up', flush=True); import time; time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], env=environ, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def unique() -> str:
    """An instance id that no other process has."""
    return os.urandom(8).hex()
