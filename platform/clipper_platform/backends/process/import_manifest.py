"""The import manifest of an environment: modules that its functions' first replicas reported and its zygotes import."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipper_platform.environments.virtual import VirtualEnvironment

__all__ = ["MODULES_FILE", "bounded", "identity", "keep", "kept", "reported"]

MODULES_FILE = ".clip-modules.json"
"""The file in an environment's directory."""

MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z", re.ASCII)
MAX_MODULES_CHARS = 120_000  # fits a message to a zygote; scikit-learn with all that it loads has 25,000
MAX_REPORT_BYTES = 512 * 1024


def identity(environment: VirtualEnvironment) -> tuple[int, int]:
    """Identifies the build: another build has other files."""
    for path in (environment.path / "pyvenv.cfg", environment.python):
        try:
            stat = path.stat()
        except OSError:
            continue
        return stat.st_ino, stat.st_mtime_ns
    return 0, 0


def keep(environment: VirtualEnvironment, modules: Sequence[str], skipped: Mapping[str, str]) -> None:
    """Write the manifest beside the packages. If it is lost, the next replicas report their modules again."""
    path = environment.path / MODULES_FILE
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        draft.write_text(json.dumps({"modules": list(modules), "skipped": dict(skipped)}))
        os.replace(draft, path)
    except OSError:
        pass  # a shared environment may be read-only


def kept(environment: VirtualEnvironment) -> tuple[list[str], dict[str, str]]:
    """The modules in the order of their import, and the top-level names that are not preloaded, with the reason."""
    try:
        table = json.loads((environment.path / MODULES_FILE).read_text())
        return bounded(table["modules"]), {str(k): str(v) for k, v in table["skipped"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [], {}


def reported(report: Path) -> list[str]:
    """The names in a report. User code can write that file, so its size is bounded and only names are taken from it."""
    try:
        if report.stat().st_size > MAX_REPORT_BYTES:
            return []
        names = json.loads(report.read_text())
    except (OSError, ValueError):
        return []
    return bounded(names) if isinstance(names, list) else []


def bounded(names: Sequence[Any]) -> list[str]:
    """Those that can be names of modules, as many as a message has room for."""
    taken, characters = [], 0
    for name in names:
        if isinstance(name, str) and MODULE_NAME.match(name):
            characters += len(name) + 4
            if characters > MAX_MODULES_CHARS:
                break
            taken.append(name)
    return taken
