"""What a client asks for with a deploy, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from clipper.contract.manifest import Manifest
from clipper.contract.requirements import PLACES, Option, Requirement, expand_variables, mask, parse_line
from clipper.contract.spec import EnvironmentSpec, SpecError, check_name
from clipper_platform.control.scaling.schedules import Plan
from clipper_platform.errors import InvalidSpec

__all__ = ["read_deploy"]


def read_deploy(project: str, body: Mapping[str, Any]) -> tuple[Manifest, bool]:
    """The manifest, and whether to deploy it even if nothing changed. Raises InvalidSpec."""
    table = dict(body)
    force = table.pop("force", False)
    if not isinstance(force, bool):
        raise InvalidSpec(f"force = {force!r} is not allowed: it must be true or false", key="force")
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
    return manifest, force


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
    return [option.value.removeprefix("file:") for option in parsed if option.flag in PLACES]
