"""A launch on this machine: the ids of a `LaunchSpec` resolved into directories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipper_platform.backends.base import LaunchSpec
from clipper_platform.environments.virtual import VirtualEnvironment

__all__ = ["Launch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """`bundle` is the unpacked bundle, which nobody writes to."""

    spec: LaunchSpec
    environment: VirtualEnvironment
    bundle: Path
