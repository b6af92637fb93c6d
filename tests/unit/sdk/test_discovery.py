from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.contract.spec import SpecError
from clipper.discovery import SourceModule, read_module


def read(directory: Path, source: str, module: str = "app") -> SourceModule:
    (directory / f"{module}.py").write_text(source, encoding="utf-8")
    return read_module(directory, module, where="test")


def options(directory: Path, arguments: str, before: str = "") -> dict[str, Any]:
    source = f"import clipper\n{before}\n@clipper.function({arguments})\ndef f(): ...\n"
    (found,) = read(directory, source).functions
    return dict(found.options)


@pytest.mark.parametrize(
    ("imports", "decorator"),
    [
        ("import clipper", "@clipper.function()"),
        ("import clipper", "@clipper.function"),
        ("import clipper as c", "@c.function()"),
        ("from clipper import function", "@function()"),
        ("from clipper import function as f", "@f"),
        ("from clipper.function import function", "@function"),
        ("import clipper.errors", "@clipper.function()"),
        ("try:\n    import clipper\nexcept ImportError:\n    raise", "@clipper.function()"),
    ],
)
@pytest.mark.parametrize("code", ["def go(): ...", "async def go(): ...", "class go: ...", "def go():\n    yield 1"])
def test_a_decorated_function_is_found_however_it_is_imported(
    tmp_path: Path, imports: str, decorator: str, code: str
) -> None:
    module = read(tmp_path, f"{imports}\n\n{decorator}\n{code}\n")
    (found,) = module.functions
    assert (found.name, found.entrypoint) == ("go", "app:go")
    assert found.where == f"decorator (app.py:{imports.count(chr(10)) + 3})"


@pytest.mark.parametrize(
    ("statement", "target", "name"),
    [
        ("twice = clipper.function(name='double', timeout_s=7)(partial(repeat, times=2))", "twice", "double"),
        ("twice: object = clipper.function(repeat, name='twice', timeout_s=7)", "twice", "twice"),
        ("repeat = clipper.function(timeout_s=7)(repeat)", "repeat", "repeat"),
        ("predict = clipper.function(timeout_s=7)(model.predict)", "predict", "predict"),
    ],
)
def test_code_that_is_decorated_by_a_call_is_found(tmp_path: Path, statement: str, target: str, name: str) -> None:
    (found,) = read(tmp_path, f"import clipper\n{statement}\n").functions
    assert (found.target, found.name, found.options) == (target, name, {"timeout_s": 7})


@pytest.mark.parametrize("code", ["lambda x: x", "other", "partial(f, 1)", "model.predict"])
def test_code_that_is_decorated_by_a_call_needs_a_name_unless_it_has_that_of_its_variable(
    tmp_path: Path, code: str
) -> None:
    with pytest.raises(SpecError, match=r"write its name, as in clipper\.function\(name='f'\)"):
        read(tmp_path, f"import clipper\nf = clipper.function()({code})\n")


@pytest.mark.parametrize(
    "source",
    [
        "import clipper\nmine = clipper.function",
        "import clipper\nmine = clipper.function(timeout_s=5)",
        "import clipper\nx = clipper.other()(f)",
        "import clipper\nx = clipper.function()(f)(1)",
        "import clipper\ndef f(): ...",
        "import other\n@other.function()\ndef f(): ...",
        "from clipper import deploy as function2\n@function2\ndef f(): ...",
        "from .clipper import function\n@function\ndef f(): ...",
        "import clipper\ndef outer():\n    @clipper.function()\n    def f(): ...",
        "import clipper\n@clipper.other()\ndef f(): ...",
    ],
)
def test_what_is_not_ours_is_left_alone(tmp_path: Path, source: str) -> None:
    assert read(tmp_path, source).functions == ()


def test_the_code_is_not_run_and_need_not_be_importable(tmp_path: Path) -> None:
    source = "import torch_that_is_not_here\nimport clipper\nraise SystemExit\n@clipper.function()\ndef f(): ...\n"
    assert len(read(tmp_path, source).functions) == 1


