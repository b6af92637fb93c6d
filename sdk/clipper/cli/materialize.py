"""`clip materialize`: compute a function's answers beforehand, for every row of a file."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from clipper.cli.console import FAIL, OK, Output
from clipper.cli.names import Target, named_function
from clipper.cli.options import connect, function_argument, json_option, path, usage_error
from clipper.cli.problems import CommandFailed
from clipper.cli.text import ago, duration, plural
from clipper.errors import ConnectionLost, PlatformUnreachable

if TYPE_CHECKING:
    from clipper.cli.materialize_progress import Meter
    from clipper.control import ControlClient
    from clipper.input_rows import InputRows

__all__ = ["materialize"]

PIECE_BYTES: Final = 1024 * 1024
PIECE_ROWS: Final = 5000
POLL_S: Final = 0.25
PATIENCE_S: Final = 60.0
AWAY_S: Final = 1.0
SHOWN_FAILURES: Final = 20
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def _ttl(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not seconds:
        raise click.BadParameter(f"{text!r} is no duration above 0: write 90s, 15m, 12h or 7d")
    return seconds


@click.command()
@function_argument
@click.option(
    "--inputs",
    type=path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Rows of arguments: .jsonl, .csv, .parquet or .npy.  [default: show what was computed]",
)
@click.option("--ttl", metavar="TIME", callback=_ttl, help="How long answers are kept, as in 12h or 7d.")
@click.option(
    "--stale",
    type=click.Choice(["serve", "miss"]),
    default="miss",
    show_default=True,
    help="Until a new version is computed: serve the old answers, marked stale, or none.",
)
@click.option("--cancel", is_flag=True, help="Stop what is computed for this function; answers that are there stay.")
@json_option
def materialize(
    function: Target,
    inputs: Path | None,
    ttl: float | None,
    stale: Literal["serve", "miss"],
    cancel: bool,
    out: Output,
) -> int:
    """Compute answers beforehand and keep them where calls find them.

    The work takes what is idle and yields to calls. It goes on on the platform when this command ends; the same command
    again continues it. Exit code 1 when rows failed.
    """
    if cancel and inputs is not None:
        raise usage_error("--cancel stops what runs; it takes no --inputs", "--cancel")
    if function.version is not None:
        raise usage_error("answers are computed for the version that is called: leave the @version out", "FUNCTION")
    with connect() as control, named_function(control, function) as target:
        if inputs is None:
            jobs = [job for job in control.materializations() if job["function"] == str(target)]
            return _cancel(control, jobs, out) if cancel else _show(jobs, target, out)
        return _compute(control, target, inputs, ttl, stale, out)


def _compute(
    control: ControlClient,
    target: Target,
    file: Path,
    ttl_s: float | None,
    stale: Literal["serve", "miss"],
    out: Output,
) -> int:
    from clipper.cli.materialize_progress import meter
    from clipper.input_rows import InputRows, RowsError

    parameters = control.schema(str(target)).get("parameters") or {}
    try:
        rows = InputRows(file, parameters)
        if next(iter(rows), None) is None:
            raise CommandFailed(f"{file} has no rows", code="no_rows")
        job = control.begin_materialization(str(target), rows.source(), ttl_s=ttl_s, stale=stale)
        if job["received"]:
            out.note((f"Going on: {job['received']:,} rows of {file.name} are on the platform already", "dim"))
        begun = time.monotonic()
        with _kept(out, target, file), meter(out, str(target)) as progress:
            job = _watch(control, _send(control, job, rows, progress), progress)
    except RowsError as error:
        raise CommandFailed(str(error), code="invalid_rows") from None
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror or error}", code="unreadable") from None
    return _report(control, job, rows, out, time.monotonic() - begun)


@contextmanager
def _kept(out: Output, target: Target, file: Path) -> Iterator[None]:
    """After Ctrl-C, say what goes on and how to come back to it."""
    try:
        yield
    except KeyboardInterrupt:
        out.note("The platform goes on with the rows that it has.")
        out.note(("  → ", "cyan"), f"clip materialize {target} --inputs {file}   continues")
        out.note(("  → ", "cyan"), f"clip materialize {target} --cancel   stops it")
        raise


def _send(control: ControlClient, job: dict[str, Any], rows: InputRows, progress: Meter) -> dict[str, Any]:
    """Send the rows that the platform does not have yet."""
    if job["state"] != "receiving":
        for _ in rows:  # read for what is wrong with bad ones
            pass
        return job
    at = 0
    for piece in _pieces(rows):
        if at + len(piece) > job["received"]:
            job = _patiently(job, progress, partial(control.add_rows, job["id"], at, piece))
            progress.show(job)
        at += len(piece)
    return _patiently(job, progress, partial(control.complete_materialization, job["id"]))


def _pieces(rows: Iterable[bytes]) -> Iterator[list[bytes]]:
    piece: list[bytes] = []
    size = 0
    for row in rows:
        piece.append(row)
        size += len(row)
        if size >= PIECE_BYTES or len(piece) >= PIECE_ROWS:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _watch(control: ControlClient, job: dict[str, Any], progress: Meter) -> dict[str, Any]:
    while job["state"] in ("receiving", "running"):
        progress.show(job)
        time.sleep(POLL_S)
        job = _patiently(job, progress, partial(control.materialization, job["id"]))
    progress.show(job)
    return job


def _patiently(job: Mapping[str, Any], progress: Meter, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `ask` returns. A platform that is away may be starting again: it is waited for, PATIENCE_S at most."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except (ConnectionLost, PlatformUnreachable):
            if time.monotonic() >= give_up:
                raise
        progress.show({**job, "waiting": "the platform does not answer"})
        time.sleep(AWAY_S)


def _report(control: ControlClient, job: dict[str, Any], rows: InputRows, out: Output, seconds: float) -> int:
    failures: list[dict[str, Any]] = []
    if job["failed"]:
        found = control.failed_rows(job["id"])
        failures = [{**row, "message": rows.bad.get(row["row"], row["message"])} for row in found]
    if out.json:
        out.document({**job, "seconds": round(seconds, 3), "failures": failures})
    else:
        _print_report(job, failures, out, seconds)
    return 0 if job["state"] == "done" and not job["failed"] else 1


def _print_report(job: Mapping[str, Any], failures: list[dict[str, Any]], out: Output, seconds: float) -> None:
    for row in failures[:SHOWN_FAILURES]:
        out.line((f"{FAIL} ", "red"), f"row {row['row'] + 1:,}: ", (f"{row['code']}: ", "dim"), row["message"])
    if job["failed"] > SHOWN_FAILURES:
        out.line((f"  and {job['failed'] - SHOWN_FAILURES:,} more; --json lists a thousand of them", "dim"))
    if job["state"] == "stopped":
        out.line((f"{FAIL} ", "red bold"), f"Stopped after {plural(job['done'], 'answer')}: {job['reason']}")
        return
    mark = (f"{OK} ", "green bold") if not job["failed"] else (f"{FAIL} ", "red bold")
    rate = f"{job['done'] / seconds:,.0f}/s" if seconds > 0 else ""
    failed = f", {plural(job['failed'], 'row')} failed" if job["failed"] else ""
    out.line(mark, f"{job['done']:,} answers of {job['function']}@{job['version']} are there{failed} ",
             (f"({duration(seconds)}, {rate})", "dim"))  # fmt: skip


def _show(jobs: list[dict[str, Any]], target: Target, out: Output) -> int:
    if out.json:
        out.document({"materializations": jobs})
    elif not jobs:
        out.line(f"Nothing was computed beforehand for {target}")
        out.line(("  → ", "cyan"), f"clip materialize {target} --inputs rows.jsonl")
    else:
        rows = [
            (
                job["id"], f"v{job['version']}", job["state"], f"{job['done']:,}", f"{job['failed']:,}",
                f"{job['total']:,}" if job["total"] is not None else f"{job['received']:,}…",
                ago(job["created_at"], time.time()), job["reason"] or job["waiting"],
            )
            for job in jobs
        ]  # fmt: skip
        out.table(
            ("JOB", "VERSION", "STATE", "DONE", "FAILED", "ROWS", "BEGUN", ""), rows, right=("DONE", "FAILED", "ROWS")
        )
    return 0


def _cancel(control: ControlClient, jobs: list[dict[str, Any]], out: Output) -> int:
    stopped = [control.cancel_materialization(job["id"]) for job in jobs if job["state"] in ("receiving", "running")]
    if out.json:
        out.document({"materializations": stopped})
    else:
        out.line(f"Stopped {plural(len(stopped), 'materialization')}" if stopped else "Nothing runs")
    return 0
