"""The plain reader says what typer would, or leaves the line to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.main import get_command

from clipper.cli.commands import COMMANDS, Command, Group, find
from clipper.cli.declare import Argument, Option
from clipper.cli.options import Json, ProjectArgument
from clipper.cli.parsing import _typed
from clipper.cli.plain import read


def entries() -> Iterator[tuple[str, Command]]:
    for name, entry in COMMANDS.items():
        if isinstance(entry, Group):
            yield from ((f"{name} {inner}", command) for inner, command in entry.commands.items())
        else:
            yield name, entry


ALL = dict(entries())


def sample(
    project: ProjectArgument,
    version: Annotated[int | None, Argument(min=1)] = None,
    tail: Annotated[int | None, Option(min=0, max=9)] = None,
    interval: Annotated[float, Option("--interval", "-i", min=0.1)] = 1.0,
    kind: Annotated[Literal["ramp", "spike"] | None, Option()] = None,
    scope: Annotated[list[str] | None, Option()] = None,
    home: Annotated[Path | None, Option()] = None,
    follow: Annotated[bool, Option("--follow", "-f")] = False,
    json: Json = False,
) -> None: ...


def as_typer_reads(function: Callable[..., Any], words: list[str]) -> dict[str, Any]:
    read_values: dict[str, Any] = {}

    def taking(**values: Any) -> None:
        read_values.update(values)

    typed = _typed(function)
    taking.__dict__["__signature__"] = inspect.signature(typed)
    taking.__annotations__ = typed.__annotations__
    app = typer.Typer(add_completion=False)
    app.command()(taking)
    get_command(app).main(args=words, standalone_mode=False)
    return read_values


@pytest.mark.parametrize(
    "line",
    [
        "demo",
        "demo 3",
        "demo 3 --json",
        "--json demo",
        "demo --tail 5 --follow",
        "demo -f --tail=5",
        "demo -i 0.5 --kind spike",
        "demo --interval 2",
        "demo --scope a --scope b,c",
        "demo --home /tmp/x",
        "- --home -",
    ],
)
def test_a_plain_line_is_read_as_typer_reads_it(line: str) -> None:
    words = line.split()
    found = read(sample, words)
    assert found is not None
    assert found == as_typer_reads(sample, words)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "demo --help",
        "demo -h",
        "demo x",
        "demo 0",
        "demo 1.5",
        "demo 1 2",
        "demo --tail",
        "demo --tail -1",
        "demo --tail 10",
        "demo --tail 1 --tail 2",
        "demo --interval 0.01",
        "demo --interval nan",
        "demo --kind flat",
        "demo --folow",
        "demo --follow=yes",
        "demo -fi 1",
        "demo -- 3",
    ],
)
def test_any_other_line_is_left_to_typer(line: str) -> None:
    assert read(sample, line.split()) is None


@pytest.mark.parametrize("name", ALL)
def test_the_table_says_the_first_line_of_the_commands_docstring(name: str) -> None:
    command = ALL[name].load()
    assert ALL[name].summary == (inspect.getdoc(command) or "").splitlines()[0]


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_of_a_command_is_declared_for_both_readers(name: str) -> None:
    command = ALL[name].load()
    arguments = [p.name for p in inspect.signature(command).parameters.values() if p.default is p.empty]
    # `datetime`, which only typer reads, stands in one option and is not asked for here.
    assert read(command, ["word" for _ in arguments]) is not None
    assert set(inspect.signature(_typed(command)).parameters) == set(inspect.signature(command).parameters)


def test_a_command_is_found_by_its_first_words() -> None:
    assert find(["key", "list", "--json"]) == (ALL["key list"], 2)
    assert find(["rollback", "demo"]) == (ALL["rollback"], 1)
    assert find(["key"]) == (None, 1)
    assert find(["key", "lst"]) == (None, 1)
    assert find(["rolback"]) == (None, 0)
    assert find([]) == (None, 0)
