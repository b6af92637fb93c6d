"""The deploy manifest: what a client sends and the platform validates and stores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from clipper.contract.deploys import DeploySpec
from clipper.contract.environment import EnvironmentSpec
from clipper.contract.rules import SpecError, check_name, key_word, unknown_key
from clipper.contract.spec import FunctionSpec

__all__ = ["Manifest"]


_USUAL_DEPLOY = DeploySpec()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What one deploy asks for: the project, its bundle by digest, its environment and its functions."""

    project: str
    bundle: str  # "sha256:" + 64 hexadecimal digits
    environment: EnvironmentSpec
    functions: tuple[FunctionSpec, ...]
    deploy: DeploySpec = _USUAL_DEPLOY

    @classmethod
    def from_dict(cls, table: object) -> Self:
        """Parse and validate a manifest. Raises SpecError naming the key."""
        if not isinstance(table, Mapping):
            raise SpecError("the manifest must be an object", where="manifest")
        known = ("project", "bundle", "environment", "functions")
        for key in table:
            if key not in (*known, "deploy"):
                raise unknown_key(key_word(key), (*known, "deploy"), "manifest")
        for key in known:
            if key not in table:
                raise SpecError(f"{key} is missing", where="manifest", key=key)
        check_name(table["project"], "project", where="manifest")
        bundle = table["bundle"]
        if not isinstance(bundle, str) or not re.fullmatch(r"sha256:[0-9a-f]{64}", bundle):
            raise SpecError('bundle must be "sha256:" and 64 hexadecimal digits', where="manifest", key="bundle")
        raw = table["functions"]
        if not isinstance(raw, (list, tuple)) or not raw:
            raise SpecError("functions must be a list with at least one function", where="manifest", key="functions")
        functions = tuple(FunctionSpec.from_dict(f, where=f"manifest functions[{i}]") for i, f in enumerate(raw))
        seen: set[str] = set()
        for spec in functions:
            if spec.name in seen:
                raise SpecError(f"function {spec.name!r} is declared twice", where="manifest", key="functions")
            seen.add(spec.name)
        environment = EnvironmentSpec.parse(table["environment"], where="manifest environment")
        deploy = DeploySpec.parse(table.get("deploy", {}), [s.name for s in functions], where="manifest deploy")
        return cls(project=table["project"], bundle=bundle, environment=environment, functions=functions, deploy=deploy)

    def to_dict(self) -> dict[str, Any]:
        deploy = self.deploy.to_dict()
        return {
            "project": self.project,
            "bundle": self.bundle,
            "environment": self.environment.to_dict(),
            "functions": [spec.to_dict() for spec in self.functions],
            **({"deploy": deploy} if deploy else {}),
        }
