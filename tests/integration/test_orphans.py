"""Orphans that the platform adopts as process 1."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, time
from clipper_platform.process import sweep_orphans

ended = os.fork()
if not ended:
    os._exit(0)
read, write = os.pipe()
living = os.fork()
if not living:
    os.read(read, 1)
    os._exit(0)
while ended not in (seen := sweep_orphans(set())):
    time.sleep(0.01)
assert seen == {ended}
assert sweep_orphans(seen) == set()
try:
    os.waitpid(ended, os.WNOHANG)
except ChildProcessError:
    print("reaped")
os.write(write, b"x")
os.waitpid(living, 0)
"""


def test_an_ended_child_is_reaped_in_the_second_sweep_that_finds_it_and_a_living_one_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "reaped\n", "")
