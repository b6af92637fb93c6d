"""What a client asks for with a deploy, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from clipper.contract.credentials import mask
from clipper.contract.manifest import PACKAGES, REBUILT, Manifest
from clipper.contract.requirements import (
    PLACES,
    Option,
    Requirement,
    expand_variables,
    moving_requirements,
    parse_line,
)
from clipper.contract.spec import EnvironmentSpec, SpecError, check_name
from clipper_platform.control.current import Current
from clipper_platform.control.scaling.schedules import Plan
from clipper_platform.errors import InvalidSpec

__all__ = ["DeployRequest", "Unchanged", "read_deploy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployRequest:
    """`force`: deploy even if nothing changed. `rebuild`: in a new environment, with the newest versions that the
    requirements allow."""

    manifest: Manifest
    force: bool = False
    rebuild: bool = False

    @property
    def moves(self) -> bool:
        """Whether a requirement may mean something else than at the deploy before."""
        return bool(moving_requirements(self.manifest.environment.requirements))

    def is_answered_by(self, current: Manifest) -> bool:
        """Whether the current version is what is asked for, before anything is looked up."""
        return not self.force and not self.rebuild and not self.moves and self.same_as(current)

    def same_as(self, current: Manifest) -> bool:
        return replace(current, meanings={}) == self.manifest

    def resolved(self, meanings: Mapping[str, str], before: Manifest | None, now: float) -> Manifest:
        """The manifest with what its references mean now. The versions of the packages stay, also where the environment
        has to be built again, until a rebuild or a change of the environment."""
        found = dict(meanings)
        known = before.meanings if before is not None and before.environment == self.manifest.environment else {}
        if self.rebuild:
            found[REBUILT] = f"{now:.3f}"
            return replace(self.manifest, meanings=found)
        if REBUILT in known:
            found[REBUILT] = known[REBUILT]
        if PACKAGES in known and known == {**found, PACKAGES: known[PACKAGES]} and not self._has_paths:
            found[PACKAGES] = known[PACKAGES]
        return replace(self.manifest, meanings=found)

    def check_changed(self, resolved: Manifest, current: Current) -> None:
        """Raises Unchanged where the resolved manifest asks for what the current version asked for."""
        if not self.force and _without_packages(resolved) == _without_packages(current.manifest):
            raise Unchanged(current)

    @property
    def _has_paths(self) -> bool:
        """Whether a requirement is a file of the project, which may need other versions than before."""
        parsed = map(parse_line, self.manifest.environment.requirements)
        return any(isinstance(one, Requirement) and one.path for one in parsed)


def _without_packages(manifest: Manifest) -> Manifest:
    """What is asked for, whatever versions came of it."""
    return replace(manifest, meanings={k: v for k, v in manifest.meanings.items() if k != PACKAGES})


class Unchanged(Exception):
    """The version that answers is what was asked for."""

    def __init__(self, current: Current) -> None:
        super().__init__()
        self.current = current


def read_deploy(project: str, body: Mapping[str, Any]) -> DeployRequest:
    """Raises InvalidSpec."""
    table = dict(body)
    flags = {name: table.pop(name, False) for name in ("force", "rebuild")}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidSpec(f"{name} = {value!r} is not allowed: it must be true or false", key=name)
    if "meanings" in table:
        raise InvalidSpec("meanings are what the platform looks up; a client sends none", key="meanings")
    try:
        check_name(project, "project", where="manifest")
        manifest = Manifest.from_dict(table)
        _check_requirements(manifest.environment)
    except SpecError as error:
        raise InvalidSpec(str(error), key=error.key, where=error.where) from None
    if manifest.project != project:
        raise InvalidSpec(f"the manifest is for project {manifest.project!r}, the URL for {project!r}", key="project")
    for spec in manifest.functions:
        Plan(spec.autoscaling, None, lambda: 0.0)  # refuses a schedule that never comes true
    return DeployRequest(manifest=manifest, **flags)


def _check_requirements(spec: EnvironmentSpec) -> None:
    """Raises SpecError for lines that are unreadable here, files that are not in the bundle, and variables: uv would
    replace them by the platform's own."""
    for line in (*spec.requirements, *spec.constraints):
        try:
            parsed = parse_line(expand_variables(line, {}))
            for path in _paths(parsed):
                if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                    raise ValueError("it lies outside the project")
        except ValueError as error:
            raise SpecError(
                f"requirement {mask(line)!r} is not allowed: {error}", where="manifest environment", key="requirements"
            ) from None


def _paths(parsed: Requirement | tuple[Option, ...]) -> list[str]:
    if isinstance(parsed, Requirement):
        return [parsed.path]
    if included := [option.flag for option in parsed if option.flag in ("--requirement", "--constraint")]:
        raise ValueError(f"{included[0]} names another file: send its lines")
    # An absolute one is a directory of the machine, as of an index that its administrator keeps.
    places = [option.value.removeprefix("file:") for option in parsed if option.flag in PLACES]
    return [place for place in places if not place.startswith("/")]
