"""Identifiers and small values that every layer shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NewType

__all__ = ["BundleDigest", "EnvironmentId", "FunctionId", "IdRange", "ReplicaId"]

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


@dataclass(frozen=True, slots=True)
class IdRange:
    """Numbers of users and groups that belong to the platform's projects, `first` and `last` included."""

    first: int
    last: int

    @property
    def users(self) -> range:
        """For projects. Each user's group has the number of the user."""
        return range(self.first, (self.first + self.last + 1) // 2)

    @property
    def groups(self) -> range:
        """For bundles."""
        return range((self.first + self.last + 1) // 2, self.last + 1)

    def __str__(self) -> str:
        return f"{self.first}..{self.last}"
