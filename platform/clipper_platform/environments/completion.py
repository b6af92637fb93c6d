"""The record of a finished build: a file in the environment, written last, which says what was installed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["COMPLETE", "installed_packages", "write_record"]

COMPLETE: Final = ".complete"
"""A directory without it is an interrupted build."""

_OF_AN_INDEX: Final = re.compile(r"[^\s@]+==\S+\Z")


def write_record(environment: Path, record: Mapping[str, Any]) -> None:
    """Written whole and onto the disk, so that it is never there without what it stands for."""
    draft = environment / f"{COMPLETE}.draft"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, environment / COMPLETE)
    directory = os.open(environment, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def installed_packages(environment: Path) -> tuple[str, ...]:
    """Those that came from an index, as in "six==1.17.0", sorted; none where the environment is not complete."""
    try:
        record = json.loads((environment / COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    return tuple(sorted(line for line in record.get("packages", ()) if _OF_AN_INDEX.match(line)))
