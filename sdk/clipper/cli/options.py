"""Arguments and options that several commands share, and the platform they talk to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from clipper.cli.declare import Argument, Option
from clipper.cli.names import complete_functions, complete_projects, complete_targets

if TYPE_CHECKING:
    from clipper.control import ControlClient

__all__ = ["Directory", "FunctionArgument", "Json", "ProjectArgument", "TargetArgument", "connect"]

Json = Annotated[bool, Option("--json", help="One JSON document on stdout, and nothing else.")]

Directory = Annotated[
    Path, Argument(metavar="DIR", help="A directory with a clip.toml.", show_default="this directory")
]

ProjectArgument = Annotated[
    str, Argument(metavar="PROJECT", help="A project's name.", autocompletion=complete_projects)
]

FunctionArgument = Annotated[
    str,
    Argument(
        metavar="PROJECT/FUNCTION",
        help="A function; its project alone will do where it has only one.",
        autocompletion=complete_functions,
    ),
]

TargetArgument = Annotated[
    str,
    Argument(metavar="PROJECT[/FUNCTION]", help="A project, or one function of it.", autocompletion=complete_targets),
]


@contextmanager
def connect() -> Iterator[ControlClient]:
    """A client of the platform that CLIP_URL and CLIP_API_KEY, else ~/.clip, name.

    Raises CommandFailed when there is none, or when CLIP_URL is no address.
    """
    from clipper.cli.problems import CommandFailed
    from clipper.control import ControlClient
    from clipper.errors import PlatformUnreachable
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
