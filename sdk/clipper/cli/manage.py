"""`clip rollback`, `restart`, `delete`, `key …`, `secret …`: what changes the platform besides a deploy."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

from clipper.cli.declare import Argument, Option
from clipper.cli.options import Json, ProjectArgument, TargetArgument, connect
from clipper.cli.problems import UsageProblem
from clipper.contract.constants import SCOPES

if TYPE_CHECKING:
    from clipper.cli.console import Output, Part


def rollback(
    project: ProjectArgument,
    version: Annotated[
        int | None, Argument(min=1, metavar="VERSION", help="Which one.", show_default="the one before")
    ] = None,
    json: Json = False,
) -> None:
    """Return to the version before, or to the one given."""
    from clipper.cli.console import OK, Output
    from clipper.cli.names import Target, known, parse_project

    out = Output(json=json)
    name = parse_project(project)
    with connect() as control, known(control, Target(name)):
        result = control.rollback(name, version)
    if json:
        out.document(result)
        return
    before = result.get("previous")
    came_from = f" (before: {before})" if before is not None else ""
    out.line((f"{OK} ", "green"), (name, "bold"), f" answers with version {result['version']}{came_from}")
    for function in result.get("functions") or ():
        out.line("  ", (str(function["url"]), "cyan"))
    if before is not None:
        out.line((f"  To undo: clip rollback {name} {before}", "dim"))


def restart(target: TargetArgument, json: Json = False) -> int:
    """Start a project's replicas anew, or those of one function.

    One after the other, without dropping a call. A function that gave up after failed starts tries again.
    """
    from clipper.cli.console import FAIL, OK, Output
    from clipper.cli.names import known, parse_target

    out = Output(json=json)
    wanted = parse_target(target)
    with connect() as control, known(control, wanted):
        result = control.restart(wanted.project, wanted.function)
    failed = [f for f in result["functions"] if f["state"] == "failed"]
    if json:
        out.document(result)
    for function in result["functions"]:
        ready = f"{function['replicas_ready']}/{function['replicas_wanted']} ready"
        mark: Part = (f"{FAIL} ", "red") if function in failed else (f"{OK} ", "green")
        reason = f": {function['reason']}" if function["reason"] else ""
        out.line(mark, (f"{wanted.project}/{function['name']}", "bold"), f"  {ready}{reason}")
    return 1 if failed else 0


def delete(
    project: ProjectArgument,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete a project.

    What runs is finished first; then its functions stop answering, and its versions and secrets are gone.
    """
    from clipper.cli.console import OK, Output
    from clipper.cli.names import Target, known, parse_project

    out = Output(json=json)
    name = parse_project(project)
    with connect() as control, known(control, Target(name)):
        if not yes:
            _confirm(out, f"Delete {_extent(control.project(name))}?")
        result = control.delete_project(name)
    if json:
        out.document(result or {"deleted": name})
    else:
        out.line((f"{OK} ", "green"), f"Deleted {name}")


def _extent(project: dict[str, Any]) -> str:
    from clipper.cli.text import plural

    functions = [f["name"] for f in project["functions"]]
    return f"{project['name']} with {plural(len(functions), 'function')} ({', '.join(functions)}) and all its versions"


def _confirm(out: Output, question: str) -> None:
    """Return if a person says yes. Raises CommandFailed when nobody can be asked or the answer is no."""
    from clipper.cli.problems import CommandFailed

    if not out.interactive:
        raise CommandFailed(
            "There is no terminal to ask on, so nothing was deleted", hint="Say it with --yes", code="unconfirmed"
        )
    if not _yes(question):
        raise CommandFailed("Nothing was deleted", code="unconfirmed")


def _yes(question: str) -> bool:
    import typer  # for a person, who needs longer for the answer than this takes

    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        raise KeyboardInterrupt from None


def key_create(
    name: Annotated[str, Argument(help="Whose key it is, as in ci or alice.")],
    scope: Annotated[
        list[str] | None,
        Option(help="invoke, deploy or admin; may be repeated.", show_default="invoke"),
    ] = None,
    json: Json = False,
) -> None:
    """Make a key.

    It is shown this once: the platform keeps only its hash.
    """
    from clipper.cli.console import OK, Output

    out = Output(json=json)
    scopes = list(dict.fromkeys(word.strip() for entry in scope or ["invoke"] for word in entry.split(",")))
    if unknown := [s for s in scopes if s not in SCOPES]:
        raise UsageProblem(f"{unknown[0]!r} is not one of {', '.join(SCOPES)}", hint="--scope")
    with connect() as control:
        key = control.create_key(name, scopes)
    if json:
        out.document(key)
        return
    # The key is alone on stdout, so that KEY=$(clip key create ci) works.
    out.note((f"{OK} ", "green"), f"Key {key['name']} ({', '.join(key['scopes'])}), id {key['id']}. Shown this once:")
    out.line((str(key["key"]), "bold"))
    out.note(("  Use it as CLIP_API_KEY, or as Authorization: Bearer KEY.", "dim"))


