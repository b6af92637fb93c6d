"""The applications of `clip dev`: made, followed and deleted again; those that were there before are left alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clipper.cli.dev_apps import DevApplications, Printed
from clipper.control import ControlClient
from clipper.project import Project, load_project
from tests.support.fake_platform import KEY, FakePlatform, fake_platform

APP = "import clipper\n@clipper.function()\ndef analyze(text: str) -> dict: ...\n"


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with fake_platform() as running:
        yield running


@pytest.fixture
def control(platform: FakePlatform) -> Iterator[ControlClient]:
    with ControlClient(platform.url, KEY) as client:
        yield client


def project(directory: Path, **apps: str) -> Project:
    """A project whose applications have these default outputs."""
    tables = "".join(
        f'[apps.{name}]\ninput_type = "strings"\ndefault_output = "{output}"\nlinks = ["analyze"]\n'
        for name, output in apps.items()
    )
    (directory / "app.py").write_text(APP)
    (directory / "clip.toml").write_text(f'name = "digits"\n{tables}')
    return load_project(directory)


def events(printed: Iterable[Printed]) -> list[tuple[Any, ...]]:
    return [(event["event"], event.get("name", event.get("application")), event.get("outcome")) for event, _ in printed]


def test_new_applications_live_as_long_as_the_session(
    platform: FakePlatform, control: ControlClient, tmp_path: Path
) -> None:
    session = DevApplications(control)
    assert events(session.apply(project(tmp_path, words="?"))) == [("application", "words", "created")]
    assert events(session.apply(project(tmp_path, words="?"))) == []
    assert platform.apps.specs["words"].default_output == "?"
    list(session.apply(project(tmp_path, words="!")))
    assert platform.apps.specs["words"].default_output == "!"
    assert events(session.remove()) == [("restored", "words", None)]
    assert platform.apps.specs == {}


def test_an_application_that_was_there_is_left_alone_and_named_once(
    platform: FakePlatform, control: ControlClient, tmp_path: Path
) -> None:
    platform.apps.add("words", input_type="strings", default_output="theirs")
    session = DevApplications(control)
    assert events(session.apply(project(tmp_path, words="mine", more="mine"))) == [
        ("application", "words", "left"),
        ("application", "more", "created"),
    ]
    assert events(session.apply(project(tmp_path, words="mine", more="mine"))) == []
    list(session.remove())
    assert {name: spec.default_output for name, spec in platform.apps.specs.items()} == {"words": "theirs"}


def test_one_that_is_refused_is_told_and_stops_no_other(
    platform: FakePlatform, control: ControlClient, tmp_path: Path
) -> None:
    platform.apps.known = set()
    session = DevApplications(control)
    assert events(session.apply(project(tmp_path, words="?"))) == [("failed", "words", None)]
    assert events(session.remove()) == []


def test_one_that_somebody_deleted_meanwhile_is_no_failure(
    platform: FakePlatform, control: ControlClient, tmp_path: Path
) -> None:
    session = DevApplications(control)
    list(session.apply(project(tmp_path, words="?")))
    platform.apps.specs.clear()
    assert events(session.remove()) == []


def test_a_project_without_applications_asks_nothing(
    platform: FakePlatform, control: ControlClient, tmp_path: Path
) -> None:
    session = DevApplications(control)
    assert events(session.apply(project(tmp_path))) == []
    assert events(session.remove()) == []
    assert platform.requests == []
