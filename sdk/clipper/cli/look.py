"""`clip list`, `clip status`, `clip versions`: what is deployed and how it is doing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from clipper.cli.options import Json, ProjectArgument, TargetArgument, connect

if TYPE_CHECKING:
    from clipper.cli.console import Output, Part

# A terminal at least this wide has room for URLs in `clip list`.
_WIDE = 110

_EVENTS_SHOWN = 8
_NOTHING_YET = "No projects yet. Start with: clip init demo && clip deploy demo"


def list_projects(json: Json = False) -> None:
    """List what is deployed."""
    from clipper.cli.console import Output

    out = Output(json=json)
    with connect() as control:
        projects = control.projects()
    if json:
        out.document({"projects": projects})
    elif not projects:
        out.line(_NOTHING_YET)
    else:
        _list(out, projects)


def _list(out: Output, projects: list[dict[str, Any]]) -> None:
    from clipper.cli.text import ago

    columns = ["FUNCTION", "VERSION", "STATE", "REPLICAS", "UPDATED"]
    with_urls = not out.terminal or out.console().width >= _WIDE
    rows: list[list[Part]] = []
    for project in projects:
        for function in project["functions"]:
            state = str(function["state"])
            row: list[Part] = [
                (f"{project['name']}/{function['name']}", "bold"),
                str(project["version"]),
                _state(state),
                f"{function['replicas_ready']}/{function['replicas_wanted']}",
                ago(project.get("updated_at"), time.time()),
            ]
            rows.append([*row, str(function["url"])] if with_urls else row)
    out.table([*columns, "URL"] if with_urls else columns, rows, right=("VERSION", "REPLICAS"))


def _state(state: str) -> Part:
    from clipper.cli.console import state_style

    return (state, state_style(state))


def status(target: TargetArgument, json: Json = False) -> None:
    """Show how a project or function is doing.

    Its state and the reason, replicas, latency, queue and the newest events.
    """
    from clipper.cli.console import Output
    from clipper.cli.names import known, parse_target

    out = Output(json=json)
    wanted = parse_target(target)
    with connect() as control, known(control, wanted):
        project = control.project(wanted.project)
        functions = project["functions"]
        if wanted.function is not None:
            functions = [f for f in functions if f["name"] == wanted.function]
            if not functions:
                raise _no_function(wanted.project, wanted.function)
    if json:
        out.document(project | {"functions": functions} if wanted.function is None else functions[0])
        return
    _heading(out, project)
    if canary := project.get("canary"):
        _canary(out, canary)
    for function in functions:
        _function(out, function)
    _events(out, project.get("events") or [])


def _no_function(project: str, function: str) -> Exception:
    from clipper.errors import NotFound

    return NotFound(f"project {project!r} has no function {function!r}")


def _heading(out: Output, project: dict[str, Any]) -> None:
    from clipper.cli.text import ago

    parts: list[Part] = [(str(project["name"]), "bold"), f"  version {project['version']}"]
    if project.get("previous") is not None:
        parts.append((f" (before: {project['previous']})", "dim"))
    parts.append((f", updated {ago(project.get('updated_at'), time.time())}", "dim"))
    out.line(*parts)


def _canary(out: Output, canary: dict[str, Any]) -> None:
    """Which version gets what, while a deploy compares two."""
    from clipper.cli.text import duration

    out.line(
        ("◐ canary", "yellow bold"),
        f"  version {canary['version']} gets {canary['share']} % of the calls, version {canary['previous']} gets "
        f"{canary['previous_share']} %: step {canary['step']} of {canary['steps']}, {duration(canary['step_s'])} each",
        wrap=True,
    )
    out.line((f"  of {', '.join(canary['functions'])}; deployment {canary['deployment']}", "dim"))


def _function(out: Output, function: dict[str, Any]) -> None:
    from clipper.cli.console import state_style

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
    """Why its replicas start without the snapshot that it asks for; "" when they need not."""
    from clipper.cli.text import duration

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
    """One line of figures: replicas, rate, latency, queue, cache hits; what is not measured is left out."""
    from clipper.cli.text import duration

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
    from clipper.cli.text import duration, size

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
    from clipper.cli.text import stamp

    if not events:
        return
    out.line()
    out.line("Events")
    for event in sorted(events, key=lambda e: e.get("at") or 0)[-_EVENTS_SHOWN:]:
        out.line((f"  {stamp(event.get('at'))}  ", "dim"), str(event.get("message") or event.get("kind") or ""))


def versions(project: ProjectArgument, json: Json = False) -> None:
    """List a project's versions, newest first.

    * marks the one that answers.
    """
    from clipper.cli.console import Output
    from clipper.cli.names import Target, known, parse_project
    from clipper.cli.text import ago, one_line, stamp

    out = Output(json=json)
    name = parse_project(project)
    with connect() as control, known(control, Target(name)):
        found = control.versions(name)
    if json:
        out.document({"versions": found})
        return
    if not found:
        out.line(f"{name} has no versions yet. Start with: clip deploy")
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
