"""Autoscaling policies and traces of load as files."""

from __future__ import annotations

import csv
import hashlib
import math
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from clipper.cli.declare import Argument

if TYPE_CHECKING:
    from clipper.contract.spec import AutoscalingPolicy

__all__ = ["PolicyFile", "read_policy", "read_trace"]

PolicyFile = Annotated[Path, Argument(metavar="FILE", help="A policy, as in autoscaling.toml.")]

_LARGEST_FILE = 64 * 1024 * 1024


def read_policy(path: Path) -> tuple[AutoscalingPolicy, dict[str, Any], str]:
    """The policy in a file, its table and the digest of its bytes. Raises SpecError naming the file, CommandFailed."""
    from clipper.contract.spec import AutoscalingPolicy, SpecError

    data = _read(path)
    try:
        table = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 text: {error.reason} at byte {error.start}", where=path.name) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SpecError(f"not valid TOML: {error}", where=path.name) from None
    policy = AutoscalingPolicy.parse(table, where=path.name)
    return policy, table, "sha256:" + hashlib.sha256(data).hexdigest()


def _read(path: Path) -> bytes:
    from clipper.cli.problems import CommandFailed

    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise CommandFailed(f"{path} is larger than {_LARGEST_FILE} bytes", code="too_large")
        return path.read_bytes()
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror}", code="unreadable") from None


def read_trace(path: Path) -> tuple[list[float], list[float] | None]:
    """Times in seconds from 0 and, where the file has a second column, invocations per second from each time on.

    A first line that is no numbers is a heading. Raises SpecError naming the line.
    """
    from clipper.contract.spec import SpecError

    times: list[float] = []
    rates: list[float] = []
    text = _read(path).decode("utf-8-sig", errors="replace")
    for number, row in enumerate(csv.reader(text.splitlines()), 1):
        if not row:
            continue
        try:
            values = [float(cell) for cell in row[:2]]
        except ValueError:
            if number == 1:
                continue
            raise SpecError(f"line {number} is not numbers: {','.join(row)[:80]!r}", where=path.name) from None
        if not all(math.isfinite(v) for v in values) or (times and values[0] < times[-1]) or values[-1] < 0:
            raise SpecError(f"line {number}: times must ascend and rates be 0 or more", where=path.name)
        times.append(values[0])
        rates += values[1:]
    if not times or len(rates) not in (0, len(times)):
        raise SpecError("write lines of one time each, or of a time and a rate each", where=path.name)
    return [at - times[0] for at in times], rates or None
