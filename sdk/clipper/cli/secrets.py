"""`clip secret …`: environment variables of a project's replicas that are never shown again."""

from __future__ import annotations

import sys

import click

from clipper.cli.console import OK, Output
from clipper.cli.names import Target, known
from clipper.cli.options import connect, json_option, project_argument
from clipper.cli.problems import CommandFailed

__all__ = ["delete", "list_secrets", "set_secret"]


@click.command()
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

    Replicas see it that start from now on. It is never shown again.
    """
    secret = _secret_value(out, name, value)
    with connect() as control, known(control, Target(project)):
        control.put_secret(project, name, secret)
    if out.json:
        out.document({"name": name})
        return
    out.line((f"{OK} ", "green"), f"Set {name} of {project}")
    out.line((f"  Replicas that run keep what they had. To pass it on now: clip deploy --force, in {project}", "dim"))


def _secret_value(out: Output, name: str, given: str | None) -> str:
    if given is not None and given != "-":
        return given
    if given is None and out.interactive:
        answer: str = click.prompt(f"Value of {name}", hide_input=True, err=True)
        return answer
    # One line break at the end is the pipe's (echo, a here-string), not the secret's.
    value = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not value:
        raise CommandFailed(f"No value for {name} on stdin", hint="Give it as an argument, or pipe it in", code="empty")
    return value


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
