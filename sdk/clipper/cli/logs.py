"""`clip logs`: what a function printed and logged."""

from __future__ import annotations

import time
from typing import Any

import click

from clipper.cli.console import Output, Part
from clipper.cli.names import Target, named_function
from clipper.cli.options import connect, function_argument, json_option
from clipper.cli.text import clean, clock, parse_since, stamp
from clipper.contract.constants import DEFAULT_LOG_LINES

__all__ = ["logs", "show"]

_LEVELS = {
    "debug": "dim",
    "info": "green",
    "warning": "yellow",
    "error": "red",
    "critical": "red bold",
}


def _since(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """The Unix time that `--since` means."""
    try:
        return parse_since(text, time.time()) if text else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@function_argument
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option(
    "--since",
    callback=_since,
    metavar="TIME",
    help="From then on: an age (10m, 2h), an ISO date or Unix seconds.",
)
@click.option(
    "--tail",
    type=click.IntRange(min=0),
    metavar="N",
    help="The newest N lines only.",
    show_default=f"{DEFAULT_LOG_LINES}, all with --since",
)
@json_option
def logs(function: Target, follow: bool, since: float | None, tail: int | None, out: Output) -> None:
    """Print a function's log.

    What it wrote to stdout and stderr and by logging, with the request ids. PROJECT/FUNCTION@3 shows version 3 only.
    """
    if tail is None and since is None:
        tail = DEFAULT_LOG_LINES
    printed = 0
    with connect() as control, named_function(control, function) as target:
        for record in control.logs(target.project, target.function or "", tail=tail, since=since, follow=follow):
            if target.version is None or record.get("version") == target.version:
                show(out, record)
                printed += 1
    if not printed and not out.json:
        out.note(f"No log lines{' in that time' if since else ' yet'}. Call it: clip invoke {target}")


def show(out: Output, record: dict[str, Any]) -> None:
    """One record; with `--json` a line of JSON. Continuation lines of a message are indented under its first."""
    if out.json:
        out.event(record)
        return
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
    """The source of a line: its level for `logging`, its stream for printed text."""
    stream = str(record.get("stream") or "log")
    return stream if stream in ("stdout", "stderr", "system") else level.upper()
