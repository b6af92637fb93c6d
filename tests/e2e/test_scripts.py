"""infra/scripts/demo, as a stranger runs it: it answers, and it leaves nothing behind, also when it is interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT
from tests.support.platform import eventually, processes_of

pytestmark = pytest.mark.timeout(300)


def start_demo(scratch: Path, *args: str) -> subprocess.Popen[str]:
    scratch.mkdir()
    environment = {
        **os.environ,
        "CLIP_VENV": sys.prefix,
        "TMPDIR": str(scratch),
        "HOME": str(scratch / "nobody"),
        # uv's downloads are the one thing worth keeping between runs.
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path("~/.cache/uv").expanduser())),
    }
    return subprocess.Popen(
        ["bash", str(ROOT / "infra" / "scripts" / "demo"), *args],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def assert_clean(scratch: Path) -> None:
    eventually(lambda: not processes_of(scratch), within_s=10, what="all processes of the demo are gone")
    assert not list(scratch.glob("clip-demo.*"))
    assert not (scratch / "nobody" / ".clip").exists()


def test_the_demo_reads_the_digit_and_cleans_up(tmp_path: Path) -> None:
    demo = start_demo(tmp_path / "scratch", "7")
    try:
        out, _ = demo.communicate(timeout=240)
    finally:
        demo.kill()
    assert demo.returncode == 0, out
    answer = re.search(r"^answer +(.*)$", out, re.MULTILINE)
    assert answer, out
    assert json.loads(answer[1])["digit"] == 7
    assert re.search(r"^version +1$", out, re.MULTILINE), out
    assert re.search(
        r"^curl +curl .*samples/7\.png http://127\.0\.0\.1:\d+/fn/digits/classify_image$", out, re.MULTILINE
    )
    assert "██" in out
    assert "\x1b" not in out
    assert_clean(tmp_path / "scratch")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    demo = start_demo(tmp_path / "scratch", "3")
    try:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("deploying"):
                break
        time.sleep(1.0)
        # As a terminal does on Ctrl-C: to everything in the foreground group.
        os.killpg(demo.pid, number)
        demo.stdout.read()
        assert demo.wait(30) == 128 + number
    finally:
        demo.kill()
        demo.wait()
        if demo.stdout is not None:
            demo.stdout.close()
    assert_clean(tmp_path / "scratch")
