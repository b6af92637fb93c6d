"""What a client asks for with a deploy, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipper.contract.manifest import Manifest
from clipper.contract.spec import SpecError, check_name
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
    except SpecError as error:
        raise InvalidSpec(str(error), key=error.key, where=error.where) from None
    if manifest.project != project:
        raise InvalidSpec(f"the manifest is for project {manifest.project!r}, the URL for {project!r}", key="project")
    for spec in manifest.functions:
        Plan(spec.autoscaling, None, lambda: 0.0)  # refuses a schedule that never comes true
    return manifest, force
