"""`clip app predict` and `clip app label`: one query of an application, and the feedback for it."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipper.cli.app_options import app_argument, json_or_text, known_app
from clipper.cli.console import OK, Output
from clipper.cli.options import connect, json_option, path, usage_error
from clipper.cli.problems import CommandFailed
from clipper.cli.text import as_typed
from clipper.errors import Forbidden, Unauthenticated

if TYPE_CHECKING:
    from clipper.control import ControlClient

__all__ = ["label", "predict"]

# Inputs and labels such as -1 are values, not options.
_NEGATIVE = {"ignore_unknown_options": True}


@click.command(context_settings=_NEGATIVE)
@app_argument
@click.argument(
    "input",
    metavar="[INPUT]",
    required=False,
    help="A list of numbers as JSON, a text, or bytes in base64, as its input type is.",
)
@click.option(
    "--file",
    type=path(allow_dash=True),
    metavar="FILE",
    help="The input from a file: JSON, a text, or the bytes as they are. - is stdin.",
)
@click.option("--context", metavar="CONTEXT", help="A user or a session, which has its own choice of models.")
@click.option("--version", metavar="VERSION", help="Ask this version of the only linked function.")
@json_option
def predict(
    name: str, input: str | None, file: Path | None, context: str | None, version: str | None, out: Output
) -> None:
    """Query an application once.

    The output is alone on stdout; which models made it, how sure they are and the query's id stand on stderr.
    """
    if (input is None) == (file is None):
        raise usage_error("give an INPUT, or --file" if file is None else "give an INPUT or --file, not both", "INPUT")
    with connect() as control, known_app(control, name):
        given = as_typed(input).encode() if input is not None else _content(file)
        app = _known(control, name)
        body: dict[str, Any] = {"input": _input(given, app.get("input_type"), raw=file is not None)}
        more = {"context": context, "version": version}
        body |= {key: value for key, value in more.items() if value is not None}
        answer = control.query_app(name, body, timeout_s=control.timeout_s + app.get("latency_slo_s", 0.0))
    if out.json:
        out.document(answer)
    else:
        _print(out, name, answer)


def _content(file: Path | None) -> bytes:
    if file is None or str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise CommandFailed(f"Cannot read {file}: {error.strerror}", code="unreadable") from error


def _known(control: ControlClient, name: str) -> dict[str, Any]:
    """The application; nothing for a key that may query it only."""
    try:
        return control.app(name)
    except (Forbidden, Unauthenticated):
        return {}


def _input(given: bytes, kind: str | None, *, raw: bool) -> Any:
    """The input as JSON has it: numbers, a text, or base64. `raw`: bytes are not in base64 yet. Raises BadParameter."""
    if kind == "bytes":
        return base64.b64encode(given).decode() if raw else given.decode(errors="replace")
    text = given.decode(errors="replace")
    if kind == "strings":
        return text
    if kind is None:
        return json_or_text(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise usage_error(f"not a list of {kind} as JSON: {error}", "INPUT") from None


def _print(out: Output, name: str, answer: dict[str, Any]) -> None:
    out.line(json.dumps(answer["output"], ensure_ascii=False))
    if answer.get("default"):
        out.note(("! ", "yellow"), f"the default output: {answer.get('default_explanation') or 'no model answered'}")
        return
    facts = []
    if models := answer.get("models"):
        facts.append(f"by {', '.join(models)}")
    if (confidence := answer.get("confidence")) is not None:
        facts.append(f"confidence {confidence:.0%}")
    out.note((" · ".join([*facts, f"query {answer['query_id']}"]), "dim"))
    out.note((f"Was it right? clip app label {name} {answer['query_id']} LABEL", "dim"))


@click.command(context_settings=_NEGATIVE)
@app_argument
@click.argument("query_id", metavar="QUERY_ID", help="The prediction's, from its answer.")
@click.argument("label", metavar="LABEL", help="The right answer: JSON, or a text as it is.")
@json_option
def label(name: str, query_id: str, label: str, out: Output) -> None:
    """Tell what the right answer of a query was, once."""
    with connect() as control, known_app(control, name):
        body = {"query_id": int(query_id) if query_id.isdecimal() else query_id, "label": json_or_text(label)}
        result = control.label_app(name, body)
    if out.json:
        out.document(result)
    elif result.get("duplicate"):
        out.line(
            (f"{OK} ", "green"), f"Query {query_id} of ", (name, "bold"), " had its feedback before: it counts once"
        )
    else:
        out.line((f"{OK} ", "green"), f"Feedback for query {query_id} of ", (name, "bold"), " counts")
