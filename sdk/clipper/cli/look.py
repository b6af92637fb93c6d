"""`clip list`, `clip status`, `clip versions`: what is deployed and how it is doing."""

from __future__ import annotations

import time
from typing import Any

import click

from clipper.cli.console import Output, Part, state_style
from clipper.cli.names import Target, known
from clipper.cli.options import connect, json_option, project_argument, target_argument
from clipper.cli.text import ago, duration, one_line, size, stamp
from clipper.errors import NotFound

__all__ = ["list_projects", "status", "versions"]

# A terminal at least this wide has room for URLs in `clip list`.
_WIDE = 110

_EVENTS_SHOWN = 8
_NOTHING_YET = "No projects yet. Start with: clip init demo && clip deploy demo"


@click.command()
@json_option
def list_projects(out: Output) -> None:
    """List what is deployed."""
    with connect() as control:
        projects = control.projects()
    if out.json:
        out.document({"projects": projects})
    elif not projects:
        out.line(_NOTHING_YET)
    else:
        _list(out, projects)


def _list(out: Output, projects: list[dict[str, Any]]) -> None:
    columns = ["FUNCTION", "VERSION", "STATE", "REPLICAS", "UPDATED"]
    with_urls = not out.terminal or out.console().width >= _WIDE
    rows: list[list[Part]] = []
    row: list[Part]
    for project in projects:
        if not project["functions"] and project["version"] is not None:  # its stored version cannot be read
            row = [(str(project["name"]), "bold"), str(project["version"]), _state("failed"), "0/0", ""]
            rows.append([*row, ""] if with_urls else row)
        for function in project["functions"]:
            state = str(function["state"])
            row = [
                (f"{project['name']}/{function['name']}", "bold"),
                str(project["version"]),
                _state(state),
                f"{function['replicas_ready']}/{function['replicas_wanted']}",
                ago(project.get("updated_at"), time.time()),
            ]
            rows.append([*row, str(function["url"])] if with_urls else row)
    out.table([*columns, "URL"] if with_urls else columns, rows, right=("VERSION", "REPLICAS"))


def _state(state: str) -> Part:
    return (state, state_style(state))


@click.command()
@target_argument
@json_option
def status(target: Target, out: Output) -> None:
    """Show how a project or function is doing.

    Its state and the reason, replicas, latency, queue and the newest events.
    """
    with connect() as control, known(control, target):
        project = control.project(target.project)
        functions = project["functions"]
        if target.function is not None:
            functions = [f for f in functions if f["name"] == target.function]
            if not functions:
                raise _no_function(target.project, target.function)
    if out.json:
        out.document(project | {"functions": functions} if target.function is None else functions[0])
        return
    _heading(out, project)
    if isolation := project.get("isolation"):
        out.line((f"  isolation: {isolation}", "dim"), wrap=True)
    if canary := project.get("canary"):
        _canary(out, canary)
    for function in functions:
        _function(out, function)
    _events(out, project.get("events") or [])


def _no_function(project: str, function: str) -> Exception:
    return NotFound(f"project {project!r} has no function {function!r}")


def _heading(out: Output, project: dict[str, Any]) -> None:
    parts: list[Part] = [(str(project["name"]), "bold"), f"  version {project['version']}"]
    if project.get("previous") is not None:
        parts.append((f" (before: {project['previous']})", "dim"))
    parts.append((f", updated {ago(project.get('updated_at'), time.time())}", "dim"))
    out.line(*parts)
    if degraded := project.get("degraded"):
        out.line((str(degraded), "yellow"), wrap=True)


def _canary(out: Output, canary: dict[str, Any]) -> None:
    """Print the shares of both versions while a canary deploy runs."""
    out.line(
        ("◐ canary", "yellow bold"),
        f"  version {canary['version']} gets {canary['share']} % of the calls, version {canary['previous']} gets "
        f"{canary['previous_share']} %: step {canary['step']} of {canary['steps']}, {duration(canary['step_s'])} each",
        wrap=True,
    )
    out.line((f"  of {', '.join(canary['functions'])}; deployment {canary['deployment']}", "dim"))


