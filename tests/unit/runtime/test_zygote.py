"""What a zygote checks and learns, without a platform."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipper.contract.constants import MAX_MESSAGE_BYTES, REPORT_VARIABLE
from clipper.contract.spec import EnvironmentSpec, FunctionSpec, SpecError
from clipper_platform.backends.process.pressure import memory_pressed, memory_total
from clipper_platform.backends.process.warm import fits
from clipper_platform.environments.venv import VenvBuilder
from clipper_platform.errors import InvalidSpec
from clipper_platform.settings import Settings
from clipper_runtime import modules
from tests.support.replicas import launch_on, launch_spec


def talk(first: dict[str, Any], *, path: Path | None = None) -> dict[str, Any]:
    """A zygote's answer to its first request; it ends with the connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "clipper_runtime.zygote", "--control", f"fd:{theirs.fileno()}"],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": str(path)} if path else None,
            )
        ours.settimeout(60)
        ours.send(json.dumps(first).encode())
        answer: dict[str, Any] = json.loads(ours.recv(MAX_MESSAGE_BYTES))
    assert process.wait(20) == 0
    return answer


def test_a_zygote_imports_what_it_is_told_and_says_what_it_cannot() -> None:
    answer = talk({"do": "preload", "modules": ["colorsys", "no_such_module_anywhere"]})
    assert answer["did"] == "ready"
    assert {"colorsys", "clipper_runtime", "asyncio"} <= set(answer["modules"])
    assert answer["skipped"] == {
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
    answer = talk({"do": "preload", "modules": ["colorsys", "culprit", "fractions"]}, path=tmp_path)
    assert answer["did"] == "refused"
    assert answer["module"] == "culprit"
    assert words in answer["why"]


def test_a_setup_that_fails_is_refused_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("class F:\n    def __init__(self):\n        raise ValueError('no weights')\n")
    answer = talk({"do": "prepare", "bundle": str(tmp_path), "spec": {"name": "f", "entrypoint": "app:F"}})
    assert answer["did"] == "refused"
    assert "__call__" in answer["why"]
    (tmp_path / "app.py").write_text(
        "class F:\n    def __init__(self):\n        raise ValueError('no weights')\n    def __call__(self): ...\n"
    )
    answer = talk({"do": "prepare", "bundle": str(tmp_path), "spec": {"name": "f", "entrypoint": "app:F"}})
    assert "no weights" in answer["why"]


def test_a_process_as_it_was_can_be_forked_and_an_open_file_is_named(tmp_path: Path) -> None:
    code = """
import os, sys
from clipper_runtime.fork_safety import open_descriptors, unforkable
before = open_descriptors()
first = unforkable(before)
file = open(sys.argv[1], "w")
print(repr(first), unforkable(before))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "weights"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("'' it left the file ")
    assert "weights" in done.stdout


def test_only_modules_that_another_process_can_import_by_name_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_the_bundle.py").write_text("import colorsys\n")
    report = tmp_path / "report.json"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(REPORT_VARIABLE, str(report))
    __import__("of_the_bundle")
    modules.report_modules(str(tmp_path))
    names = json.loads(report.read_text())
    assert {"colorsys", "pytest"} <= set(names)
    assert not {"of_the_bundle", "clipper_runtime", "clipper", "os.path", "__main__"} & set(names)
    assert REPORT_VARIABLE not in os.environ
    del sys.modules["of_the_bundle"]


def test_without_the_variable_nothing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REPORT_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    modules.report_modules(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("env", "files", "fit"),
    [
        ({}, ["app.py", "data.csv"], True),
        ({"API_KEY": "x"}, ["app.py"], True),
        ({}, ["numpy.py"], False),
        ({}, ["numpy.cpython-311-x86_64-linux-gnu.so"], False),
        ({"OMP_NUM_THREADS": "1"}, ["app.py"], False),
        ({"HF_TOKEN": "x"}, ["app.py"], False),
        ({"HOME": "/elsewhere"}, ["app.py"], False),
        ({"HOME": "/root"}, ["app.py"], True),
    ],
)
def test_a_replica_is_forked_only_if_it_equals_a_fresh_one(
    tmp_path: Path, env: dict[str, str], files: list[str], fit: bool
) -> None:
    launch = launch_on(launch_spec(tmp_path, env=env))
    for name in files:
        (launch.bundle / name).touch()
    assert fits(launch, frozenset({"numpy", "json"}), {"HOME": "/root", "CLIP_REPLICA": "..."}) is fit


@pytest.mark.parametrize(
    ("available", "avg10", "pressed"), [(500, "0.00", False), (50, "0.00", True), (500, "25.00", True)]
)
def test_memory_is_short_by_what_is_available_or_by_stalls(available: int, avg10: str, pressed: bool) -> None:
    meminfo = f"MemTotal:     1000 kB\nMemFree: 1 kB\nMemAvailable:  {available} kB\nHugePages_Total: 0\n"
    stalls = f"some avg10={avg10} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    assert memory_pressed(meminfo, stalls) is pressed
    assert memory_total(meminfo) == 1000 * 1024
    assert memory_pressed("", "") is False


def test_the_size_of_a_pool_travels_in_the_manifest_and_changes_nothing_that_is_installed(tmp_path: Path) -> None:
    builder = VenvBuilder(tmp_path)
    asked = EnvironmentSpec.parse({"requirements": ["numpy"], "warm_pool_size": 2})
    assert asked.warm_pool_size == 2
    assert EnvironmentSpec.parse(asked.to_dict()) == asked
    without = EnvironmentSpec.parse({"requirements": ["numpy"]})
    assert "warm_pool_size" not in without.to_dict()
    assert builder.identify(asked) == builder.identify(without)


@pytest.mark.parametrize("size", [-1, 17, True, "2", 1.0])
def test_the_size_of_a_pool_is_bounded(size: object) -> None:
    with pytest.raises(SpecError, match="warm_pool_size"):
        EnvironmentSpec.parse({"warm_pool_size": size})


def test_the_platform_sets_the_size_for_environments_that_do_not_say(tmp_path: Path) -> None:
    assert Settings.load(environ={"CLIP_HOME": str(tmp_path)}).warm_pool_size == 0
    assert Settings.load(environ={"CLIP_HOME": str(tmp_path), "CLIP_WARM_POOL_SIZE": "2"}).warm_pool_size == 2
    with pytest.raises(InvalidSpec, match="warm_pool_size"):
        Settings.load(environ={"CLIP_HOME": str(tmp_path), "CLIP_WARM_POOL_SIZE": "17"})


def test_a_snapshot_is_asked_for_by_true() -> None:
    assert FunctionSpec.parse("f", "app:F", {}).snapshot is False
    spec = FunctionSpec.parse("f", "app:F", {"snapshot": True})
    assert FunctionSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(SpecError, match="snapshot = 1 is not allowed: it must be true or false"):
        FunctionSpec.parse("f", "app:F", {"snapshot": 1})
