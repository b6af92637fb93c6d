"""`clip app status` and `clip app explain`: how the models of an application do, and which ones it would ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from clipper.cli.app_options import app_argument, known_app
from clipper.cli.console import Output, Part, state_style
from clipper.cli.options import connect, json_option
from clipper.cli.text import bar, duration, plural, scalar
from clipper.errors import ClipperError

if TYPE_CHECKING:
    from clipper.control import ControlClient

__all__ = ["explain", "status"]


@click.command()
@app_argument
@json_option
def status(name: str, out: Output) -> None:
    """Show how an application and its models are doing.

    Of each model: its share of the next queries, its mean loss by the newest feedback, how often it agrees with the
    others, how often it was asked and what part of that it answered in time, and its state.
    """
    with connect() as control, known_app(control, name):
        app = control.app(name)
        outlooks = {} if out.json else _outlooks(control, name)
    if out.json:
        out.document(app)
        return
    out.line(
        (name, "bold"),
        f"  {app['input_type']} · {app['policy']} · answers within {duration(app['latency_slo_s'])}, "
        f"else {scalar(app['default_output'])}",
        wrap=True,
    )
    out.line("  ", (str(app["url"]), "cyan"))
    out.line(f"  {_facts(app)}", wrap=True)
    if notice := app.get("notice"):
        out.line("  ", (str(notice), "yellow"), wrap=True)
    out.line()
    if app["links"]:
        _models(out, app["links"], outlooks)
    else:
        out.line("  No model is linked: every query gets the default output.")
        out.line(("  Link one: ", "dim"), f"clip app link {name} PROJECT/FUNCTION")


def _outlooks(control: ControlClient, name: str) -> dict[str, Mapping[str, Any]]:
    """What the policy thinks of each model; nothing where it cannot say (a policy of the user's own may be away)."""
    try:
        return {str(outlook["model"]): outlook for outlook in control.explain_app(name)["models"]}
    except ClipperError:
        return {}


def _facts(app: Mapping[str, Any]) -> str:
    """Volume, defaults and feedback in one line; figures without data are left out."""
    defaults, feedback = app["defaults"], app["feedback"]
    queries = app["predictions"] + defaults
    if not queries:
        return "no queries yet"
    facts = [f"{queries:,} queries"] + ([f"{defaults / queries:.1%} got the default output"] if defaults else [])
    facts.append(f"{feedback['joined']:,} with feedback")
    facts += [f"{feedback[kind]:,} {kind}" for kind in ("duplicate", "unknown", "invalid") if feedback[kind]]
    if contexts := app["contexts"]:
        facts.append(plural(contexts, "context"))
    return " · ".join(facts)


def _models(out: Output, links: list[Mapping[str, Any]], outlooks: Mapping[str, Mapping[str, Any]]) -> None:
    rows: list[list[Part]] = []
    for link in links:
        state, outlook = str(link["state"]), outlooks.get(str(link["id"]), {})
        rows.append(
            [
                (f"  {link['id']}", "bold"),
                _share(outlook.get("share")),
                _loss(link["recent_loss"]),
                _percent(link["agreement"]),
                f"{link['asked']:,}",
                _percent(link["answered"] / link["asked"] if link["asked"] else None),
                str(link["answers"] or "–"),
                (state, state_style(state) or "yellow"),
            ]
        )
    columns = ["  MODEL", "SHARE", "LOSS", "AGREES", "ASKED", "ANSWERED", "VERSION", "STATE"]
    out.table(columns, rows, right=("AGREES", "ASKED", "ANSWERED", "VERSION"))


def _share(share: float | None) -> Part:
    return "–" if share is None else (f"{bar(share)} {share:>4.0%}", "cyan")


def _loss(loss: float | None) -> Part:
    return "–" if loss is None else (f"{bar(loss)} {loss:.3f}", "green" if loss < 0.25 else "yellow")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


@click.command()
@app_argument
@click.option("--context", metavar="CONTEXT", help="For this user or session.  [default: for one that is new]")
@json_option
def explain(name: str, context: str | None, out: Output) -> None:
    """Say which models an application would ask now, and why."""
    with connect() as control, known_app(control, name):
        explanation = control.explain_app(name, context)
    if out.json:
        out.document(explanation)
        return
    for_whom = "" if context is None else f" for {context}" + ("" if explanation["known"] else " (new)")
    out.line((name, "bold"), f"  {explanation['policy']}{for_whom}: ", (str(explanation["choice"]), "cyan"), wrap=True)
    if notice := explanation["notice"]:
        out.line("  ", (str(notice), "yellow"), wrap=True)
    if not explanation["models"]:
        out.line(("  Link a model: ", "dim"), f"clip app link {name} PROJECT/FUNCTION")
        return
    out.line()
    rows: list[list[Part]] = [
        [
            (f"  {outlook['model']}", "bold"),
            _share(outlook["share"]),
            _loss(outlook["loss"]),
            f"{outlook['feedbacks']:,.5g}",
            str(outlook["why"]),
        ]
        for outlook in explanation["models"]
    ]
    out.table(["  MODEL", "SHARE", "LOSS", "FEEDBACK", "WHY"], rows, right=("FEEDBACK",))