def key_list(json: Json = False) -> None:
    """List the keys: ids, names and scopes."""
    from clipper.cli.console import Output
    from clipper.cli.text import stamp

    out = Output(json=json)
    with connect() as control:
        keys = control.keys()
    if json:
        out.document({"keys": keys})
        return
    rows: list[list[Part]] = [
        [
            str(key["id"]),
            (str(key["name"]), "bold"),
            ", ".join(key["scopes"]),
            stamp(key.get("created_at")),
            ("revoked", "red") if key.get("revoked_at") else ("active", "green"),
        ]
        for key in keys
    ]
    out.table(["ID", "NAME", "SCOPES", "CREATED", "STATE"], rows)


def key_revoke(
    key_id: Annotated[str, Argument(metavar="ID", help="The key's id, from `clip key list`.")],
    json: Json = False,
) -> None:
    """Revoke a key: it is refused from now on."""
    from clipper.cli.console import OK, Output
    from clipper.errors import ClipperError

    out = Output(json=json)
    with connect() as control:
        try:
            key = control.revoke_key(key_id)
        except ClipperError as error:
            if error.status == 404:
                error.add_note("`clip key list` shows the ids")
            raise
    if json:
        out.document(key)
    else:
        out.line((f"{OK} ", "green"), f"Revoked {key.get('name', key_id)} ({key_id})")


def secret_set(
    project: ProjectArgument,
    name: Annotated[str, Argument(help="The environment variable's name, as in HF_TOKEN.")],
    value: Annotated[
        str | None,
        Argument(help="The value; - reads it from stdin.", show_default="asked for, unseen; stdin in a pipe"),
    ] = None,
    json: Json = False,
) -> None:
    """Set a secret, an environment variable of replicas.

    Replicas see it that start from now on. It is never shown again.
    """
    from clipper.cli.console import OK, Output
    from clipper.cli.names import Target, known, parse_project

    out = Output(json=json)
    project = parse_project(project)
    secret = _secret_value(out, name, value)
    with connect() as control, known(control, Target(project)):
        control.put_secret(project, name, secret)
    if json:
        out.document({"name": name})
        return
    out.line((f"{OK} ", "green"), f"Set {name} of {project}")
    out.line((f"  Replicas that run keep what they had. To pass it on now: clip deploy --force, in {project}", "dim"))


def _secret_value(out: Output, name: str, given: str | None) -> str:
    from clipper.cli.problems import CommandFailed

    if given is not None and given != "-":
        return given
    if given is None and out.interactive:
        return _typed_unseen(name)
    # One line break at the end is the pipe's (echo, a here-string), not the secret's.
    value = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not value:
        raise CommandFailed(f"No value for {name} on stdin", hint="Give it as an argument, or pipe it in", code="empty")
    return value


def _typed_unseen(name: str) -> str:
    from getpass import getpass

    while not (value := getpass(f"Value of {name}: ", sys.stderr)):
        pass
    return value


def secret_list(project: ProjectArgument, json: Json = False) -> None:
    """List the names of a project's secrets."""
    from clipper.cli.console import Output
    from clipper.cli.names import Target, known, parse_project

    out = Output(json=json)
    project = parse_project(project)
    with connect() as control, known(control, Target(project)):
        names = control.secrets(project)
    if json:
        out.document({"secrets": names})
    elif not names:
        out.line(f"{project} has no secrets. Set one: clip secret set {project} NAME")
    for name in names:
        out.line(str(name))


def secret_delete(
    project: ProjectArgument,
    name: Annotated[str, Argument(help="The secret's name.")],
    json: Json = False,
) -> None:
    """Delete a secret; replicas that run keep what they had."""
    from clipper.cli.console import OK, Output
    from clipper.cli.names import Target, known, parse_project

    out = Output(json=json)
    project = parse_project(project)
    with connect() as control, known(control, Target(project)):
        control.delete_secret(project, name)
    if json:
        out.document({"deleted": name})
    else:
        out.line((f"{OK} ", "green"), f"Deleted {name} of {project}")
