"""Which environment variables a project may set."""

from __future__ import annotations

import pytest

from clipper.contract.spec import SpecError
from clipper.contract.variables import MAX_VARIABLES, check_variable, parse_variables


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("1ST", "x", "name"),
        ("", "x", "name"),
        ("A-B", "x", "name"),
        ("A=B", "x", "name"),
        ("A\n", "x", "name"),
        ("Ä", "x", "name"),
        ("A" * 129, "x", "name"),
        ("CLIP_API_KEY", "x", "name"),
        ("PYTHONPATH", "x", "name"),
        ("LD_PRELOAD", "x", "name"),
        ("PATH", "x", "name"),
        ("TMPDIR", "x", "name"),
        ("VIRTUAL_ENV", "x", "name"),
        ("OK", "nul\0", "value"),
        ("OK", "\udcff", "value"),
        ("OK", "x" * 65_537, "value"),
    ],
)
def test_a_variable_that_a_replica_cannot_have_is_refused(name: str, value: str, key: str) -> None:
    with pytest.raises(SpecError) as refused:
        check_variable(name, value, where="secret")
    assert refused.value.key == key


def test_ordinary_variables_pass() -> None:
    variables = {
        "HF_TOKEN": "hf_x",
        "_X1": "many\nlines é",
        "http_proxy": "http://proxy:3128",
        "EMPTY": "",
        "DASH": "-x",
    }
    assert parse_variables(variables, where="[env]") == variables


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("A=1", "must be a table"),
        ({"WORKERS": 4}, 'WORKERS = "4"'),
        ({"DEBUG": True}, "a variable is a string"),
        ({"A": ["x"]}, "a variable is a string"),
        ({"PATH": "/opt/bin"}, "set by the platform"),
        ({f"V{n}": "" for n in range(MAX_VARIABLES + 1)}, "at most 256 variables"),
        ({f"V{n}": "x" * 60_000 for n in range(9)}, "all values together"),
    ],
)
def test_a_table_that_cannot_be_passed_on_is_refused_with_the_fix(table: object, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        parse_variables(table, where="[env]")
