"""`clip app status` and `clip app explain`: how the models of an application do, and which ones it would ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from clipper.cli.app_options import app_argument, known_app
from clipper.cli.console import Output, Part, state_style
from clipper.cli.options import connect, json_option
from clipper.cli.text import bar, duration, scalar
from clipper.errors import ClipperError

if TYPE_CHECKING:
    from clipper.control import ControlClient

__all__ = ["explain", "status"]


@click.command()
@app_argument
@json_option
def status(name: str, out: Output) -> None:
    """Show how an application and its models are doing.

    Of each model: its state, its share of the next queries, how often it was asked, its mean loss by the feedback that
    came, and how often it agrees with the others.
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
    if facts := _facts(app):
        out.line(f"  {facts}", wrap=True)
    if trouble := app.get("policy_trouble"):
        out.line("  ", (str(trouble), "yellow"), wrap=True)
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
    predictions = int(app.get("predictions") or 0)
    if not predictions:
        return "no queries yet"
    facts = [f"{predictions:,} queries"]
    if defaults := int(app.get("defaults") or 0):
        facts.append(f"{defaults / predictions:.1%} default output")
    facts.append(f"{int(app.get('feedback') or 0):,} with feedback")
    return " · ".join(facts)


def _models(out: Output, links: list[Mapping[str, Any]], outlooks: Mapping[str, Mapping[str, Any]]) -> None:
    rows: list[list[Part]] = []
    for link in links:
        state, outlook = str(link["state"]), outlooks.get(str(link["id"]), {})
        rows.append(
            [
                (f"  {link['id']}", "bold"),
                _share(outlook.get("share")),
                _loss(link.get("loss")),
                _percent(link.get("agreement")),
                f"{int(link.get('predictions') or 0):,}",
                str(link["answers"] or "–"),
                (state, state_style(state) or "yellow"),
            ]
        )
    columns = ["  MODEL", "SHARE", "LOSS", "AGREES", "ASKED", "VERSION", "STATE"]
    out.table(columns, rows, right=("AGREES", "ASKED", "VERSION"))


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
    for_whom = f" for {context}" if context is not None else ""
    out.line((name, "bold"), f"  {explanation['policy']}{for_whom}: ", (str(explanation["choice"]), "cyan"), wrap=True)
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
