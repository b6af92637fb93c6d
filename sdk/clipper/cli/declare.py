"""How commands declare their arguments and options: plain data, which costs nothing to import.

Two readers take it: `plain` for a command line that is as it should be, `parsing` (typer) for help, completion and
mistakes. In a command's signature it stands in `Annotated`; the type and the default are the parameter's own.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Argument", "Option"]

Completion = Callable[[str], list[str]]
"""What may stand in place of an incomplete word."""


class Argument:
    """A word by position. `min` and `max` bound a number; `show_default` says in words what happens without it."""

    def __init__(
        self,
        *,
        metavar: str | None = None,
        help: str | None = None,
        show_default: str | None = None,
        min: float | None = None,
        max: float | None = None,
        autocompletion: Completion | None = None,
    ) -> None:
        self.metavar = metavar
        self.help = help
        self.show_default = show_default
        self.min, self.max = min, max
        self.autocompletion = autocompletion


class Option:
    """A word by name, as in `--tail 5`; without `names` it has the parameter's. A bool's is a flag without a value."""

    def __init__(
        self,
        *names: str,
        metavar: str | None = None,
        help: str | None = None,
        show_default: str | None = None,
        min: float | None = None,
        max: float | None = None,
    ) -> None:
        self.names = names
        self.metavar = metavar
        self.help = help
        self.show_default = show_default
        self.min, self.max = min, max
