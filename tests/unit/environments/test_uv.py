"""uv's explanations become a sentence and a hint; packages' scripts see no secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipper_platform.environments.uv import explain, hint_for, in_conflict, uv_environment


def test_uvs_explanation_is_joined_and_its_chatter_left_out() -> None:
    output = [
        "Using Python 3.11.7 environment at: x",
        "error: No solution found when resolving dependencies",
        "  cause: Because there is no version of six==99, your requirements are unsatisfiable.",
    ]
    assert explain(output) == (
        "No solution found when resolving dependencies: "
        "Because there is no version of six==99, your requirements are unsatisfiable."
    )
    assert explain(["  × Failed to build `x`", "  ├─▶ The build backend", "  ╰─▶ ^^^"]) == (
        "Failed to build `x`: The build backend"
    )
    assert explain(["words without an error"]) == "words without an error"
    assert explain([]) == "uv printed nothing"
    assert len(explain(["error: " + "x" * 100_000])) < 5_000


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Because nosuch was not found in the package registry", "spelling"),
        ("Because there is no version of six==99", "version of the package that exists"),
        ("Failed to fetch: http://127.0.0.1:9: tcp connect error", "cannot be reached"),
        ("Couldn't parse requirement", "as pip would read it"),
        ("Failed to build `x`", "compiled"),
        ("No space left on device", "disk is full"),
        ("something new", "correct the requirements"),
    ],
)
def test_the_hint_says_what_to_do(text: str, part: str) -> None:
    assert part in hint_for(text)


def test_of_the_runtimes_packages_those_are_in_conflict_that_uv_names() -> None:
    runtime = ("msgspec>=0.19", "cloudpickle>=3.1")
    assert in_conflict(["error: No solution found", "  cause: Because you require msgspec==0.1"], runtime) == [
        "msgspec>=0.19"
    ]
    assert in_conflict(["error: No solution found", "  cause: Because there is no version of msgspec-more"], ()) == []
    assert in_conflict(["error: Failed to fetch msgspec"], runtime) == []


def test_uv_sees_where_to_fetch_from_but_no_secrets_and_no_other_project() -> None:
    passed = {
        "PATH": "/bin", "https_proxy": "p", "HTTP_PROXY": "p", "SSL_CERT_FILE": "c", "UV_INDEX_URL": "i",
        "PIP_INDEX_URL": "i", "CC": "gcc", "CFLAGS": "-O2", "LC_ALL": "C", "XDG_CACHE_HOME": "x",
    }  # fmt: skip
    refused = {
        "AWS_SECRET_ACCESS_KEY": "s", "CLIP_API_KEY": "s", "VIRTUAL_ENV": "/v", "PYTHONPATH": "/p",
        "UV_PROJECT_ENVIRONMENT": "/e", "UV_PYTHON": "3.8", "UV_VENV_CLEAR": "1", "OPENAI_KEY": "s", "PATHS": "x",
    }  # fmt: skip
    environment = uv_environment(passed | refused, {"MARK": "1"})
    assert passed.items() <= environment.items()
    assert not refused.keys() & environment.keys()
    assert environment["MARK"] == "1"
    assert environment["NO_COLOR"] == "1"


def test_uv_finds_the_wheels_that_pip_is_told_of(tmp_path: Path) -> None:
    words = f"{tmp_path} {tmp_path / 'missing'} https://example.com/wheels"
    assert uv_environment({"PIP_FIND_LINKS": words})["UV_FIND_LINKS"] == f"{tmp_path},https://example.com/wheels"
    assert "UV_FIND_LINKS" not in uv_environment({"PIP_FIND_LINKS": str(tmp_path / "missing")})
    assert uv_environment({"PIP_FIND_LINKS": str(tmp_path), "UV_FIND_LINKS": "/own"})["UV_FIND_LINKS"] == "/own"
