"""Reports the modules that a replica imported from its environment: a zygote of that environment imports them ahead."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Iterable

from clipper.contract.constants import REPORT_VARIABLE, STAGED_PACKAGES

__all__ = ["foreign_modules", "report_modules"]

_MAX_MODULES = 4_000


def foreign_modules(bundle: str) -> list[str]:
    """Loaded modules of the environment and of the standard library, in the order of their import. Modules of the
    bundle are left out, because the next bundle differs, and so are those of the runtime."""
    roots = tuple(_with_separator(sysconfig.get_paths()[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib"))
    excluded = _with_separator(os.path.realpath(bundle))
    found = []
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        origin = getattr(spec, "origin", None)
        if getattr(spec, "name", None) != name or not isinstance(origin, str):
            continue  # an alias, or a module made by code: it cannot be imported by this name
        if origin.startswith(roots) and not origin.startswith(excluded):
            found.append(name)
    return [name for name in found if name.partition(".")[0] not in STAGED_PACKAGES][:_MAX_MODULES]


def report_modules(bundle: str) -> None:
    """Write the names as JSON to the file that REPORT_VARIABLE names, if it is set. Never raises OSError."""
    path = os.environ.pop(REPORT_VARIABLE, "")
    if path:
        _write(path, foreign_modules(bundle))


def _write(path: str, names: Iterable[str]) -> None:
    try:
        with open(path, "w") as file:
            json.dump(list(names), file)
    except OSError:
        pass  # with a full disk, the next start is slow; this replica goes on


def _with_separator(path: str) -> str:
    return path.rstrip(os.sep) + os.sep
