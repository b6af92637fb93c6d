"""Addresses on the command line: `P`, `P/F`, `P/F@V`. Suggestions for unknown ones, and their completion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from clipper.cli.problems import CommandFailed
from clipper.contract.rules import nearest
from clipper.errors import ClipperError

if TYPE_CHECKING:
    from clipper.control import ControlClient

__all__ = [
    "Target",
    "advise",
    "complete_functions",
    "complete_projects",
    "complete_targets",
    "from_platform",
    "known",
    "named_function",
    "one_function",
    "parse_project",
    "parse_target",
]

_ADDRESS = re.compile(r"(?P<project>[\w-]+)(?:/(?P<function>[\w-]+)(?:@(?P<version>\d{1,9}))?)?\Z", re.ASCII)

# A shell waits for the completion: a slow platform gives none.
_COMPLETION_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """A project, or one of its functions, optionally in one version."""

    project: str
    function: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        text = self.project if self.function is None else f"{self.project}/{self.function}"
        return text if self.version is None else f"{text}@{self.version}"


def parse_target(text: str) -> Target:
    """Raises BadParameter when `text` is no address."""
    found = _ADDRESS.match(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not an address: write PROJECT/FUNCTION, as in digits/classify")
    version = found["version"]
    return Target(found["project"], found["function"], int(version) if version else None)


def parse_project(text: str) -> str:
    """The name of a project. Raises BadParameter for another address."""
    target = parse_target(text)
    if target.function is not None:
        raise click.BadParameter(f"{text!r} names a function; this command takes a project: {target.project}")
    return target.project


def one_function(control: ControlClient, target: Target) -> Target:
    """The target with the project's only function where it names none. Raises CommandFailed where there are several."""
    if target.function is not None:
        return target
    names = [f["name"] for f in control.project(target.project)["functions"]]
    if len(names) != 1:
        choices = ", ".join(f"{target.project}/{name}" for name in names)
        raise CommandFailed(f"Project {target.project} has {len(names)} functions", hint=f"Name one of {choices}")
    return Target(target.project, names[0])


@contextmanager
def known(control: ControlClient, target: Target) -> Iterator[None]:
    """Adds a suggestion to a 404 from inside the block: the nearest name that the platform has."""
    try:
        yield
    except ClipperError as error:
        if error.status == 404:
            advise(error, control, target)
        raise


@contextmanager
def named_function(control: ControlClient, given: Target) -> Iterator[Target]:
    """`one_function` inside `known`."""
    with known(control, given):
        yield one_function(control, given)


def advise(error: Exception, control: ControlClient, target: Target) -> None:
    """Add the nearest name to an error about one that the platform does not have."""
    try:
        projects = {p["name"]: [f["name"] for f in p["functions"]] for p in control.projects()}
    except (ClipperError, KeyError):
        return  # the 404 is reported without a suggestion
    if not projects:
        error.add_note("No projects are deployed here. Start with `clip init demo && clip deploy demo`")
    elif target.project not in projects:
        guess = nearest(target.project, projects)
        error.add_note(f"Did you mean {guess}?" if guess else f"Projects here: {', '.join(sorted(projects))}")
    elif target.function is not None and target.function not in projects[target.project]:
        functions = projects[target.project]
        guess = nearest(target.function, functions)
        listed = ", ".join(f"{target.project}/{name}" for name in functions)
        error.add_note(f"Did you mean {target.project}/{guess}?" if guess else f"Functions: {listed}")
    elif target.version is not None:
        error.add_note(f"`clip versions {target.project}` lists the versions")


# Completion: (context, parameter, incomplete word) → the words that fit, as click calls it.


def complete_projects(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of the running platform's projects; none while it is down."""
    return from_platform(incomplete, lambda control: [str(p["name"]) for p in control.projects()])


def complete_functions(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """`project/function` for every deployed function; none while the platform is down."""
    return from_platform(
        incomplete, lambda control: [f"{p['name']}/{f['name']}" for p in control.projects() for f in p["functions"]]
    )


def complete_targets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Projects and, once a slash is written, their functions."""
    complete = complete_functions if "/" in incomplete else complete_projects
    return complete(ctx, param, incomplete)


def from_platform(incomplete: str, ask: Callable[[ControlClient], list[str]]) -> list[str]:
    """The names from `ask` that begin with `incomplete`; none while the platform is down."""
    try:
        from clipper.control import ControlClient

        with ControlClient(timeout_s=_COMPLETION_TIMEOUT_S) as control:
            return [name for name in ask(control) if name.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - a half-typed command line is no place to report a failure
        return []
