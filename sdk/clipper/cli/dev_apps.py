"""The applications of a project while `clip dev` runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from clipper.cli.console import FAIL, OK, Part
from clipper.cli.problems import as_document
from clipper.errors import ClipperError
from clipper.project_apps import AppliedApp, apply_apps

if TYPE_CHECKING:
    from clipper.control import ControlClient
    from clipper.project import Project

__all__ = ["DevApplications"]

Printed = tuple[dict[str, Any], tuple[Part, ...]]
"""An event for `--json`, and the line for people."""


class DevApplications:
    """Makes the applications that clip.toml declares, follows its changes, and deletes them at the end.

    One that the platform had before is left alone: its clients, and what it has learned, are not of this session.
    """

    def __init__(self, control: ControlClient) -> None:
        self._control = control
        self._made: set[str] = set()
        self._kept: set[str] = set()

    def apply(self, project: Project) -> Iterator[Printed]:
        """After a deploy: what to print of each application that changed, failed, or is left alone."""
        if not project.apps:
            return
        try:
            there = {str(app["name"]) for app in self._control.apps()}
        except ClipperError as error:
            yield _failure("apps", error)
            return
        for name in [spec.name for spec in project.apps if spec.name in there - self._made - self._kept]:
            self._kept.add(name)
            message = f"Application {name} was there before and stays as it is; clip deploy changes it"
            yield {"event": "application", "name": name, "outcome": "left"}, (("! ", "yellow"), message)
        for applied in apply_apps(self._control, [spec for spec in project.apps if spec.name not in self._kept]):
            if applied.error is not None:
                yield _failure(applied.name, applied.error)
                continue
            self._made.add(applied.name)
            if applied.outcome != "unchanged":
                yield _applied(applied)

    def remove(self) -> Iterator[Printed]:
        """At the end: delete those of this session."""
        for name in sorted(self._made):
            try:
                self._control.delete_app(name)
                message = f"application {name} is deleted again"
            except ClipperError as error:
                if error.status == 404:
                    continue
                message = f"application {name} could not be deleted: {error}"
            yield {"event": "restored", "application": name, "message": message}, ((message, "dim"),)


def _applied(applied: AppliedApp) -> Printed:
    event = {"event": "application", "name": applied.name, "outcome": applied.outcome, "url": applied.url}
    return event, ((f"{OK} ", "green"), (applied.name, "bold"), "  ", (applied.url, "cyan"))


def _failure(name: str, error: ClipperError) -> Printed:
    event = {"event": "failed", "application": name, **as_document(error)}
    return event, ((f"{FAIL} ", "red bold"), (f"Application {name}: {error.message}", "bold"))
