"""Python processes that functions start: they have the same packages as the function, however it was started itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.platform import PlatformProcess, eventually, write_project
from tests.support.wheels import write_wheel

APP = '''
import importlib.metadata
import json
import multiprocessing
import os
import site
import subprocess
import sys
import sysconfig
from concurrent.futures import ProcessPoolExecutor

import clipper


def facts(_: object = None) -> dict[str, object]:
    """What a start of the interpreter with all that is installed gives."""
    import namespace.part

    return {
        "flag": sys.flags.no_site,
        "pth": "added_by_pth" in sys.modules,
        "sitecustomize": "set_by_sitecustomize" in sys.modules,
        "prefix": sys.prefix,
        "packages": site.getsitepackages(),
        "purelib": sysconfig.get_path("purelib"),
        "version": importlib.metadata.version("hooked"),
        "namespace": namespace.part.VALUE,
        "builtins": all(name in __builtins__ for name in ("quit", "exit", "help", "copyright")),
    }


def of_process(method: str) -> dict[str, object]:
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.map(facts, [1])[0]


def of_executor(method: str) -> dict[str, object]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        return pool.submit(facts).result()


def of_joblib(backend: str) -> dict[str, object]:
    import joblib

    return joblib.Parallel(2, backend=backend)(joblib.delayed(facts)(i) for i in range(2))[0]


def of_command(flags: str) -> dict[str, object]:
    code = f"import sys; sys.path.append({os.getcwd()!r}); import app, json; print(json.dumps(app.facts()))"
    done = subprocess.run([sys.executable, *flags.split(), "-c", code], check=True, capture_output=True)
    return json.loads(done.stdout)


@clipper.function()
def own(kind: str, how: str) -> object:
    return eval(kind)(how)


@clipper.function(snapshot=True)
def snapshot(kind: str, how: str) -> object:
    return eval(kind)(how)
'''
CHILDREN = [
    ("of_process", "spawn"), ("of_process", "forkserver"), ("of_process", "fork"), ("of_executor", "spawn"),
    ("of_joblib", "loky"), ("of_joblib", "multiprocessing"), ("of_command", ""), ("of_command", "-P"),
]  # fmt: skip
ENTRIES = ("children/own", "children/snapshot", "children-warm/own")


@pytest.fixture(scope="module")
def children(platform: PlatformProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    """Two projects; the replicas of the second come from a zygote."""
    files = {
        "hooked.py": "",
        "hooked.pth": "import sys; sys.modules['added_by_pth'] = sys\n",
        "sitecustomize.py": "import sys\nsys.modules['set_by_sitecustomize'] = sys\n",
        "namespace/part.py": "VALUE = 7\n",
    }
    for name, size in (("children", 0), ("children-warm", 1)):
        directory = tmp_path_factory.mktemp(name)
        write_wheel(directory / "wheels", "hooked", "1.0", files=files)
        text = f'name = "{name}"\n[environment]\nrequirements = "requirements.txt"\nwarm_pool_size = {size}\n'
        requirements = "--find-links wheels\nhooked\njoblib\n"
        platform.deploy(write_project(directory, APP, text, requirements__txt=requirements))
    yield platform
    for name in ("children", "children-warm"):
        platform.clip("delete", name, "--yes", check=False)


def ask(platform: PlatformProcess, entry: str, kind: str, how: str) -> Any:
    answer = platform.post(f"/fn/{entry}", {"kind": kind, "how": how}, timeout=60)
    assert answer.is_success, answer.text
    return answer.json()


@pytest.mark.parametrize("entry", ENTRIES)
def test_children_have_the_packages_of_the_function(children: PlatformProcess, entry: str) -> None:
    here = ask(children, entry, "facts", "")
    assert Path(here["prefix"]).parent == children.home / "environments"
    assert here["packages"] == [here["purelib"]]
    assert here["flag"] == 0
    assert here["pth"]
    assert here["sitecustomize"]
    assert here["namespace"] == 7
    for kind, how in CHILDREN:
        assert ask(children, entry, kind, how) == here, (kind, how)


def test_what_joblib_starts_beside_its_workers_finds_joblib_too(children: PlatformProcess) -> None:
    """Its tracker of shared memory is a child that nobody waits for: when it fails, its traceback is all there is."""
    for entry in ENTRIES:
        for _ in range(2):
            ask(children, entry, "of_joblib", "loky")
        ask(children, entry, "print", f"{entry} is done")
        log = eventually(lambda e=entry: (out := children.clip("logs", e).out) and f"{e} is done" in out and out)
        assert "No module named" not in log