def test_functions_inside_branches_of_the_module_are_found(tmp_path: Path) -> None:
    source = (
        "import clipper\nif True:\n    @clipper.function()\n    def a(): ...\n"
        "else:\n    @clipper.function()\n    def b(): ...\n"
        "try:\n    pass\nexcept ValueError:\n    @clipper.function()\n    def c(): ...\n"
        "with open('x') as y:\n    @clipper.function()\n    def d(): ...\n"
    )
    assert [found.name for found in read(tmp_path, source).functions] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("timeout_s=60 * 60", 3600),
        ("memory_bytes=1 << 30", 1 << 30),
        ("memory_bytes=2 ** 30 + 1", 2**30 + 1),
        ("latency_slo_s=50 / 1000", 0.05),
        ("cache_ttl_s=+7", 7),
        ("max_retries=7 // 2 % 2", 1),
        ("public=True", True),
        ("cache_ttl_s=None", None),
        ("batch_policy='static'", "static"),
        ("default_output={'label': ['a', -1, None], 'n': 1.5}", {"label": ["a", -1, None], "n": 1.5}),
        ("autoscaling={'max_replicas': 2 * 2}", {"max_replicas": 4}),
        ("default_output=('a', 'b')", ["a", "b"]),
    ],
)
def test_literals_and_arithmetic_are_read(tmp_path: Path, written: str, value: Any) -> None:
    assert list(options(tmp_path, written).values()) == [value]


def test_constants_of_the_module_are_read(tmp_path: Path) -> None:
    before = "HOUR = 60 * 60\nDAY: int = 24 * HOUR\nA = B = 5\nLIMITS = {'max_replicas': A}\n"
    found = options(tmp_path, "cache_ttl_s=DAY, max_retries=B, autoscaling=LIMITS", before)
    assert found == {"cache_ttl_s": 86400, "max_retries": 5, "autoscaling": {"max_replicas": 5}}


def test_the_value_of_a_constant_is_that_at_the_decorator(tmp_path: Path) -> None:
    function = "@clipper.function(max_retries=N)\ndef {}(): ...\n"
    source = f"import clipper\nN = 1\n{function.format('f')}N = 2\n{function.format('g')}"
    assert [found.options["max_retries"] for found in read(tmp_path, source).functions] == [1, 2]


def test_name_is_taken_from_the_decorator(tmp_path: Path) -> None:
    (found,) = read(tmp_path, "import clipper\n@clipper.function(name='classify')\nclass C: ...\n").functions
    assert (found.name, found.target, dict(found.options)) == ("classify", "C", {})


@pytest.mark.parametrize(
    ("written", "before"),
    [
        ("timeout_s=int('5')", ""),
        ("timeout_s=os.environ['T']", "import os"),
        ("timeout_s=N", ""),
        ("timeout_s=N", "N = compute()"),
        ("timeout_s=N", "N = 1\nif x:\n    N = 2"),
        ("timeout_s=N", "N = 1\nfor N in range(3): pass"),
        ("timeout_s=N", "N = 1\nN += 1"),
        ("timeout_s=N", "N = 1\ndef N(): ..."),
        ("timeout_s=N", "N = 1\nimport numpy as N"),
        ("timeout_s=N", "N = 1\ndel N"),
        ("timeout_s=N", "N = 1\nwhile (N := 3): break"),
        ("timeout_s=N", "N, M = 1, 2"),
        ("timeout_s=1 if x else 2", ""),
        ("timeout_s='a' * 5", ""),
        ("timeout_s=True + 1", ""),
        ("timeout_s=1 @ 2", ""),
        ("timeout_s=1 / 0", ""),
        ("timeout_s=2 ** 10 ** 10", ""),
        ("timeout_s=1 << 100000000000", ""),
        ("timeout_s=(-8) ** 0.5", ""),
        ("timeout_s=1.5 << 2", ""),
        ("batch_size_key=f'a{1}'", ""),
        ("batch_size_key=b'a'", ""),
        ("default_output={**x}", ""),
        ("default_output={1: 2}", ""),
        ("default_output=[*x]", ""),
        ("timeout_s=...", ""),
    ],
)
def test_what_needs_running_is_refused_with_its_key_line_and_the_fix(tmp_path: Path, written: str, before: str) -> None:
    with pytest.raises(SpecError, match=r"write a literal, or set it in clip\.toml") as caught:
        options(tmp_path, written, before)
    assert caught.value.key == written.partition("=")[0]
    assert caught.value.where == f"decorator (app.py:{before.count(chr(10)) + 3})"


