"""The command line through typer: help, completion, and what `plain` does not read. Loads only what is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from clipper.cli.commands import COMMANDS, Command, Group
from clipper.cli.declare import Argument, Option
from clipper.cli.problems import UsageProblem

__all__ = ["run"]

_HELP = "Deploy Python functions and models, and call them."
_EPILOG = "Start here: clip init demo, then clip up in another terminal, then clip deploy demo."
_CONTEXT = {"help_option_names": ["-h", "--help"]}


def run(words: Sequence[str]) -> object:
    """Do what the line says; the exit code, if the command gave one. Raises UsageProblem, SystemExit."""
    try:
        return _root().main(args=list(words), prog_name="clip", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        raise UsageProblem(
            error.format_message(),
            path=context.command_path if context is not None else "clip",
            exit_code=int(getattr(error, "exit_code", 2)),
            is_help=type(error).__name__ == "NoArgsIsHelpError",  # `clip` or `clip key` alone: the message is the help
        ) from None


class _Lazy(TyperGroup):
    """A group of the table. A command is loaded when it is run; lists of commands need only its line in the table."""

    table: dict[str, Command | Group]

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        # Help and completion go over all names; the command that is meant is asked for by `resolve_command`.
        if cmd_name not in self.table:
            return None
        if cmd_name not in self.commands:
            return _outline(cmd_name, self.table[cmd_name])
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in self.table:
            self.commands[args[0]] = _whole(args[0], self.table[args[0]])
        else:
            self.commands = {name: _outline(name, entry) for name, entry in self.table.items()}  # for suggestions
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A section for each panel of the table."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.table.items():
            panels.setdefault(entry.panel or "Commands", []).append((name, entry.summary))
        widest = max(len(name) for name in self.table)
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(widest), summary) for name, summary in rows])


def _outline(name: str, entry: Command | Group) -> TyperCommand:
    return TyperCommand(name=name, help=entry.summary, rich_help_panel=entry.panel)


def _whole(name: str, entry: Command | Group) -> Any:
    if isinstance(entry, Group):
        return _group(name, entry.summary, dict(entry.commands))
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(name, context_settings=_CONTEXT)(_typed(entry.load()))
    return get_command(app)


def _group(name: str, summary: str, table: dict[str, Command | Group], **more: Any) -> Any:
    app = typer.Typer(
        name=name,
        cls=_Lazy,
        no_args_is_help=True,
        add_completion=bool(more),
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # rich takes 0.2 s of CPU to load for a page of help
        context_settings=_CONTEXT,
        help=summary,
        **more,
    )
    app.callback()(_version if more else _nothing)
    group: Any = get_command(app)
    group.table = table
    return group


def _root() -> Any:
    return _group("clip", _HELP, dict(COMMANDS), epilog=_EPILOG)


def _nothing() -> None:
    """A group by itself does nothing."""


def _print_version(asked: bool) -> None:
    if asked:
        from clipper.cli.main import print_version

        print_version()
        raise typer.Exit


def _version(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Deploy Python functions and models, and call them."""


def _typed(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with typer's declarations in place of ours."""
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    annotations = {name: _annotation(hints[name]) for name in signature.parameters}

    @wraps(function)
    def command(**values: Any) -> Any:
        return function(**values)

    parameters = [p.replace(annotation=annotations[p.name]) for p in signature.parameters.values()]
    command.__dict__["__signature__"] = signature.replace(parameters=parameters, return_annotation=None)
    command.__annotations__ = annotations
    return command


def _annotation(hint: Any) -> Any:
    if get_origin(hint) is not Annotated:
        return hint
    kind, declared = get_args(hint)[:2]
    match declared:
        case Option():
            said: Any = typer.Option(*declared.names, **_facts(declared))
        case Argument():
            said = typer.Argument(**_facts(declared), autocompletion=declared.autocompletion)
        case _:
            return hint
    return Annotated[kind, said]


def _facts(declared: Option | Argument) -> dict[str, Any]:
    facts = {key: getattr(declared, key) for key in ("metavar", "help", "show_default", "min", "max")}
    return {key: value for key, value in facts.items() if value is not None}
