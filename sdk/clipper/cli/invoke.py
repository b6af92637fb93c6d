"""`clip invoke`: one invocation, from the command line or from a file."""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipper.cli.console import Output
from clipper.cli.names import Target, named_function
from clipper.cli.options import connect, function_argument, json_option, path, usage_error
from clipper.cli.problems import CommandFailed
from clipper.cli.text import as_typed, clean, duration, size
from clipper.contract.media_types import EVENT_STREAM, JSON, MSGPACK, NPY, OCTET_STREAM
from clipper.lines import media_type

if TYPE_CHECKING:
    from clipper.control import ControlClient

__all__ = ["content_type_of", "invoke", "request_body"]

_CONTENT_TYPES = {
    ".json": JSON,
    ".msgpack": MSGPACK,
    ".mpk": MSGPACK,
    ".npy": NPY,
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}


def _valid_json(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    try:
        json.loads("{}" if text is None else text)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}") from None
    except RecursionError:
        pass  # the platform has its own, typed refusal for JSON this deep
    return text


@click.command()
@function_argument
@click.option(
    "--json-input", metavar="JSON", callback=_valid_json, help='Keyword arguments, as in \'{"text": "hello"}\'.'
)
@click.option(
    "--file",
    type=path(allow_dash=True),
    metavar="FILE",
    help="The body; its ending says what it is (.json, .msgpack, .npy, images; others are bytes). - is stdin.",
)
@click.option("--accept", metavar="TYPE", help="The answer's format, as in application/x-npy.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.001),
    metavar="SECONDS",
    help="Deadline.",
    show_default="the function's own",
)
@json_option
def invoke(
    function: Target,
    json_input: str | None,
    file: Path | None,
    accept: str | None,
    timeout: float | None,
    out: Output,
) -> None:
    """Call a function once and print its answer.

    PROJECT/FUNCTION@3 asks version 3. On a terminal the answer is made pretty; in a pipe it is the bytes as they came.
    """
    body, content_type = request_body(json_input, file)
    with connect() as control, named_function(control, function) as target:
        try:
            if _streams(control, target, accept):
                _print_stream(out, control.stream(str(target), body, content_type))
            else:
                _print_answer(out, _timed(control, target, body, content_type, accept, timeout))
        except Exception as error:
            _advise(error, target, f"{control.location.url}/fn/{target}/schema")
            raise


def request_body(json_input: str | None, file: Path | None) -> tuple[bytes, str]:
    """The body and its content type. Raises BadParameter when both are given, CommandFailed on an unreadable file."""
    if file is None:
        return (as_typed(json_input).encode() if json_input is not None else b"{}"), JSON
    if json_input is not None:
        raise usage_error("give either --json-input or --file, not both", "--file")
    if str(file) == "-":
        data = sys.stdin.buffer.read()
        # Bytes from a pipe that begin like a JSON object are taken as one.
        return data, JSON if data.lstrip()[:1] == b"{" else OCTET_STREAM
    try:
        return file.read_bytes(), content_type_of(file)
    except OSError as error:
        raise CommandFailed(f"Cannot read {file}: {error.strerror}", code="unreadable") from error


def content_type_of(file: Path) -> str:
    """By the file's ending; application/octet-stream for an unknown one."""
    return _CONTENT_TYPES.get(file.suffix.lower(), OCTET_STREAM)


def _streams(control: ControlClient, target: Target, accept: str | None) -> bool:
    if accept:
        return accept == EVENT_STREAM
    return bool(control.schema(str(target)).get("streaming"))


def _timed(
    control: ControlClient, target: Target, body: bytes, content_type: str, accept: str | None, timeout_s: float | None
) -> tuple[Any, float]:
    begun = time.perf_counter()
    answer = control.invoke(str(target), body, content_type=content_type, accept=accept, timeout_s=timeout_s)
    return answer, time.perf_counter() - begun


def _print_answer(out: Output, timed: tuple[Any, float]) -> None:
    """Formatted JSON on a terminal, the raw bytes in a pipe, one document with status and headers for `--json`."""
    answer, seconds = timed
    content_type = media_type(answer.headers)
    if out.json:
        out.document(_document(answer, content_type, seconds))
    elif not out.terminal:
        sys.stdout.buffer.write(answer.content)
        if content_type == JSON:
            sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
    elif content_type == JSON:
        _pretty(out, answer.content)
        _footer(out, answer, seconds)
    else:
        out.line(f"{size(len(answer.content))} of {content_type or 'unknown type'}; redirect to a file to keep it")
        _footer(out, answer, seconds)


def _document(answer: Any, content_type: str, seconds: float) -> dict[str, Any]:
    document: dict[str, Any] = {
        "status": answer.status,
        "content_type": content_type,
        "request_id": answer.headers.get("x-request-id"),
        "version": answer.headers.get("x-clip-version"),
        "seconds": round(seconds, 6),
    }
    if content_type == JSON:
        return document | {"result": json.loads(answer.content)}
    return document | {"result_base64": base64.b64encode(answer.content).decode()}


def _pretty(out: Output, content: bytes) -> None:
    from rich import json as rich_json

    try:
        out.console().print(rich_json.JSON(content.decode(), indent=2))
    except (ValueError, RecursionError):
        out.line(clean(content.decode(errors="replace")))


def _footer(out: Output, answer: Any, seconds: float) -> None:
    facts = [duration(seconds)]
    if version := answer.headers.get("x-clip-version"):
        facts.append(f"version {version}")
    if cache := answer.headers.get("cache-status"):
        facts.append(f"cache: {cache}")
    out.note((" · ".join(facts), "dim"))


def _print_stream(out: Output, items: Any) -> None:
    """Each item as it comes: text unquoted, other values and everything with `--json` as one JSON value per line."""
    for item in items:
        if out.json or not isinstance(item, str):
            out.event(_jsonable(item))
        else:
            out.line(item)


def _jsonable(item: Any) -> Any:
    return base64.b64encode(item).decode() if isinstance(item, (bytes, bytearray, memoryview)) else item


def _advise(error: Exception, target: Target, schema_url: str) -> None:
    """Add what to look at after a failed invocation. The user's traceback is in the log, not in the answer."""
    code, status = getattr(error, "code", ""), getattr(error, "status", 0)
    if code == "schema_mismatch" or status == 422:
        error.add_note(f"What it takes: curl {schema_url}")
    elif status in (500, 502):
        error.add_note(f"The traceback is in its log: clip logs {target}")