def test_unpacked_keywords_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"\*\*mappings cannot be followed"):
        options(tmp_path, "**OPTIONS", "OPTIONS = {'timeout_s': 5}")


def test_positional_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="keywords only"):
        options(tmp_path, "'name'")


@pytest.mark.parametrize("written", ["max_batchsize=4", "max_batch_size='4'", "entrypoint='app:x'"])
def test_wrong_options_are_refused_where_they_stand(tmp_path: Path, written: str) -> None:
    with pytest.raises(SpecError, match=r"decorator \(app\.py:3\)"):
        options(tmp_path, written)


def test_a_decorated_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"C\.run is a method; decorate the class C"):
        read(tmp_path, "import clipper\nclass C:\n    @clipper.function()\n    def run(self): ...\n")


@pytest.mark.parametrize(
    ("source", "message"),
    [("def f(:\n", r"app\.py:1: not valid Python"), ("x = 1\n\nif\n", r"app\.py:3: not valid"), ("a\0b", "not valid")],
)
def test_source_that_is_not_python_is_refused_with_its_line(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read(tmp_path, source)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_brackets_nested_past_the_parser_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="not valid Python"):
        read(tmp_path, "x = " + "(" * 5000 + ")" * 5000)


def test_a_module_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("")
    with pytest.raises(SpecError, match="the module 'modle' is not in the project; did you mean 'model'"):
        read_module(tmp_path, "modle", where="test")


def test_packages_and_dotted_modules_are_read(tmp_path: Path) -> None:
    package = tmp_path / "nets"
    package.mkdir()
    (package / "__init__.py").write_text("from clipper import function\n@function\ndef a(): ...\n")
    (package / "big.py").write_text("from clipper import function\n@function\ndef b(): ...\n")
    assert read_module(tmp_path, "nets", where="").functions[0].entrypoint == "nets:a"
    assert read_module(tmp_path, "nets.big", where="").functions[0].entrypoint == "nets.big:b"


@pytest.mark.parametrize(
    "source",
    ["def C(): ...", "class C: ...", "C = make()", "from x import C", "import C", "import y as C", "C: int = 5",
     "if a:\n    C = 1", "for C in x: pass", "with x as C: pass", "a, (b, C) = x", "from x import *",
     "try:\n    pass\nexcept E as C:\n    pass", "match x:\n    case [C, *_]: pass", "(C := 5)"],
)  # fmt: skip
def test_every_way_to_bind_a_name_counts(tmp_path: Path, source: str) -> None:
    read(tmp_path, source).check_target("C", where="w")


@pytest.mark.parametrize("source", ["def f():\n    C = 1", "class K:\n    C = 1", "C()", "import C.d as e"])
def test_a_name_of_an_inner_scope_is_not_the_modules(tmp_path: Path, source: str) -> None:
    with pytest.raises(SpecError, match=r"app\.py has no 'C'"):
        read(tmp_path, source).check_target("C", where="w")


def test_a_missing_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"w: app\.py has no 'Clasify'; did you mean 'Classify'"):
        read(tmp_path, "class Classify: ...").check_target("Clasify", where="w")


@given(st.integers(-1000, 1000), st.integers(-1000, 1000), st.sampled_from(["+", "-", "*", "//", "%", "/"]))
def test_arithmetic_agrees_with_python(left: int, right: int, op: str) -> None:
    import ast

    from clipper.discovery import _Reader, _Unreadable

    reader = _Reader("m", "m.py", ast.parse(""))
    text = f"({left}) {op} ({right})"
    try:
        expected = eval(text)
    except ZeroDivisionError:
        with pytest.raises(_Unreadable):
            reader._evaluate(ast.parse(text, mode="eval").body)
    else:
        assert reader._evaluate(ast.parse(text, mode="eval").body) == expected
