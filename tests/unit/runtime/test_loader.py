"""Bundles: how their functions are found and classified, and how a bundle without one is refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from clipper.contract.spec import FunctionSpec
from clipper_runtime.loader import Loaded, LoadError, Phases, load, set_up

Load = Callable[..., Loaded]


@pytest.fixture
def load_code(tmp_path: Path) -> Iterator[Load]:
    """Load `entry` of a bundle whose app.py is `code`; the process is as before afterwards."""
    path, modules, directory = list(sys.path), set(sys.modules), Path.cwd()

    def run(code: str, entry: str = "app:f", **options: Any) -> Loaded:
        module = entry.partition(":")[0].replace(".", "/")
        file = tmp_path / f"{module}.py"
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(code)
        return load(str(tmp_path), FunctionSpec.parse("f", entry, options), Phases())

    yield run
    os.chdir(directory)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def failure(load_code: Load, *arguments: str, **options: Any) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load_code(*arguments, **options)
    return caught.value


@pytest.mark.parametrize(
    ("code", "kind", "streaming"),
    [
        ("def f(x): ...", "sync", False),
        ("async def f(x): ...", "async", False),
        ("def f(x): yield 1", "sync", True),
        ("async def f(x): yield 1", "async", True),
        ("class f:\n  def __call__(self, x): ...", "sync", False),
        ("class f:\n  async def __call__(self, x): ...", "async", False),
        ("class f:\n  async def __call__(self, x): yield 1", "async", True),
        ("class Base:\n  async def __call__(self, x): ...\nclass f(Base): ...", "async", False),
        ("class f:\n  @staticmethod\n  def __call__(x): yield 1", "sync", True),
        ("from typing import Iterator\ndef f(x) -> Iterator[int]: return iter([x])", "sync", True),
        ("import functools\nasync def g(x, y): ...\nf = functools.partial(g, y=1)", "async", False),
        ("class G:\n  async def __call__(self, x): ...\nf = G()", "async", False),
        ("import clipper\n@clipper.function(name='other')\nasync def f(x): ...", "async", False),
        ("import clipper\n@clipper.function()\nclass f:\n  def __call__(self, x): ...", "sync", False),
    ],
)
def test_each_kind_of_function_is_recognised(load_code: Load, code: str, kind: str, streaming: bool) -> None:
    loaded = load_code(code)
    assert (loaded.kind, loaded.streaming) == (kind, streaming)
    assert "x" in loaded.schema["parameters"]["properties"]


def test_a_class_is_instantiated_once_and_its_close_is_found(load_code: Load) -> None:
    code = """
class f:
    def __init__(self): self.n = 5
    def __call__(self, x: int) -> int: return x + self.n
    def close(self): return "closed"
"""
    loaded = load_code(code)
    program = set_up(loaded)
    assert program.call(1) == 6
    assert program.close is not None
    assert program.close() == "closed"


def test_keyword_only_parameters_are_passed_by_name(load_code: Load) -> None:
    program = set_up(load_code("def f(a, /, b, *, c, d=4): return [a, b, c, d]"))
    assert program.call(1, 2, 3, 4) == [1, 2, 3, 4]


def test_the_docstrings_first_paragraph_describes_the_function(load_code: Load) -> None:
    loaded = load_code('class f:\n  """Adds up.\n\n  Slowly."""\n  def __call__(self, x): ...')
    assert loaded.schema["parameters"]["description"] == "Adds up."


def test_the_bundle_is_the_working_directory_and_importable(load_code: Load, tmp_path: Path) -> None:
    (tmp_path / "helper_of_bundle.py").write_text("from pathlib import Path\nWORD = Path('word.txt').read_text()")
    (tmp_path / "word.txt").write_text("hello")
    loaded = load_code("from helper_of_bundle import WORD\ndef f(): return WORD", "package.inner:f")
    assert set_up(loaded).call() == "hello"


def test_a_pickled_closure_is_loaded(tmp_path: Path, load_code: Load) -> None:
    factor = 3

    def triple(x: int) -> int:
        return factor * x

    (tmp_path / "__closure__.pkl").write_bytes(cloudpickle.dumps(triple))
    loaded = load_code("", "__closure__:triple")
    assert set_up(loaded).call(2) == 6
    assert loaded.schema["parameters"]["properties"]["x"]["type"] == "integer"


@pytest.mark.parametrize(
    ("code", "phase", "error_type", "part"),
    [
        ("import not_there_at_all", "import", "ModuleNotFoundError", "not_there_at_all"),
        ("1/0", "import", "ZeroDivisionError", "division by zero"),
        ("def f(", "import", "SyntaxError", "never closed"),
        ("import sys; sys.exit(3)", "import", "SystemExit", "3"),
        ("def ff(): ...", "load", "LoadError", "did you mean 'ff'?"),
        ("f = 3", "load", "TypeError", "must be a function or a class"),
        ("class f: ...", "load", "TypeError", "no __call__"),
        ("def f(*args): ...", "schema", "SchemaError", "*args"),
        ("def f(x: 'Nowhere'): ...", "schema", "SchemaError", "Nowhere"),
    ],
)
def test_a_function_that_cannot_be_loaded_says_where_and_why(
    load_code: Load, code: str, phase: str, error_type: str, part: str
) -> None:
    error = failure(load_code, code)
    assert (error.phase, error.error_type) == (phase, error_type)
    assert part in error.message


def test_a_generator_cannot_be_batched(load_code: Load) -> None:
    error = failure(load_code, "def f(x: list[int]):\n  yield 1", max_batch_size=4)
    assert (error.phase, "generator" in error.message) == ("schema", True)


def test_a_missing_module_is_distinguished_from_a_missing_import_inside_it(load_code: Load, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("")
    with pytest.raises(LoadError) as caught:
        load(str(tmp_path), FunctionSpec.parse("f", "mian:f", {}), Phases())
    assert "no module 'mian'; did you mean 'main'?" in caught.value.message


def test_an_entry_module_named_like_one_that_python_loaded_is_refused(load_code: Load) -> None:
    error = failure(load_code, "def f(): ...", "threading:f")
    assert (error.phase, "rename it" in error.message) == ("import", True)


def test_a_bundle_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as caught:
        load(str(tmp_path / "nowhere"), FunctionSpec.parse("f", "app:f", {}), Phases())
    assert caught.value.error_type == "FileNotFoundError"


def test_each_phase_is_timed(load_code: Load, tmp_path: Path) -> None:
    (tmp_path / "timed.py").write_text("def f(): ...")
    phases = Phases()
    load_code("def f(): ...")
    load(str(tmp_path), FunctionSpec.parse("f", "timed:f", {}), phases)
    assert phases.seconds.keys() == {"import", "load"}
    assert all(seconds > 0 for seconds in phases.seconds.values())
