"""A project as declared: `clip.toml`, its decorators and the files that it names, merged and validated.

No code of the project is run. The source of each option's value is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from clipper.contract.applications import ApplicationSpec
from clipper.contract.deploys import DeploySpec
from clipper.contract.manifest import DEFAULT_KEEP_VERSIONS, KEEP_VERSIONS, Manifest
from clipper.contract.spec import (
    ENTRYPOINT_PATTERN,
    AutoscalingPolicy,
    EnvironmentSpec,
    FunctionSpec,
    SpecError,
    check_name,
    nearest,
)
from clipper.contract.variables import parse_variables
from clipper.discovery import Discovered, SourceModule, read_module
from clipper.project_apps import app_provenance, parse_apps
from clipper.project_files import PROJECT_FILE, read_table, read_toml
from clipper.requirement_files import read_requirements

__all__ = ["Project", "load_project"]

DEFAULT_MODULE: Final = "app"

_POLICY_KEYS: Final = frozenset(f.name for f in fields(AutoscalingPolicy))


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """`provenance[function][key]` says where the value came from, for every key of the function and of its policy:
    "clip.toml", "decorator (app.py:12)", the name of a policy file, or "default".
    """

    directory: Path
    name: str
    environment: EnvironmentSpec
    functions: tuple[FunctionSpec, ...]
    provenance: Mapping[str, Mapping[str, str]]
    deploy: DeploySpec = field(default_factory=DeploySpec)
    deploy_provenance: Mapping[str, str] = field(default_factory=dict)  # as `provenance` does, for keys of `deploy`
    environment_provenance: Mapping[str, str] = field(default_factory=dict)  # and for those of `environment`
    env: Mapping[str, str] = field(default_factory=dict)
    keep_versions: int = DEFAULT_KEEP_VERSIONS
    keep_versions_provenance: str = "default"
    apps: tuple[ApplicationSpec, ...] = ()
    apps_provenance: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # as `provenance` does, for `apps`

    def manifest(self, bundle_digest: str) -> Manifest:
        """The manifest of a deployment of this bundle. Raises SpecError for an invalid digest."""
        manifest = Manifest(
            project=self.name,
            bundle=bundle_digest,
            environment=self.environment,
            functions=self.functions,
            deploy=self.deploy,
            env=self.env,
            keep_versions=self.keep_versions,
            apps=tuple(spec.name for spec in self.apps),
        )
        return Manifest.from_dict(manifest.to_dict())


def load_project(directory: str | Path) -> Project:
    """Read and validate the project in `directory`. Raises SpecError naming the file, the key and the fix."""
    directory = Path(directory).resolve()
    table = read_table(directory)
    _check_keys(table, ("name", "keep_versions", "environment", "env", "functions", "deploy", "apps"), PROJECT_FILE)
    if "name" not in table:
        raise SpecError(f'name is missing: write name = "{_suggested_name(directory)}"', where=PROJECT_FILE, key="name")
    name = check_name(table["name"], "project", where=PROJECT_FILE)
    environment = _environment(directory, table.get("environment", {}))
    merged = _functions(directory, table.get("functions", {}))
    return Project(
        directory=directory,
        name=name,
        environment=environment,
        functions=tuple(spec for spec, _ in merged),
        provenance={spec.name: origin for spec, origin in merged},
        deploy=DeploySpec.parse(
            table.get("deploy", {}), [spec.name for spec, _ in merged], where=f"{PROJECT_FILE} [deploy]"
        ),
        deploy_provenance={
            f.name: PROJECT_FILE if f.name in table.get("deploy", {}) else "default" for f in fields(DeploySpec)
        },
        environment_provenance=_environment_provenance(table.get("environment", {})),
        env=parse_variables(table.get("env", {}), where=f"{PROJECT_FILE} [env]"),
        keep_versions=KEEP_VERSIONS.check(
            "keep_versions", table.get("keep_versions", DEFAULT_KEEP_VERSIONS), PROJECT_FILE
        ),
        keep_versions_provenance=PROJECT_FILE if "keep_versions" in table else "default",
        apps=parse_apps(table.get("apps", {}), name, [spec.name for spec, _ in merged]),
        apps_provenance=app_provenance(table.get("apps", {})),
    )


def _functions(directory: Path, tables: object) -> list[tuple[FunctionSpec, dict[str, str]]]:
    """Each function of the project and the source of each of its keys. Raises SpecError where there is none."""
    if not isinstance(tables, dict):
        raise SpecError("functions must be tables: [functions.NAME]", where=PROJECT_FILE, key="functions")
    merged = [_merge(directory, entry) for entry in _entries(directory, tables)]
    if not merged:
        raise SpecError(
            f"the project has no function: decorate one in {DEFAULT_MODULE}.py with @clipper.function(), "
            'or add [functions.NAME] with entrypoint = "module:Name"',
            where=PROJECT_FILE,
            key="functions",
        )
    return merged


def _suggested_name(directory: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", directory.name).strip("-_")[:63] or "demo"


def _check_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = tuple(known)
    for key in table:
        if key not in known:
            guess = nearest(key, known)
            hint = f"did you mean {guess!r}?" if guess else f"known keys: {', '.join(known)}"
            raise SpecError(f"unknown key {key!r}; {hint}", where=where, key=key)


def _environment(directory: Path, table: object) -> EnvironmentSpec:
    where = f"{PROJECT_FILE} [environment]"
    if isinstance(table, dict) and all(_is_text(table.get(key, [])) for key in ("requirements", "constraints")):
        read = read_requirements(directory, table.get("requirements", []), table.get("constraints", []), where=where)
        table = {**table, "requirements": list(read.lines), "constraints": list(read.constraints)}
    return EnvironmentSpec.parse(table, where=where)


def _environment_provenance(table: Mapping[str, Any]) -> dict[str, str]:
    sources = {f.name: PROJECT_FILE if f.name in table else "default" for f in fields(EnvironmentSpec)}
    for key in ("requirements", "constraints"):
        if isinstance(table.get(key), str):
            sources[key] = table[key]  # the name of a file
    return sources


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(line, str) for line in value))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One function before merging: its table in the file and its decorator; either may be missing."""

    name: str
    entrypoint: str
    table: Mapping[str, Any] | None
    found: Discovered | None


