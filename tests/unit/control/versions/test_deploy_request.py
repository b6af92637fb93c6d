"""What a client asks for with a deploy: refused, answered at once, or resolved into a manifest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clipper.contract.manifest import PACKAGES, REBUILT
from clipper_platform.control.versions.deploy_request import DeployRequest, read_deploy
from clipper_platform.errors import InvalidSpec

MOVING = "a @ git+https://h/x@main"


def body(*requirements: str, **more: Any) -> dict[str, Any]:
    return {
        "project": "demo",
        "bundle": "sha256:" + "0" * 64,
        "environment": {"requirements": list(requirements)},
        "functions": [{"name": "f", "entrypoint": "app:f"}],
        **more,
    }


def request(*requirements: str, **more: Any) -> DeployRequest:
    return read_deploy("demo", body(*requirements, **more))


@pytest.mark.parametrize(
    "line",
    [
        "tinypkg 2",
        "-r other.txt",
        "-c other.txt",
        "./../x.zip",
        "/etc/x.zip",
        "--find-links ../x",
        "https://${HOME}/x.zip",
    ],
)
def test_lines_that_a_client_would_not_send_are_refused(line: str) -> None:
    with pytest.raises(InvalidSpec, match="not allowed"):
        request(line)


def test_a_refusal_holds_no_credentials() -> None:
    with pytest.raises(InvalidSpec) as refused:
        request("--index-url https://me:token@h/simple --bogus")
    assert "token" not in str(refused.value)


@pytest.mark.parametrize("more", [{"force": 1}, {"rebuild": "yes"}, {"meanings": {"a": "b"}}])
def test_flags_are_true_or_false_and_meanings_are_the_platforms(more: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec, match=next(iter(more))):
        request(**more)


def test_the_same_again_is_answered_at_once_unless_something_may_have_moved() -> None:
    current = replace(request("a").manifest, meanings={REBUILT: "1.000"})
    assert request("a").is_answered_by(current)
    assert not request("b").is_answered_by(current)
    assert not request("a", force=True).is_answered_by(current)
    assert not request("a", rebuild=True).is_answered_by(current)
    assert not request(MOVING).is_answered_by(request(MOVING).manifest)


def test_a_rebuilt_environment_stays_until_the_next_rebuild_or_another_environment() -> None:
    rebuilt = request("a", rebuild=True).resolved({}, None, 5.0)
    assert rebuilt.meanings == {REBUILT: "5.000"}
    assert request("a").resolved({}, rebuilt, 6.0).meanings == {REBUILT: "5.000"}
    assert request("a", rebuild=True).resolved({}, rebuilt, 7.0).meanings == {REBUILT: "7.000"}
    assert request("b").resolved({}, rebuilt, 8.0).meanings == {}


def test_the_packages_of_an_environment_stay_until_a_rebuild_or_another_environment() -> None:
    built = replace(request("a").manifest, meanings={PACKAGES: "a==1"})
    assert request("a").resolved({}, built, 1.0).meanings == {PACKAGES: "a==1"}
    assert request("a", rebuild=True).resolved({}, built, 2.0).meanings == {REBUILT: "2.000"}
    assert request("b").resolved({}, built, 3.0).meanings == {}


def test_what_a_moved_branch_or_a_file_needs_is_resolved_anew() -> None:
    branch = replace(request(MOVING).manifest, meanings={MOVING: "c1", PACKAGES: "a==1"})
    assert request(MOVING).resolved({MOVING: "c1"}, branch, 1.0).meanings == branch.meanings
    assert request(MOVING).resolved({MOVING: "c2"}, branch, 1.0).meanings == {MOVING: "c2"}
    path = "./wheels/a-1.0-py3-none-any.whl"
    file = replace(request(path).manifest, meanings={PACKAGES: "b==1"})
    assert request(path).resolved({}, file, 1.0).meanings == {}
