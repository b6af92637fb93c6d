"""`clip logs`: what a function printed and logged."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

from clipper.cli.declare import Option
from clipper.cli.options import FunctionArgument, Json, connect
from clipper.cli.problems import UsageProblem
from clipper.contract.constants import DEFAULT_LOG_LINES

if TYPE_CHECKING:
    from clipper.cli.console import Output, Part

_LEVELS = {
    "debug": "dim",
    "info": "green",
    "warning": "yellow",
    "error": "red",
    "critical": "red bold",
}


def logs(
    function: FunctionArgument,
    follow: Annotated[bool, Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    since: Annotated[
        str, Option(metavar="TIME", help="From then on: an age (10m, 2h), an ISO date or Unix seconds.")
    ] = "",
    tail: Annotated[
        int | None,
        Option(min=0, metavar="N", help="The newest N lines only.", show_default="100, all with --since"),
    ] = None,
    json: Json = False,
) -> None:
    """Print a function's log.

    What it wrote to stdout and stderr and by logging, with the request ids. PROJECT/FUNCTION@3 shows version 3 only.
    """
    from clipper.cli.console import Output
    from clipper.cli.names import known, one_function, parse_target

    out = Output(json=json)
    target = parse_target(function)
    moment = _moment(since)
    if tail is None and moment is None:
        tail = DEFAULT_LOG_LINES
    printed = 0
    with connect() as control, known(control, target):
        target = one_function(control, target)
        for record in control.logs(target.project, target.function or "", tail=tail, since=moment, follow=follow):
            if target.version is None or record.get("version") == target.version:
                show(out, record)
                printed += 1
    if not printed and not json:
        out.note(f"No log lines{' in that time' if since else ' yet'}. Call it: clip invoke {target}")


def _moment(since: str) -> float | None:
    from clipper.cli.text import parse_since

    try:
        return parse_since(since, time.time()) if since else None
    except ValueError as error:
        raise UsageProblem(str(error), hint="--since") from None


def show(out: Output, record: dict[str, Any]) -> None:
    """One record; with `--json` a line of JSON. Continuation lines of a message are indented under its first."""
    if out.json:
        out.event(record)
        return
    from clipper.cli.text import clean, clock, stamp

    level = str(record.get("level") or "info").lower()
    moment = float(record.get("ts") or 0)
    parts: list[Part] = [((clock(moment) if out.terminal else stamp(moment)) + " ", "dim")]
    label = _label(record, level)
    parts.append((f"{label:<8} ", _LEVELS.get(level, "") if label == level.upper() else "dim"))
    if request_id := record.get("request_id"):
        parts.append((f"[{request_id}] ", "dim"))
    first, *rest = clean(record.get("message") or "").split("\n")
    out.line(*parts, (first, "red" if level in ("error", "critical") else ""))
    for line in rest:
        out.line(" " * 4, line)


def _label(record: dict[str, Any], level: str) -> str:
    """Where a line came from: its level for `logging`, its stream for what was printed."""
    stream = str(record.get("stream") or "log")
    return stream if stream in ("stdout", "stderr", "system") else level.upper()