def _function(out: Output, function: dict[str, Any]) -> None:
    state, replicas = str(function["state"]), function.get("replicas") or []
    ready = sum(r["state"] == "ready" for r in replicas)
    out.line()
    style = state_style(state)
    out.line(("● ", style), (str(function["name"]), "bold"), "  ", (state, style))
    out.line("  ", (str(function["url"]), "cyan"))
    out.line(f"  {_facts(function, ready)}", wrap=True)
    if reason := str(function.get("reason") or ""):
        first, *rest = reason.splitlines()
        out.line("  ", (first, style))
        for line in rest:
            out.line(("  │ ", "dim"), line)
    if lacking := _no_snapshot(function):
        out.line("  ", (lacking, "yellow"), wrap=True)
    if replicas:
        _replicas(out, replicas)


def _no_snapshot(function: dict[str, Any]) -> str:
    """Why replicas start without the snapshot that the function asks for; "" when they do not."""
    snapshot = function.get("snapshot") or {}
    if snapshot.get("state") not in ("refused", "gone"):
        return ""
    retry_s = snapshot.get("retry_in_s")
    if retry_s is None:
        again = "not tried again for this version"
    else:
        again = f"made again when a replica starts{f' in {duration(retry_s)} or later' if retry_s else ''}"
    return f"no snapshot: {snapshot.get('reason')} ({again})"


def _facts(function: dict[str, Any], ready: int) -> str:
    """Replicas, rate, latency, queue and cache hits in one line; figures without data are left out."""
    wanted = function.get("replicas_wanted", len(function.get("replicas") or []))
    facts = [f"{ready}/{wanted} ready"]
    if (rate := function.get("rate_per_s")) is not None:
        facts.append(f"{rate:.1f}/s")
    if latency := function.get("latency"):
        facts += [f"p50 {duration(latency['p50_s'])}", f"p99 {duration(latency['p99_s'])}"]
    facts += [f"queue {function.get('queue_depth', 0)}", f"running {function.get('running', 0)}"]
    cache = function.get("cache") or {}
    if looked := cache.get("hits", 0) + cache.get("misses", 0):
        facts.append(f"cache {cache['hits'] / looked:.0%}")
    return " · ".join(facts)


def _replicas(out: Output, replicas: list[dict[str, Any]]) -> None:
    def up(started_at: float | None) -> str:
        return "–" if started_at is None else duration(max(0.0, time.time() - started_at))

    out.line()
    columns = ["  REPLICA", "STATE", "VERSION", "PID", "UP", "CALLS", "RESTARTS", "MEMORY", "NOW"]
    rows: list[list[Part]] = [
        [
            f"  {replica['id']}",
            _state(str(replica["state"])),
            str(replica.get("version", "–")),
            str(replica.get("pid") or "–"),
            up(replica.get("started_at")),
            str(replica.get("invocations", 0)),
            str(replica.get("restarts", 0)),
            size(replica.get("memory_bytes")),
            str(replica.get("in_flight", 0)),
        ]
        for replica in replicas
    ]
    out.table(columns, rows, right=("VERSION", "PID", "UP", "CALLS", "RESTARTS", "MEMORY", "NOW"))


def _events(out: Output, events: list[dict[str, Any]]) -> None:
    if not events:
        return
    out.line()
    out.line("Events")
    for event in sorted(events, key=lambda e: e.get("at") or 0)[-_EVENTS_SHOWN:]:
        out.line((f"  {stamp(event.get('at'))}  ", "dim"), str(event.get("message") or event.get("kind") or ""))


@click.command()
@project_argument
@json_option
def versions(project: str, out: Output) -> None:
    """List a project's versions, newest first.

    * marks the one that answers.
    """
    with connect() as control, known(control, Target(project)):
        found = control.versions(project)
    if out.json:
        out.document({"versions": found})
        return
    if not found:
        out.line(f"{project} has no versions yet. Start with: clip deploy")
        return
    rows: list[list[Part]] = [
        [
            ("*" if version.get("current") else "", "green"),
            (str(version["number"]), "bold" if version.get("current") else ""),
            _state(str(version["state"])),
            ago(version.get("created_at"), time.time()) if out.terminal else stamp(version.get("created_at")),
            ", ".join(version.get("functions") or ()),
            (str(version.get("bundle") or "").removeprefix("sha256:")[:10], "dim"),
            one_line(version.get("detail") or ""),
        ]
        for version in found
    ]
    out.table(["", "VERSION", "STATE", "CREATED", "FUNCTIONS", "BUNDLE", "DETAIL"], rows, right=("VERSION",))