def _entries(directory: Path, tables: Mapping[str, Any]) -> list[_Entry]:
    """Functions in a stable order: those of the file in its order, then the other decorated ones in theirs."""
    modules: dict[str, SourceModule] = {}

    def module(name: str, where: str) -> SourceModule:
        if name not in modules:
            modules[name] = read_module(directory, name, where=where)
        return modules[name]

    if (directory / f"{DEFAULT_MODULE}.py").is_file():
        module(DEFAULT_MODULE, PROJECT_FILE)
    for name, table in tables.items():
        where = f"{PROJECT_FILE} [functions.{name}]"
        check_name(name, "function", where=where)
        if not isinstance(table, dict):
            raise SpecError(f"functions.{name} must be a table: [functions.{name}]", where=PROJECT_FILE, key=name)
        _check_keys(table, FunctionSpec.option_names(), where)
        if "entrypoint" in table:
            source, target = _split_entrypoint(table["entrypoint"], where)
            module(source, where).check_target(target, where=where)
    decorated = _decorated(modules.values())
    entries = [_from_table(name, table, decorated) for name, table in tables.items()]
    by_file = {entry.entrypoint for entry in entries}
    for found in decorated.values():
        if found.entrypoint in by_file:
            continue
        if found.name in tables:
            raise SpecError(
                f"the name {found.name!r} is taken by {PROJECT_FILE} [functions.{found.name}], which runs "
                f"{tables[found.name]['entrypoint']}; rename one of them",
                where=found.where,
                key="name",
            )
        entries.append(_Entry(name=found.name, entrypoint=found.entrypoint, table=None, found=found))
    return entries


def _decorated(modules: Iterable[SourceModule]) -> dict[str, Discovered]:
    decorated: dict[str, Discovered] = {}
    for module in modules:
        for found in module.functions:
            if (other := decorated.get(found.name)) is not None:
                raise SpecError(
                    f"the name {found.name!r} is taken by {other.file}:{other.line}; give one of them name=...",
                    where=found.where,
                    key="name",
                )
            decorated[found.name] = found
    return decorated


def _split_entrypoint(entrypoint: object, where: str) -> tuple[str, str]:
    if not isinstance(entrypoint, str) or not ENTRYPOINT_PATTERN.match(entrypoint):
        raise SpecError(
            f'entrypoint = {entrypoint!r} is not allowed: write "module:Name", as in "app:Classify"',
            where=where,
            key="entrypoint",
        )
    source, _, target = entrypoint.partition(":")
    return source, target


