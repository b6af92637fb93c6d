"""A launch on this machine: the ids of a `LaunchSpec` resolved into directories, and how its process is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipper_platform.backends.base import LaunchSpec
from clipper_platform.environments.virtual import VirtualEnvironment

__all__ = ["Launch", "LaunchPlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """`bundle` is the unpacked bundle, which no process writes to."""

    spec: LaunchSpec
    environment: VirtualEnvironment
    bundle: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """How a replica's process is run."""

    argv: tuple[str, ...]  # `--channel fd:N` is appended
    env: dict[str, str]
    tmp: Path  # removed with the replica
    mark: frozenset[bytes]  # environment entries that all its descendants share
