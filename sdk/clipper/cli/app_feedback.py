"""`clip app feedback`: predictions joined with their labels, as a data set for the next model."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Literal

import click

from clipper.cli.app_options import app_argument, known_app
from clipper.cli.console import OK, Output
from clipper.cli.options import connect, json_option, path, usage_error
from clipper.cli.problems import CommandFailed
from clipper.cli.tabular import pyarrow, spooled, write_csv, write_parquet
from clipper.cli.text import parse_since, plural

__all__ = ["feedback"]

Format = Literal["jsonl", "csv", "parquet"]

_ENDINGS: Final[dict[str, Format]] = {".csv": "csv", ".parquet": "parquet"}

# Columns that a table has even where there is no feedback yet.
_COLUMNS: Final = ("time", "query_id", "predicted_at", "context", "input", "label", "output", "default")


def _since(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    try:
        return parse_since(text, time.time()) if text else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@app_argument
@click.option(
    "--since",
    callback=_since,
    metavar="TIME",
    help="From then on: an age (10m, 2h), an ISO date or Unix seconds.",
)
@click.option(
    "--format",
    type=click.Choice(["jsonl", "csv", "parquet"]),
    help="How it is written.",
    show_default="by the ending of --output, else jsonl",
)
@click.option("--output", "-o", type=path(), metavar="FILE", help="Where to.  [default: stdout]")
@json_option
def feedback(name: str, since: float | None, format: Format | None, output: Path | None, out: Output) -> None:
    """Print the predictions that got feedback, with their labels.

    One record for each, oldest first: its time, input, context, label, and the answer and the loss of each model that
    was asked. CSV and Parquet have a column for each model; Parquet needs pyarrow.
    """
    format = format or (_ENDINGS.get(output.suffix.lower(), "jsonl") if output is not None else "jsonl")
    if format == "parquet":
        pyarrow()  # before anything is asked of the platform
        if output is None and sys.stdout.isatty():
            raise usage_error("Parquet is no text for a terminal: name a file with --output", "--format")
    if out.json and output is None and format != "jsonl":
        raise usage_error("--json prints JSON lines; name a file with --output for another format", "--format")
    with connect() as control, known_app(control, name):
        pairs = control.app_feedback(name, since)
        count = _to_file(pairs, format, output) if output is not None else _to_stdout(pairs, format)
    if output is not None and out.json:
        out.document({"application": name, "count": count, "format": format, "file": str(output)})
    elif output is not None:
        out.line((f"{OK} ", "green"), f"{plural(count, 'prediction')} with feedback in ", (str(output), "bold"))
    if not count:
        out.note(
            f"No feedback{' in that time' if since else ' yet'}. Send some: clip app predict {name} INPUT, "
            f"then clip app label {name} QUERY_ID LABEL"
        )


def _to_stdout(pairs: Iterable[Mapping[str, Any]], format: Format) -> int:
    count = _write(pairs, format, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    return count


def _to_file(pairs: Iterable[Mapping[str, Any]], format: Format, output: Path) -> int:
    """The file appears when it is complete. Raises CommandFailed where it cannot be written."""
    try:
        with _replacing(output) as file:
            return _write(pairs, format, file)
    except OSError as error:
        raise CommandFailed(f"Cannot write {output}: {error.strerror}", code="not_writable") from error


@contextmanager
def _replacing(output: Path) -> Iterator[IO[bytes]]:
    part = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def _write(pairs: Iterable[Mapping[str, Any]], format: Format, file: IO[bytes]) -> int:
    if format == "jsonl":
        count = 0
        for count, pair in enumerate(pairs, 1):  # noqa: B007 - the last number is how many there were
            file.write(json.dumps(pair, ensure_ascii=False).encode() + b"\n")
        return count
    with spooled(pairs, _COLUMNS) as table:
        if format == "parquet":
            write_parquet(table, file)
        else:
            write_csv(table, _Text(file))
        return table.rows


class _Text:
    """Text in UTF-8 on a file of bytes, which stays open when this goes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str, /) -> int:
        return self._file.write(text.encode())