def _from_table(name: str, table: Mapping[str, Any], decorated: Mapping[str, Discovered]) -> _Entry:
    where = f"{PROJECT_FILE} [functions.{name}]"
    if table.get("name", name) != name:
        raise SpecError(
            f"name = {table['name']!r} contradicts the table's own name; rename the table", where=where, key="name"
        )
    if "entrypoint" in table:
        entrypoint = table["entrypoint"]
        found = next((f for f in decorated.values() if f.entrypoint == entrypoint), None)
        return _Entry(name=name, entrypoint=entrypoint, table=table, found=found)
    found = decorated.get(name)
    if found is None:
        # Decorators name functions by __name__, so a class `Classify` is near `classify` but is not it.
        guess = next((f for f in decorated.values() if f.name.lower() == name.lower()), None)
        guess = guess or decorated.get(nearest(name, decorated) or "")
        hint = (
            f'add entrypoint = "{guess.entrypoint}", or rename the table to [functions.{guess.name}]'
            if guess
            else f'add entrypoint = "{DEFAULT_MODULE}:Name"'
        )
        raise SpecError(f"no decorated function has the name {name!r}; {hint}", where=where, key="entrypoint")
    return _Entry(name=name, entrypoint=found.entrypoint, table=table, found=found)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Options of one source, with the policy's keys apart; `origin` of a key is where it stands."""

    options: Mapping[str, Any]
    policy: Mapping[str, Any]
    origins: Mapping[str, str]


def _layer(options: Mapping[str, Any], where: str, origin: str, policy_origin: str | None = None) -> _Layer:
    FunctionSpec.check_options(options, where=where)
    flat = {k: v for k, v in options.items() if k in _POLICY_KEYS}
    nested = options.get("autoscaling", {})
    plain = {k: v for k, v in options.items() if k not in _POLICY_KEYS and k != "autoscaling"}
    origins = dict.fromkeys((*plain, *flat), origin) | dict.fromkeys(nested, policy_origin or origin)
    return _Layer(plain, {**flat, **nested}, origins)


def _merge(directory: Path, entry: _Entry) -> tuple[FunctionSpec, dict[str, str]]:
    """One function's layers, the file above the decorator, and the origin of each effective value."""
    layers = []
    if entry.found is not None:
        layers.append(_layer(entry.found.options, entry.found.where, entry.found.where))
    where = f"{PROJECT_FILE} [functions.{entry.name}]"
    if entry.table is None and entry.found is not None:
        where = entry.found.where
    if entry.table is not None:
        table = {k: v for k, v in entry.table.items() if k not in ("entrypoint", "name")}
        policy_file = table.get("autoscaling")
        if isinstance(policy_file, str):
            table["autoscaling"] = _policy_table(directory, policy_file, where)
        origin = policy_file if isinstance(policy_file, str) else None
        layers.append(_layer(table, where, PROJECT_FILE, origin))
    options: dict[str, Any] = {}
    policy: dict[str, Any] = {}
    origins = dict.fromkeys((f.name for f in fields(FunctionSpec)), "default")
    origins |= dict.fromkeys(sorted(_POLICY_KEYS), "default")
    for layer in layers:
        options |= layer.options
        policy |= layer.policy
        origins |= layer.origins
    spec = FunctionSpec.parse(entry.name, entry.entrypoint, {**options, "autoscaling": policy}, where=where)
    declared = entry.found.where if entry.found is not None else PROJECT_FILE
    in_file = entry.table is not None
    origins["name"] = PROJECT_FILE if in_file else declared
    origins["entrypoint"] = PROJECT_FILE if in_file and "entrypoint" in (entry.table or {}) else declared
    origins["autoscaling"] = _origin_of_policy(origins)
    return spec, origins


def _origin_of_policy(origins: Mapping[str, str]) -> str:
    named = sorted({origins[key] for key in _POLICY_KEYS} - {"default"})
    return ", ".join(named) or "default"


def _policy_table(directory: Path, name: str, where: str) -> dict[str, Any]:
    """A policy file's table, validated on its own so that a refusal names the file."""
    table = read_toml(directory, name, where=where, key="autoscaling")
    AutoscalingPolicy.parse(table, where=name)
    return table
