"""`clip rollback`, `clip restart`, `clip delete`: changes to a project besides a deploy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clipper.cli.console import FAIL, OK, Output, Part
from clipper.cli.names import Target, known
from clipper.cli.options import confirm, connect, json_option, project_argument, target_argument, yes_option
from clipper.cli.text import plural
from clipper.errors import ClipperError

if TYPE_CHECKING:
    from clipper.control import ControlClient

__all__ = ["delete", "restart", "rollback"]


@click.command()
@project_argument
@click.argument(
    "version",
    metavar="[VERSION]",
    type=click.IntRange(min=1),
    required=False,
    help="The version's number.  [default: the one before]",
)
@json_option
def rollback(project: str, version: int | None, out: Output) -> None:
    """Return to the version before, or to the one given."""
    with connect() as control, known(control, Target(project)):
        result = control.rollback(project, version)
    if out.json:
        out.document(result)
        return
    before = result.get("previous")
    came_from = f" (before: {before})" if before is not None else ""
    out.line((f"{OK} ", "green"), (project, "bold"), f" answers with version {result['version']}{came_from}")
    for function in result.get("functions") or ():
        out.line("  ", (str(function["url"]), "cyan"))
    if before is not None:
        out.line((f"  To undo: clip rollback {project} {before}", "dim"))


@click.command()
@target_argument
@json_option
def restart(target: Target, out: Output) -> int:
    """Start a project's replicas anew, or those of one function.

    One after the other, without dropping a call. A function that gave up after failed starts tries again.
    """
    with connect() as control, known(control, target):
        result = control.restart(target.project, target.function)
    failed = [f for f in result["functions"] if f["state"] == "failed"]
    if out.json:
        out.document(result)
    for function in result["functions"]:
        ready = f"{function['replicas_ready']}/{function['replicas_wanted']} ready"
        mark: Part = (f"{FAIL} ", "red") if function in failed else (f"{OK} ", "green")
        reason = f": {function['reason']}" if function["reason"] else ""
        out.line(mark, (f"{target.project}/{function['name']}", "bold"), f"  {ready}{reason}")
    return 1 if failed else 0


@click.command()
@project_argument
@yes_option
@click.option("--force", is_flag=True, help="Cut off calls that run, also where an earlier delete waits for them.")
@json_option
def delete(project: str, yes: bool, force: bool, out: Output) -> None:
    """Delete a project.

    Its functions stop answering at once, and its versions and secrets are gone. Calls that run may end, within their
    function's graceful_shutdown_timeout_s; the command waits for them. Interrupted, it goes on without you.
    """
    with connect() as control, known(control, Target(project)):
        if not yes:
            confirm(out, f"Delete {_extent(control.project(project))}?")
        if not force and (running := _running(control.project(project))):
            out.note(
                ("… ", "dim"), f"{plural(running, 'call')} may end first (clip delete {project} --force does not wait)"
            )
        result = control.delete_project(project, force=force)
        apps = _asked_by(control, project)
    if out.json:
        out.document(result or {"deleted": project})
    else:
        out.line((f"{OK} ", "green"), f"Deleted {project}")
    if apps:
        out.note(("! ", "yellow"), f"Still linked to its functions: {', '.join(apps)}; see clip app status {apps[0]}")


def _asked_by(control: ControlClient, project: str) -> list[str]:
    """The applications that are linked to functions of the project."""
    try:
        apps = control.apps()
    except ClipperError:
        return []  # the project is deleted all the same
    return [str(app["name"]) for app in apps if any(link.startswith(f"{project}/") for link in app["links"])]


def _running(project: dict[str, Any]) -> int:
    """Calls that were admitted and are not answered."""
    return sum(int(f.get("queue_depth") or 0) + int(f.get("running") or 0) for f in project["functions"])


def _extent(project: dict[str, Any]) -> str:
    functions = [f["name"] for f in project["functions"]]
    return f"{project['name']} with {plural(len(functions), 'function')} ({', '.join(functions)}) and all its versions"
