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
    """Say why a function has the replicas that it has, what would change it, and how batches are made."""
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
    if decisions.get("batches") is not None:
        _report_batches(out, decisions["batches"])
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


# Why a batch was sent, in the words of the report, in the order of the report.
_SENT = {
    "full": "full",
    "lead": "ahead of the end of the one before",
    "no_company": "no company expected",
    "joined": "all expected had come",
    "waited": "waited long enough",
    "objective": "the objective allowed no more",
}


def _report_batches(out: Output, batches: dict[str, Any]) -> None:
    limit, most, budget_s = batches["limit"], batches["max_batch_size"], batches["budget_s"]
    if not batches["batches"]:
        out.line("  batches: none yet", (f", of {most} at most", "dim"))
        return
    if limit >= most:
        why = "max_batch_size"
    elif budget_s is None:
        why = batches["policy"]
    else:
        why = f"{batches['policy']}: a batch may run for {budget_s * 1000:.3g} ms of the objective"
    out.line(
        ("  batches", "bold"),
        f" of {batches['invocations'] / batches['batches']:.3g} on average, at most {limit} ({why})",
    )
    if batches["base_s"] is not None:
        base, each = batches["base_s"] * 1000, batches["per_item_s"] * 1000
        out.line((f"  one of n takes about {base:.3g} + n · {each:.3g} ms", "dim"), wrap=True)
    sent = [f"{words} {n / batches['batches']:.0%}" for key, words in _SENT.items() if (n := batches["sent"].get(key))]
    out.line(f"  sent: {' · '.join(sent)}", wrap=True)
    if not batches["adaptive"]:
        return
    if batches["waits"]:
        waited_ms, joined = batches["waited_s"] / batches["waits"] * 1000, batches["joined"] / batches["waits"]
        out.line(
            f"  waited: {plural(batches['waits'], 'time')}, {waited_ms:.3g} ms on average, for {joined:.3g} more "
            "invocations each time",
            wrap=True,
        )
    else:
        why = "nobody is expected back soon after an answer"
        if batches["returning"]:
            why = "waiting costs more than it gains"
        out.line(f"  waited: never ({why})", wrap=True)
