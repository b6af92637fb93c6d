"""The deploy manifest: what a client sends and the platform validates and stores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from clipper.contract.deploys import DeploySpec
from clipper.contract.environment import EnvironmentSpec
from clipper.contract.rules import Rule, SpecError, check_name, key_word, unknown_key
from clipper.contract.spec import FunctionSpec
from clipper.contract.variables import parse_variables

__all__ = ["DEFAULT_KEEP_VERSIONS", "KEEP_VERSIONS", "MAX_KEEP_VERSIONS", "PACKAGES", "REBUILT", "Manifest"]

DEFAULT_KEEP_VERSIONS = 20  # a deploy a day keeps almost three weeks
MAX_KEEP_VERSIONS = 1000
KEEP_VERSIONS = Rule(int, low=1, high=MAX_KEEP_VERSIONS)

_USUAL_DEPLOY = DeploySpec()
_REQUIRED = ("project", "bundle", "environment", "functions")
REBUILT = "rebuilt"
"""Among the meanings: when `clip deploy --rebuild` asked for a new environment, in Unix seconds."""

PACKAGES = "packages"
"""Among the meanings: the versions that the environment got when it was built, as in "h11==0.16.0 six==1.17.0"."""

_KNOWN = (*_REQUIRED, "apps", "deploy", "env", "keep_versions", "meanings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What one deploy asks for: the project, its bundle by digest, its environment and its functions.

    `env` are environment variables of its replicas. `keep_versions` is how many of the project's newest versions the
    platform keeps while this one is current. `apps` are the names of the applications that the project's file declares;
    they are no part of a version, and a later deploy tells by them which one the file no longer has.
    """

    project: str
    bundle: str  # "sha256:" + 64 hexadecimal digits
    environment: EnvironmentSpec
    functions: tuple[FunctionSpec, ...]
    deploy: DeploySpec = _USUAL_DEPLOY
    env: Mapping[str, str] = field(default_factory=dict)
    keep_versions: int = DEFAULT_KEEP_VERSIONS
    apps: tuple[str, ...] = ()
    # Set by the platform: what the moving references of the requirements meant at the deploy, REBUILT and PACKAGES.
    meanings: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def from_dict(cls, table: object) -> Self:
        """Parse and validate a manifest. Raises SpecError naming the key."""
        if not isinstance(table, Mapping):
            raise SpecError("the manifest must be an object", where="manifest")
        for key in table:
            if key not in _KNOWN:
                raise unknown_key(key_word(key), _KNOWN, "manifest")
        for key in _REQUIRED:
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
        keep = KEEP_VERSIONS.check("keep_versions", table.get("keep_versions", DEFAULT_KEEP_VERSIONS), "manifest")
        return cls(
            project=table["project"],
            bundle=bundle,
            environment=environment,
            functions=functions,
            deploy=deploy,
            env=parse_variables(table.get("env", {}), where="manifest env"),
            keep_versions=keep,
            apps=_apps(table.get("apps", ())),
            meanings=dict(table.get("meanings", {})),
        )

    def to_dict(self) -> dict[str, Any]:
        deploy = self.deploy.to_dict()
        return {
            "project": self.project,
            "bundle": self.bundle,
            "environment": self.environment.to_dict(),
            "functions": [spec.to_dict() for spec in self.functions],
            **({"deploy": deploy} if deploy else {}),
            **({"env": dict(self.env)} if self.env else {}),
            **({"apps": list(self.apps)} if self.apps else {}),
            **({"meanings": dict(self.meanings)} if self.meanings else {}),
            **({"keep_versions": self.keep_versions} if self.keep_versions != DEFAULT_KEEP_VERSIONS else {}),
        }


def _apps(names: object) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)):
        raise SpecError("apps must be a list of names", where="manifest", key="apps")
    return tuple(check_name(name, "application", where="manifest") for name in names)
