"""What the platform offers to the CLI: entry points of the group "clipper.platform" (pyproject.toml).

The SDK imports no sibling and works without one; what goes in and comes out is plain data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from clipper.cli.problems import CommandFailed

__all__ = ["GROUP", "load"]

GROUP: Final = "clipper.platform"


def load(name: str) -> Callable[..., Any]:
    """The function that the platform offers as `name`. Raises CommandFailed where the platform is not installed."""
    from importlib.metadata import entry_points

    missing = f"there is no entry point {name!r} of {GROUP}"
    for entry in entry_points(group=GROUP, name=name):
        try:
            function: Callable[..., Any] = entry.load()
            return function
        except ModuleNotFoundError as error:
            missing = f"there is no module {error.name!r}"
    raise CommandFailed(
        f"The platform is not installed here: {missing}",
        hint="Install it: pip install 'clipper[platform]'",
        code="platform_missing",
    )
