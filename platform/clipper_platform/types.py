"""Identifiers and small values that every layer shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NewType

__all__ = ["BundleDigest", "EnvironmentId", "FunctionId", "ReplicaId"]

ReplicaId = NewType("ReplicaId", str)
BundleDigest = NewType("BundleDigest", str)  # "sha256:…"
EnvironmentId = NewType("EnvironmentId", str)  # digest of the request: Python and requirements


@dataclass(frozen=True, slots=True, order=True)
class FunctionId:
    """`project/function@version`: one function of one version. Without a version, the route decides."""

    project: str
    function: str
    version: int
    path: str = field(init=False, repr=False, compare=False)
    """`project/function`, the value of the metric label `function`: one string that all users of it share."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", f"{self.project}/{self.function}")

    def __str__(self) -> str:
        return f"{self.path}@{self.version}"
