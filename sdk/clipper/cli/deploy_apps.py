"""The last step of `clip deploy`: the applications that the project's clip.toml declares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from clipper.cli.console import FAIL, OK, Output
from clipper.cli.problems import advice, as_document
from clipper.errors import ClipperError
from clipper.project_apps import apply_apps
from clipper.project_files import PROJECT_FILE

if TYPE_CHECKING:
    from clipper.control import ControlClient
    from clipper.project import Project

__all__ = ["Applications"]

_WORDS = {"created": "Created", "changed": "Changed", "unchanged": "No changes to"}


class Applications:
    """Applies the project's applications, once it is deployed, and tells what became of them.

    `declared`: those that the version before declared. One that the file no longer has stays on the platform: clients
    may query it, and only a person knows.
    """

    def __init__(self, control: ControlClient, project: Project, declared: Iterable[str]) -> None:
        self._applied = list(apply_apps(control, project.apps))
        self._left = _still_there(control, set(declared) - {spec.name for spec in project.apps})

    def document(self) -> dict[str, Any]:
        """For `--json`: `apps` by their outcome, and `apps_left`; nothing for a project without applications."""
        apps: list[dict[str, Any]] = []
        for app in self._applied:
            entry = {"name": app.name, "outcome": app.outcome, "url": app.url}
            apps.append(entry | (as_document(app.error) if app.error is not None else {}))
        return ({"apps": apps} if apps else {}) | ({"apps_left": self._left} if self._left else {})

    def show(self, out: Output) -> int:
        """Print a line for each, and return the exit code: 1 where one failed."""
        if (self._applied or self._left) and not out.json:
            out.line()
        for app in self._applied:
            if app.error is None:
                out.line((f"{OK} ", "green"), f"{_WORDS[app.outcome]} application ", (app.name, "bold"))
                out.line("  ", (app.url, "cyan"))
                continue
            out.note((f"{FAIL} ", "red bold"), (f"Application {app.name}: {app.error.message}", "bold"), wrap=True)
            for hint in advice(app.error):
                out.note(("  → ", "cyan"), hint, wrap=True)
        for name in self._left:
            out.note(
                ("! ", "yellow"), f"{PROJECT_FILE} has [apps.{name}] no longer, and the application is still there"
            )
            out.note(("  → ", "cyan"), f"To delete it: clip app delete {name}")
        failed = [app for app in self._applied if app.error is not None]
        if failed:
            out.note("  The version is deployed and answers all the same. Correct this, and deploy again.")
        return 1 if failed else 0


def _still_there(control: ControlClient, names: set[str]) -> list[str]:
    """Those of the applications that the platform has."""
    if not names:
        return []
    try:
        return sorted(names & {str(app["name"]) for app in control.apps()})
    except ClipperError:
        return []  # a reminder that can wait for the next deploy
