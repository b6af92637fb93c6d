"""Arguments and options of `clip app …`: names, links, values written as JSON, the keys of an application."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clipper.address import FunctionAddress
from clipper.cli.names import Target, advise, complete_functions, from_platform, parse_target
from clipper.cli.text import as_typed
from clipper.contract.applications import INPUT_TYPES, LOSSES, POLICIES
from clipper.contract.rules import nearest
from clipper.errors import ClipperError

if TYPE_CHECKING:
    from clipper.control import ControlClient

__all__ = [
    "address",
    "app_argument",
    "given_keys",
    "json_or_text",
    "known_app",
    "link_argument",
    "linked",
    "linked_argument",
    "spec_options",
]

F = TypeVar("F", bound=Callable[..., Any])


def json_or_text(text: str) -> Any:
    """The value that `text` is as JSON, else the text itself: `-1` is a number, `cat` and `"5"` are texts."""
    typed = as_typed(text)
    try:
        return json.loads(typed, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return typed


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _pairs(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """`--policy-option eta=0.1` as a table. Raises BadParameter."""
    table: dict[str, Any] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{pair!r} is no option: write KEY=VALUE, as in epsilon=0.1")
        if key in table:
            raise click.BadParameter(f"{key} is given twice")
        table[key] = json_or_text(value)
    return table


def address(text: str) -> FunctionAddress:
    """`P/F` or `P/F@V`. Raises BadParameter."""
    target = parse_target(text)
    if target.function is None:
        raise click.BadParameter(f"{text!r} names a project; link a function of it: {target.project}/FUNCTION")
    return FunctionAddress(target.project, target.function, target.version)


# Completion: (context, parameter, incomplete word) → the words that fit, as click calls it.


def _complete_apps(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return from_platform(incomplete, lambda control: [str(app["name"]) for app in control.apps()])


def _complete_linked(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The functions that the application on the command line is linked to."""
    name = ctx.params.get("name")
    return from_platform(incomplete, lambda control: linked(control.app(str(name)))) if name else []


def _complete_policies(_ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    found = [policy for policy in POLICIES if policy.startswith(incomplete)]
    return found or complete_functions(_ctx, param, incomplete)


def linked(app: dict[str, Any]) -> list[str]:
    """The functions that an application asks, as addresses."""
    return [str(link if isinstance(link, str) else link["id"]) for link in app["links"]]


app_argument = click.argument("name", metavar="NAME", shell_complete=_complete_apps, help="An application's name.")

link_argument = click.argument(
    "function",
    metavar="PROJECT/FUNCTION[@VERSION]",
    type=address,
    shell_complete=complete_functions,
    help="A function; without a version, always the current one.",
)

linked_argument = click.argument(
    "function",
    metavar="PROJECT/FUNCTION[@VERSION]",
    type=address,
    shell_complete=_complete_linked,
    help="A linked function, with the version that it is linked with.",
)


Default = Callable[[str], str | None]
"""What a key's default is shown as, for a new application; None for a change, where it stays as it is."""


def _answer_options(default: Default, *, required: bool) -> list[Callable[[F], F]]:
    return [
        click.option(
            "--input-type",
            type=click.Choice(INPUT_TYPES),
            required=required,
            help="What an input is: a list of numbers, bytes in base64, or a string.",
        ),
        click.option(
            "--default-output",
            required=required,
            metavar="VALUE",
            help="Answered where no model answers in time: JSON, or a text as it is.",
        ),
        click.option(
            "--slo-ms",
            type=click.FloatRange(0, min_open=True),
            metavar="MS",
            help="Every query is answered by then.",
            show_default=default("100"),
        ),
    ]


def _policy_options(default: Default) -> list[Callable[[F], F]]:
    return [
        click.option(
            "--policy",
            metavar="POLICY",
            shell_complete=_complete_policies,
            help=f"Which models answer: {', '.join(POLICIES)}, or PROJECT/FUNCTION of your own.",
            show_default=default("single"),
        ),
        click.option(
            "--policy-option",
            "policy_options",
            multiple=True,
            callback=_pairs,
            metavar="KEY=VALUE",
            help="An option of the policy; may be repeated.",
        ),
        click.option("--seed", type=int, metavar="N", help="Makes the policy's choices repeatable."),
    ]


def _feedback_options(default: Default) -> list[Callable[[F], F]]:
    return [
        click.option(
            "--loss",
            type=click.Choice(LOSSES),
            help="How an answer is compared with its label.",
            show_default=default("zero_one"),
        ),
        click.option(
            "--loss-scale",
            type=float,
            metavar="NUMBER",
            help="The error that counts as 1, of absolute and squared.",
            show_default=default("1"),
        ),
        click.option(
            "--feedback-window",
            "feedback_window_s",
            type=click.FloatRange(0, min_open=True),
            metavar="SECONDS",
            help="How long after a prediction its feedback counts.",
            show_default=default("3600"),
        ),
        click.option(
            "--max-contexts",
            type=click.IntRange(1),
            metavar="N",
            help="Contexts with a state of their own.",
            show_default=default("10000"),
        ),
    ]


def spec_options(*, new: bool) -> Callable[[F], F]:
    """The options that set the keys of an application; of a new one, its input type and default output are required."""

    def default(value: str) -> str | None:
        return value if new else None

    public = click.option(
        "--public/--no-public",
        default=None,
        help="Whether it is queried without a key on any address.",
        show_default=default("no"),
    )
    options = [
        *_answer_options(default, required=new),
        *_policy_options(default),
        *_feedback_options(default),
        public,
    ]

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def given_keys(options: dict[str, Any]) -> dict[str, Any]:
    """The keys of an application that the options of `spec_options` set."""
    table = {key: value for key, value in options.items() if value is not None and value != {}}
    if (slo_ms := table.pop("slo_ms", None)) is not None:
        table["latency_slo_s"] = slo_ms / 1000
    if "default_output" in table:
        table["default_output"] = json_or_text(table["default_output"])
    return table


@contextmanager
def known_app(control: ControlClient, name: str, function: FunctionAddress | None = None) -> Iterator[None]:
    """Adds to a 404 from inside the block what would have been right: the nearest application or function."""
    try:
        yield
    except ClipperError as error:
        if error.status == 404:
            _advise(error, control, name, function)
        raise


def _advise(error: Exception, control: ControlClient, name: str, function: FunctionAddress | None) -> None:
    try:
        apps = {str(app["name"]): linked(app) for app in control.apps()}
    except (ClipperError, KeyError):
        return  # the 404 is reported without a suggestion
    if not apps:
        error.add_note("There are no applications here. Make one: clip app create NAME")
    elif name not in apps:
        guess = nearest(name, apps)
        error.add_note(f"Did you mean {guess}?" if guess else f"Applications here: {', '.join(sorted(apps))}")
    elif function is not None:
        advise(error, control, Target(function.project, function.function, function.version))
