"""Arguments and options that several commands share, and the connection to the platform."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipper.cli.console import Output
from clipper.cli.names import (
    complete_functions,
    complete_projects,
    complete_targets,
    parse_project,
    parse_target,
)
from clipper.cli.problems import CommandFailed
from clipper.errors import PlatformUnreachable

if TYPE_CHECKING:
    from clipper.control import ControlClient

__all__ = [
    "confirm",
    "connect",
    "directory_argument",
    "function_argument",
    "json_option",
    "path",
    "project_argument",
    "target_argument",
    "usage_error",
    "yes_option",
]


def path(**attributes: Any) -> click.Path:
    """The type of a path that need not exist."""
    return click.Path(path_type=Path, **attributes)


def _output(_ctx: click.Context, _param: click.Parameter, json: bool) -> Output:
    return Output(json=json)


# The command takes it as `out`.
json_option = click.option(
    "--json", "out", is_flag=True, callback=_output, help="One JSON document on stdout, and nothing else."
)

directory_argument = click.argument(
    "directory",
    metavar="[DIR]",
    type=path(),
    default=Path("."),
    help="A directory with a clip.toml.  [default: this directory]",
)

project_argument = click.argument(
    "project", metavar="PROJECT", type=parse_project, shell_complete=complete_projects, help="A project's name."
)

function_argument = click.argument(
    "function",
    metavar="PROJECT/FUNCTION",
    type=parse_target,
    shell_complete=complete_functions,
    help="A function; its project alone will do where it has only one.",
)

target_argument = click.argument(
    "target",
    metavar="PROJECT[/FUNCTION]",
    type=parse_target,
    shell_complete=complete_targets,
    help="A project, or one function of it.",
)


yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def confirm(out: Output, question: str) -> None:
    """Return if a person says yes. Raises CommandFailed when nobody can be asked or the answer is no."""
    if not out.interactive:
        raise CommandFailed(
            "There is no terminal to ask on, so nothing was deleted", hint="Say it with --yes", code="unconfirmed"
        )
    if not click.confirm(question, err=True):
        raise CommandFailed("Nothing was deleted", code="unconfirmed")


def usage_error(message: str, option: str) -> click.BadParameter:
    """The error for options that exclude each other. `option` is the one to blame."""
    return click.BadParameter(message, ctx=click.get_current_context(), param_hint=option)


@contextmanager
def connect() -> Iterator[ControlClient]:
    """A client of the platform that CLIP_URL and CLIP_API_KEY name, else the files in ~/.clip.

    Raises CommandFailed when no platform is found or reached, or CLIP_URL is invalid.
    """
    from clipper.control import ControlClient
    from clipper.location import find_platform

    start = "Start one: clip up"
    try:
        location = find_platform()
    except ValueError as error:
        raise CommandFailed(str(error), hint="Correct CLIP_URL, or unset it", code="invalid_url") from None
    except PlatformUnreachable as error:
        raise CommandFailed(f"No platform here: {error}", hint=start, code=error.code) from None
    with ControlClient() as control:
        try:
            yield control
        except PlatformUnreachable as error:
            raise CommandFailed(f"No platform at {location.url}", hint=start, code=error.code) from None
