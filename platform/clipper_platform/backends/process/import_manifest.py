"""Import manifests: modules that the first replicas of a project's functions reported and its zygotes import.

There is one for each project and environment: what one project imports must not run in the processes of another."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from clipper_platform.environments.virtual import VirtualEnvironment

__all__ = ["ImportManifest", "build_identity", "manifest_file", "read_report"]

MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z", re.ASCII)
MAX_MODULES_CHARS = 120_000  # fits a message to a zygote; scikit-learn with all that it loads has 25,000
MAX_REPORT_BYTES = 512 * 1024


@dataclass(slots=True)
class ImportManifest:
    """`modules` in the order of their import. `skipped`: top-level name -> why zygotes do not import it."""

    modules: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, environment: VirtualEnvironment, project: str) -> Self:
        """An empty one if there is none."""
        try:
            table = json.loads(manifest_file(environment, project).read_text())
            return cls(_bounded(table["modules"]), {str(k): str(v) for k, v in table["skipped"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def write(self, environment: VirtualEnvironment, project: str) -> None:
        """Write it beside the packages. If it is lost, the next replicas report their modules again."""
        path = manifest_file(environment, project)
        draft = path.with_suffix(f".{os.getpid()}")
        try:
            draft.write_text(json.dumps({"modules": self.modules, "skipped": self.skipped}))
            os.replace(draft, path)
        except OSError:
            pass  # a shared environment may be read-only

    def add(self, names: Sequence[str]) -> bool:
        """Append the names that are new. Returns whether there are any."""
        known = set(self.modules)
        fresh = [name for name in names if name not in known]
        self.modules = _bounded(self.modules + fresh)
        return bool(fresh)

    def importable(self) -> list[str]:
        """The modules without those of skipped packages."""
        return [name for name in self.modules if name.partition(".")[0] not in self.skipped]


def manifest_file(environment: VirtualEnvironment, project: str) -> Path:
    return environment.path / f".clip-modules-{project}.json"


def build_identity(environment: VirtualEnvironment) -> tuple[int, int]:
    """Identifies the build of an environment: another build has other files."""
    for path in (environment.path / "pyvenv.cfg", environment.python):
        try:
            stat = path.stat()
        except OSError:
            continue
        return stat.st_ino, stat.st_mtime_ns
    return 0, 0


def read_report(report: Path) -> list[str]:
    """The names in a report. User code can write that file, so its size is bounded and only names are taken from it."""
    try:
        if report.stat().st_size > MAX_REPORT_BYTES:
            return []
        names = json.loads(report.read_text())
    except (OSError, ValueError):
        return []
    return _bounded(names) if isinstance(names, list) else []


def _bounded(names: Sequence[Any]) -> list[str]:
    """Those that can be names of modules, as many as a message has room for."""
    taken, characters = [], 0
    for name in names:
        if isinstance(name, str) and MODULE_NAME.match(name):
            characters += len(name) + 4
            if characters > MAX_MODULES_CHARS:
                break
            taken.append(name)
    return taken
