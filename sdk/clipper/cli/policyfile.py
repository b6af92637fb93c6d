"""Autoscaling policies and traces of load as files."""

from __future__ import annotations

import csv
import hashlib
import math
import tomllib
from pathlib import Path
from typing import Any

import click

from clipper.cli.options import path
from clipper.cli.problems import CommandFailed
from clipper.contract.spec import AutoscalingPolicy, SpecError

__all__ = ["policy_argument", "read_policy", "read_trace"]

policy_argument = click.argument("file", metavar="FILE", type=path(), help="A policy, as in autoscaling.toml.")

_LARGEST_FILE = 64 * 1024 * 1024


def read_policy(file: Path) -> tuple[AutoscalingPolicy, dict[str, Any], str]:
    """The policy in a file, its table and the digest of its bytes. Raises SpecError naming the file, CommandFailed."""
    data = _read(file)
    try:
        table = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 text: {error.reason} at byte {error.start}", where=file.name) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SpecError(f"not valid TOML: {error}", where=file.name) from None
    policy = AutoscalingPolicy.parse(table, where=file.name)
    return policy, table, "sha256:" + hashlib.sha256(data).hexdigest()


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise CommandFailed(f"{file} is larger than {_LARGEST_FILE} bytes", code="too_large")
        return file.read_bytes()
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror}", code="unreadable") from None


def read_trace(file: Path) -> tuple[list[float], list[float] | None]:
    """Times in seconds from 0 and, where the file has a second column, invocations per second from each time on.

    A first line without numbers is a heading. Raises SpecError naming the line.
    """
    times: list[float] = []
    rates: list[float] = []
    text = _read(file).decode("utf-8-sig", errors="replace")
    for number, row in enumerate(csv.reader(text.splitlines()), 1):
        if not row:
            continue
        try:
            values = [float(cell) for cell in row[:2]]
        except ValueError:
            if number == 1:
                continue
            raise SpecError(f"line {number} is not numbers: {','.join(row)[:80]!r}", where=file.name) from None
        if not all(math.isfinite(v) for v in values) or (times and values[0] < times[-1]) or values[-1] < 0:
            raise SpecError(f"line {number}: times must ascend and rates be 0 or more", where=file.name)
        times.append(values[0])
        rates += values[1:]
    if not times or len(rates) not in (0, len(times)):
        raise SpecError("write lines of one time each, or of a time and a rate each", where=file.name)
    return [at - times[0] for at in times], rates or None
