"""The zygote's process without a platform: what it becomes, and what it refuses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from clipper.contract import zygote as messages
from clipper.contract.zygote import Preload, Prepare, Ready, Refused


def answer_to(first: messages.Request, *, path: Path | None = None) -> messages.Event:
    """A zygote's answer to its first request; it ends with the connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "clipper_runtime", "--control", f"fd:{theirs.fileno()}"],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": str(path)} if path else None,
            )
        ours.settimeout(60)
        ours.send(messages.encode(first))
        answer = messages.decode_event(ours.recv(messages.MAX_MESSAGE_BYTES))
    assert process.wait(20) == 0
    return answer


def test_a_zygote_imports_the_modules_and_reports_those_that_it_cannot_import() -> None:
    answer = answer_to(Preload(["colorsys", "no_such_module_anywhere"]))
    assert isinstance(answer, Ready)
    assert {"colorsys", "clipper_runtime", "asyncio"} <= set(answer.modules)
    assert answer.skipped == {
        "no_such_module_anywhere": "ModuleNotFoundError: No module named 'no_such_module_anywhere'"
    }


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "1 threads"),
        ("import socket\nPAIR = socket.socketpair()", "must not share"),
    ],
)
def test_a_module_after_which_it_cannot_fork_is_named(tmp_path: Path, code: str, words: str) -> None:
    (tmp_path / "culprit.py").write_text(code)
    answer = answer_to(Preload(["colorsys", "culprit", "fractions"]), path=tmp_path)
    assert isinstance(answer, Refused)
    assert answer.module == "culprit"
    assert words in answer.why


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ("class F:\n    def __init__(self): ...\n", "__call__"),
        ("class F:\n    def __init__(self):\n        raise ValueError('no weights')\n    def __call__(self): ...\n",
         "no weights"),
    ],
)  # fmt: skip
def test_a_function_that_does_not_start_is_refused_with_its_error(tmp_path: Path, app: str, words: str) -> None:
    (tmp_path / "app.py").write_text(app)
    answer = answer_to(Prepare(str(tmp_path), {"name": "f", "entrypoint": "app:F"}))
    assert isinstance(answer, Refused)
    assert words in answer.why
    assert not answer.lasting


def test_a_request_that_must_not_come_first_is_refused() -> None:
    assert answer_to(messages.Retire()) == Refused("Retire is no first request", lasting=True)
