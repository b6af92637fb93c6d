"""Names that a file proposes, made into ones that are allowed: of a project, of a parameter, of a column's field."""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Iterable
from pathlib import Path

from clipper.contract.spec import RESERVED_NAMES

__all__ = ["identifier", "identifiers", "project_name"]

_COMPRESSED = (".gz", ".bz2", ".xz", ".lzma", ".z", ".lz4")


def project_name(path: Path) -> str:
    """From the file's name without its ending, or the directory's."""
    stem = Path(os.path.abspath(path)).name  # of a link its own name
    if path.is_file():
        stem = Path(stem.removesuffix(next((end for end in _COMPRESSED if stem.endswith(end)), ""))).stem
    name = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:63].strip("-_") or "model"
    return f"{name}-model" if name in RESERVED_NAMES else name


def identifier(text: str, otherwise: str = "input") -> str:
    """A name that Python takes, as near to `text` as can be."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")[:60] or otherwise
    if name[0].isdigit():
        name = f"{otherwise}_{name}"
    return f"{name}_" if keyword.iskeyword(name) or name in ("self", "cls") else name


def identifiers(texts: Iterable[str], otherwise: str = "input") -> list[str]:
    """The same for several that stand beside each other: each is a name of its own."""
    found: list[str] = []
    for text in texts:
        wanted = name = identifier(text, otherwise)
        count = 2
        while name in found:
            name, count = f"{wanted}_{count}", count + 1
        found.append(name)
    return found
