"""Closures of a notebook: what they refer to arrives in a replica as it was, or the refusal names it."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from clipper import codec
from clipper.closures import closure_files
from clipper.contract.spec import SpecError

ELSEWHERE = """
import os, sys
sys.path.insert(0, os.getcwd())
import cloudpickle
from clipper.contract.spec import FunctionSpec
from clipper_runtime.loader import Phases, load, set_up
loaded = load(os.getcwd(), FunctionSpec.parse("f", "__closure__:f", {}), Phases())
program = set_up(loaded)
print(program.call(*program.codec.decode("application/json", sys.argv[1].encode())))
"""


def answer(source: str, arguments: str, tmp_path: Path, **modules: str) -> str:
    """What the `f` of a notebook answers in a replica; `modules` are files beside the notebook."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    for name, text in modules.items():
        file = here / (name.replace("__", "/") + ".py")
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(text)
    dump = (
        textwrap.dedent(source)
        + "\nfrom clipper.closures import closure_files as _files\nfrom pathlib import Path as _Path\n"
        + f"for _name, _data in _files(f).items():\n    _file = _Path({str(there)!r}, _name)\n"
        + "    _file.parent.mkdir(exist_ok=True, parents=True); _file.write_bytes(_data)\n"
    )
    (here / "notebook.py").write_text(dump)
    for command in ([sys.executable, "notebook.py"], [sys.executable, "-c", ELSEWHERE, arguments]):
        run = subprocess.run(
            command,
            cwd=here if "notebook.py" in command else there,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert run.returncode == 0, run.stderr
    return run.stdout.strip()


POINT = """
from dataclasses import dataclass, field, KW_ONLY
@dataclass
class Point:
    x: int
    y: int = 2
    _: KW_ONLY
    tags: list[str] = field(default_factory=list)
def f(p: Point) -> Point:
    return p
"""

POSTPONED = """
from __future__ import annotations
from dataclasses import dataclass
@dataclass
class Outer:
    inner: Inner | None = None
    child: Outer | None = None
@dataclass
class Inner:
    x: int
def f(o: Outer, times: int = 1) -> int:
    return o.child.inner.x * times
"""

STRUCT = """
import msgspec
class Node(msgspec.Struct, rename="camel", kw_only=True):
    node_value: int
    kids: list["Node"] = []
    def total(self):
        return self.node_value + sum(kid.total() for kid in self.kids) + Node.zero().node_value
    @classmethod
    def zero(cls):
        return cls(node_value=0)
def f(n: Node) -> int:
    return n.total()
"""

CACHED = """
import functools
@functools.lru_cache(maxsize=4)
def load(n):
    return 5 * n
def f(n: int) -> int:
    return n + load(n)
f(1)  # a local call
"""

ATTRS = """
import attrs
@attrs.define
class Box:
    x: int
    y: int = 2
def f(b: Box) -> int:
    return b.x + b.y
"""

INSTANCE = """
class Scale:
    def __init__(self, by):
        self.by = by
    def __call__(self, n: int) -> int:
        return n * self.by
f = Scale(3)
"""

PARTIAL = """
import functools
def repeat(text: str, times: int = 1) -> str:
    return text * times
f = functools.partial(repeat, times=2)
"""

LAZY = """
def f(n: int) -> int:
    import helper
    from package.inner import twice
    return twice(helper.add(n))
"""


@pytest.mark.parametrize(
    ("source", "arguments", "expected"),
    [
        (POINT, '{"p": {"x": 1}}', "Point(x=1, y=2, tags=[])"),
        (POSTPONED, '{"o": {"child": {"inner": {"x": 4}}}, "times": 2}', "8"),
        (STRUCT, '{"n": {"nodeValue": 1, "kids": [{"nodeValue": 5}]}}', "6"),
        (CACHED, '{"n": 2}', "12"),
        (ATTRS, '{"b": {"x": 1}}', "3"),
        (INSTANCE, '{"n": 2}', "6"),
        (PARTIAL, '{"text": "ab"}', "abab"),
    ],
)
def test_a_closure_of_a_notebook_answers_in_a_replica(
    source: str, arguments: str, expected: str, tmp_path: Path
) -> None:
    assert answer(source, arguments, tmp_path) == expected


def test_local_modules_that_are_imported_when_it_runs_travel_as_files(tmp_path: Path) -> None:
    modules = {
        "helper": "import other\ndef add(n): return n + other.ONE",
        "other": "ONE = 1",
        "package____init__": "",
        "package__inner": "from .outer import TWO\ndef twice(n): return TWO * n",
        "package__outer": "TWO = 2",
        "unused": "raise AssertionError",
    }
    assert answer(LAZY, '{"n": 2}', tmp_path, **modules) == "6"
    assert not (tmp_path / "there" / "unused.py").exists()


STATE: dict[str, Any] = {}


def test_what_a_local_call_left_in_a_global_is_named() -> None:
    import threading

    STATE["lock"] = threading.Lock()

    def f(n: int) -> int:
        return n + len(STATE)

    with pytest.raises(SpecError, match=r"'STATE' holds a builtins\.dict, perhaps since the code ran here"):
        closure_files(f)
    STATE.clear()
    assert list(closure_files(f)) == ["__closure__.pkl"]


def test_classes_whose_values_were_sent_from_here_are_deployed_again() -> None:
    @dataclass
    class Point:
        x: int

    class Colour(Enum):
        RED = "red"

    class Pair(NamedTuple):
        a: int

    class Node(msgspec.Struct):
        a: int

    def f(n, p, c, q): ...

    f.__annotations__ = {"n": Node, "p": Point, "c": Colour, "q": Pair}

    before = closure_files(f)
    for kind, value in ((Point, {"x": 1}), (Colour, "red"), (Pair, [1]), (Node, {"a": 1})):
        codec.encode({"a": codec.as_type(value, kind)})
    assert closure_files(f) == before


def test_the_same_closure_has_the_same_bytes_before_and_after_a_local_call() -> None:
    @functools.lru_cache
    def load(n: int) -> int:
        return n

    def f(n: int) -> int:
        import json

        return len(json.dumps(load(n)))

    before = closure_files(f)
    f(1)
    assert closure_files(f) == before
