"""`clip explain`: the latest scaling decision of a function, its inputs, and the last changes."""

from __future__ import annotations

import time
from typing import Any

import click

from clipper.cli.console import Output
from clipper.cli.names import Target, named_function
from clipper.cli.options import connect, function_argument, json_option
from clipper.cli.text import ago, plural, stamp

__all__ = ["explain", "report"]


@click.command()
@function_argument
@json_option
def explain(function: Target, out: Output) -> None:
    """Say why a function has the replicas that it has, and what would change it."""
    with connect() as control, named_function(control, function) as target:
        decisions = control.decisions(target.project, str(target.function))
    if out.json:
        out.document(decisions)
        return
    report(out, decisions)


def report(out: Output, decisions: dict[str, Any]) -> None:
    """Print the latest scaling decision and the last changes of one function."""
    latest = decisions.get("latest")
    if latest is None:
        out.line((str(decisions["function"]), "bold"), f"  {decisions['no_data']}")
    else:
        wanted = plural(latest["wanted"], "replica")
        out.line((str(decisions["function"]), "bold"), f"  {wanted}: ", (str(latest["rule"]), "cyan bold"))
        out.line(f"  {latest['why']}", wrap=True)
        out.line((f"  {' → '.join(latest['steps'])}", "dim"), wrap=True)
        inputs = latest["inputs"]
        out.line(
            f"  now: queued {inputs['queued']} · running {inputs['running']} · ready {inputs['ready']} · "
            f"average {inputs['load_stable']:.3g} ({inputs['load_panic']:.3g} lately) · policy {decisions['source']}, "
            f"decided {ago(latest['at'], time.time())}",
            wrap=True,
        )
        for change in latest["change"]:
            out.line(("  ↳ ", "cyan"), change, wrap=True)
    if not decisions["changes"]:
        out.line("  The number of replicas has not changed yet.")
        return
    out.line()
    out.table(
        ["  WHEN", "REPLICAS", "RULE", "WHY"],
        [
            [f"  {stamp(c['at'])}", f"{c['before']} → {c['wanted']}", (str(c["rule"]), "cyan"), str(c["why"])]
            for c in decisions["changes"]
        ],
    )
