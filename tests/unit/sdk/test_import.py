"""`import clipper` runs in every replica, next to user code: it must cost next to nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import clipper

ROOT = Path(__file__).resolve().parents[3]

HEAVY = {
    "httpx", "click", "rich", "msgspec", "numpy", "cloudpickle", "asyncio", "ssl", "inspect",
    "dataclasses", "logging", "email", "urllib.request", "http.client", "importlib.metadata", "socket", "tarfile",
}  # fmt: skip

VERSION_MODULES = {"clipper.contract", "clipper.contract.version"}


def modules_after(code: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, timeout=60, check=True, cwd=ROOT,
    )  # fmt: skip
    return set(json.loads(run.stdout))


def test_importing_it_loads_nothing_heavy() -> None:
    loaded = modules_after("import clipper") - modules_after("pass")
    assert "clipper.function" in loaded
    assert loaded & HEAVY == set()
    assert {name for name in loaded if name.startswith("clipper")} == {"clipper", "clipper.function", *VERSION_MODULES}


def test_decorating_loads_no_http_client_and_no_terminal() -> None:
    loaded = modules_after("import clipper\n@clipper.function(max_batch_size=4)\ndef f(x): ...\nf(1); f.local(2)")
    assert loaded & {"httpx", "click", "rich", "msgspec", "numpy", "cloudpickle", "ssl"} == set()
    specs = {f"clipper.contract.{name}" for name in ("environment", "policies", "rules", "spec")}
    ours = {"clipper", "clipper.function", *VERSION_MODULES, *specs}
    assert {name for name in loaded if name.startswith("clipper")} == ours


def test_catching_its_errors_loads_no_http_client() -> None:
    assert (
        modules_after("import clipper\nclipper.ClipperError; clipper.errors.QueueFull") & {"httpx", "msgspec"} == set()
    )


def test_the_decorator_keeps_its_name_after_its_module_is_imported() -> None:
    code = (
        "import clipper, sys\n"
        "from clipper.function import Function\n"
        "import clipper.function\n"
        "assert callable(clipper.function) and clipper.Function is Function\n"
        "assert sys.modules['clipper.function'].Function is Function\n"
        "import clipper.errors, clipper.client, clipper.deploying\n"
        "assert callable(clipper.function) and callable(clipper.deploy)\n"
    )
    modules_after(code)


@pytest.mark.parametrize("name", clipper.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(clipper, name) is not None
    assert name in dir(clipper)


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'functoin'"):
        _ = clipper.functoin  # type: ignore[attr-defined]  # the mistake under test


def test_lazy_names_are_those_that_the_type_checker_sees() -> None:
    source = (ROOT / "sdk" / "clipper" / "__init__.py").read_text()
    for name, module in clipper._LAZY.items():
        assert re.search(rf"^    from {re.escape(module)} import (\w+, )*{name}(, \w+)*$", source, re.MULTILINE)


def test_the_version_is_the_distributions() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert clipper.__version__ == table["project"]["version"]
