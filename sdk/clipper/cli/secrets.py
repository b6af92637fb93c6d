"""`clip secret …`: environment variables of a project's replicas that are never shown again."""

from __future__ import annotations

import sys

import click

from clipper.cli.console import OK, Output
from clipper.cli.names import Target, known
from clipper.cli.options import connect, json_option, project_argument
from clipper.cli.problems import CommandFailed
from clipper.cli.text import as_typed

__all__ = ["delete", "list_secrets", "set_secret"]


class _SetSecret(click.Command):
    """Takes a value that begins with `-`, as generated passwords and PEM files do, for a value and not for options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = {name for parameter in self.get_params(ctx) for name in parameter.opts if name.startswith("-")}
        words = [arg for arg in args if arg not in options]
        if "--" not in args and len(words) == 3 and words[2].startswith("-") and not words[0].startswith("-"):
            args = [*(arg for arg in args if arg in options), "--", *words]
        return super().parse_args(ctx, args)


@click.command(cls=_SetSecret)
@project_argument
@click.argument("name", metavar="NAME", help="The environment variable's name, as in HF_TOKEN.")
@click.argument(
    "value",
    metavar="[VALUE]",
    required=False,
    help="The value; - reads it from stdin.  [default: asked for, unseen; stdin in a pipe]",
)
@json_option
def set_secret(project: str, name: str, value: str | None, out: Output) -> None:
    """Set a secret, an environment variable of replicas.

    Replicas see it that start from now on; clip restart PROJECT passes it on to those that run. It is never shown
    again.
    """
    secret = _secret_value(out, name, value)
    with connect() as control, known(control, Target(project)):
        control.put_secret(project, name, secret)
    if out.json:
        out.document({"name": name})
        return
    out.line((f"{OK} ", "green"), f"Set {name} of {project}")
    out.line((f"  Replicas that run keep what they had. To pass it on now: clip restart {project}", "dim"))


def _secret_value(out: Output, name: str, given: str | None) -> str:
    if given is not None and given != "-":
        return as_typed(given)
    if given is None and out.interactive:
        answer: str = click.prompt(f"Value of {name}", hide_input=True, err=True)
        return answer
    value = _piped(name, sys.stdin.buffer.read())
    if not value:
        raise CommandFailed(f"No value for {name} on stdin", hint="Give it as an argument, or pipe it in", code="empty")
    return value


def _piped(name: str, data: bytes) -> str:
    """A secret from a pipe. The line break that ends a single line is the pipe's (echo, a here-string); a text of
    several lines, such as a PEM file, is kept byte for byte."""
    try:
        value = data.decode()
    except UnicodeDecodeError as error:
        raise CommandFailed(
            f"The value of {name} is not UTF-8: {error.reason}",
            hint="An environment variable is text; pipe binary data through base64",
            code="not_text",
        ) from None
    line = value.removesuffix("\n").removesuffix("\r")
    return value if "\n" in line else line


@click.command()
@project_argument
@json_option
def list_secrets(project: str, out: Output) -> None:
    """List the names of a project's secrets."""
    with connect() as control, known(control, Target(project)):
        names = control.secrets(project)
    if out.json:
        out.document({"secrets": names})
    elif not names:
        out.line(f"{project} has no secrets. Set one: clip secret set {project} NAME")
    for name in names:
        out.line(str(name))


@click.command()
@project_argument
@click.argument("name", metavar="NAME", help="The secret's name.")
@json_option
def delete(project: str, name: str, out: Output) -> None:
    """Delete a secret; replicas that run keep what they had."""
    with connect() as control, known(control, Target(project)):
        control.delete_secret(project, name)
    if out.json:
        out.document({"deleted": name})
    else:
        out.line((f"{OK} ", "green"), f"Deleted {name} of {project}")
