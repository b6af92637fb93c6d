"""A virtual environment on this machine's disk: made by the venv builder, run by the process backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipper_platform.types import EnvironmentId

__all__ = ["VirtualEnvironment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualEnvironment:
    """`python` is the interpreter that runs in it."""

    id: EnvironmentId
    python: Path
    path: Path
