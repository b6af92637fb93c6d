"""`clip dev`: deploys a directory on every save, and shows the logs of its functions."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from clipper.cli.console import FAIL, OK, Output, Part
from clipper.cli.dev_apps import DevApplications
from clipper.cli.locating import Locator, Place
from clipper.cli.options import directory_argument, json_option
from clipper.cli.private import private_platform
from clipper.cli.problems import CommandFailed, advice, as_document
from clipper.cli.text import clean, duration
from clipper.cli.watching import Watcher
from clipper.contract.manifest import MAX_KEEP_VERSIONS
from clipper.contract.spec import SpecError
from clipper.errors import ClipperError, NotFound, PlatformUnreachable
from clipper.project import Project, load_project
from clipper.project_files import PROJECT_FILE

if TYPE_CHECKING:
    from clipper.control import ControlClient

__all__ = ["dev"]

_SHOWN_FILES = 3
_LOG_LINES = 20
_RECONNECT_S = 1.0


@click.command()
@directory_argument
@json_option
def dev(directory: Path, out: Output) -> None:
    """Deploy a directory on every save, until Ctrl-C.

    Uses the platform of this machine; where none runs, one of its own that ends with the command. What the functions
    log is shown as it comes, an error with the file and line where it was raised. At the end the project is as it was
    before: back at its version, or gone. Applications of clip.toml that are new are there for as long.
    """
    if not (directory / PROJECT_FILE).is_file():
        raise CommandFailed(
            f"There is no {PROJECT_FILE} in {directory}", hint="Make a project: clip init DIR", code="invalid_spec"
        )
    with ExitStack() as stack:
        stack.enter_context(_interruptible())
        try:
            control, private = stack.enter_context(_platform(out))
            stack.enter_context(session := _Session(out, control, directory.resolve(), restore=not private))
            session.run()
        except KeyboardInterrupt:
            _emit(out, {"event": "stopping"}, ("Stopping", "dim"))


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does. Further signals are ignored, so that the clean-up is completed."""
    began = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal began
        if not began:
            began = True
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _platform(out: Output) -> Iterator[tuple[ControlClient, bool]]:
    """This machine's platform, or else a private one; and whether it is private. Raises CommandFailed."""
    control = _running()
    if control is not None:
        with control:
            url = control.location.url
            _emit(out, {"event": "platform", "url": url, "private": False}, ("Platform ", "dim"), (url, "cyan"))
            yield control, False
        return
    with private_platform() as (control, home):
        url = control.location.url
        event = {"event": "platform", "url": url, "private": True, "home": str(home)}
        _emit(out, event, ("Platform ", "dim"), (url, "cyan"), ("  (its own, ends with this command)", "dim"))
        if not out.json:
            out.line((f"  in another terminal: export CLIP_HOME={home}", "dim"))
        yield control, True


def _running() -> ControlClient | None:
    """A client of the platform of this machine; None while none runs. Raises CommandFailed."""

    from clipper.control import ControlClient

    try:
        control = ControlClient()
    except PlatformUnreachable:
        return None
    except ValueError as error:
        raise CommandFailed(str(error), hint="Correct CLIP_URL, or unset it", code="invalid_url") from None
    try:
        if not control.location.loopback:
            raise CommandFailed(
                f"{control.location.url} is another machine, and clip dev deploys on every save",
                hint="Unset CLIP_URL to work on this machine, or use clip deploy",
                code="not_local",
            )
        control.info()
    except PlatformUnreachable as error:
        control.close()
        if os.environ.get("CLIP_URL"):
            raise CommandFailed(
                f"No platform at {control.location.url}", hint="Start it, or unset CLIP_URL", code=error.code
            ) from None
        return None  # a killed platform has left its file
    except BaseException:
        control.close()
        raise
    return control


def _emit(out: Output, event: Mapping[str, Any], *parts: Part) -> None:
    """Print an event: as a line of JSON, or as text."""
    if out.json:
        out.event({"ts": round(time.time(), 3), **event})
    else:
        out.line(*parts)


class _Session:
    """The deploys and logs of one project. With `restore`, the project gets its earlier version back at the end."""

    def __init__(self, out: Output, control: ControlClient, directory: Path, *, restore: bool) -> None:
        self._out = out
        self._control = control
        self._directory = directory
        self._restores = restore
        self._watcher = Watcher(directory)
        self._apps = DevApplications(control)
        self._before: dict[str, int | None] = {}  # project → its version before the first deploy
        self._logs: dict[tuple[str, str], threading.Thread] = {}
        self._ended = threading.Event()
        self._shown: set[str] = set()  # lines of this deploy's logs that are printed already
        self._warned: set[str] = set()
        self._printing = threading.Lock()  # deploys and logs print in turn

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._restores:
            for event, line in self._apps.remove():
                _emit(self._out, event, *line)
            for project, version in self._before.items():
                self._restore(project, version)

    def run(self) -> None:
        """Deploy at each save, without end."""
        changed: Sequence[str] = ()
        while True:
            try:
                if not changed:
                    self._watcher.take()
                self._deploy(changed)
            except SpecError as error:
                self._failed(error, None)
            changed = self._changed()

    def _changed(self) -> list[str]:
        reported = ""
        while True:
            try:
                return self._watcher.changed()
            except SpecError as error:  # the tree cannot be bundled: a link to nothing, a bad pattern
                if str(error) != reported:
                    reported = str(error)
                    self._failed(error, None)
                time.sleep(_RECONNECT_S)

    # Deploying

    def _deploy(self, changed: Sequence[str]) -> None:
        from clipper.deploying import deploy_project

        began = time.monotonic()
        if changed:
            shown = ", ".join(changed[:_SHOWN_FILES]) + (" …" if len(changed) > _SHOWN_FILES else "")
            self._print({"event": "changed", "files": list(changed)}, (f"· {shown}", "cyan"))
        self._shown.clear()
        project = _quick(load_project(self._directory))
        try:
            self._remember(project.name)
            deployment = deploy_project(project, self._control, lambda event: self._on_event(project, event))
        except PlatformUnreachable:
            raise
        except ClipperError as error:
            self._failed(error, project)
            return
        self._succeeded(project, deployment, time.monotonic() - began)

    def _remember(self, name: str) -> None:
        if name not in self._before:
            try:
                self._before[name] = self._control.project(name).get("version")
            except NotFound:
                self._before[name] = None

    def _on_event(self, project: Project, event: Mapping[str, Any]) -> None:
        """Print warnings, each once; the output of a build or a starting replica, unless the function's log prints it
        already."""
        if event.get("kind") == "warning" and (warning := clean(event.get("message") or "")) not in self._warned:
            self._warned.add(warning)
            self._print({"event": "warning", "message": warning}, ("! ", "yellow"), warning)
        if event.get("kind") != "log":
            return
        data = event.get("data") or {}
        function = str(data.get("function") or "")
        if function and (project.name, function) in self._logs:
            return
        message = str(event.get("message") or "")
        self._shown.update(message.splitlines())
        self._record({"function": function or str(event.get("phase")), "message": message})

    def _succeeded(self, project: Project, deployment: Mapping[str, Any], seconds: float) -> None:
        functions = [dict(function) for function in deployment.get("functions") or ()]
        urls = {str(f["name"]): str(f["url"]) for f in functions}
        version, same = deployment.get("version"), deployment.get("state") == "unchanged"
        event = {
            "event": "unchanged" if same else "deployed", "project": project.name, "version": version,
            "seconds": round(seconds, 3), "functions": urls,
        }  # fmt: skip
        result = f"version {version} answers already" if same else f"version {version} in {duration(seconds)}"
        self._print(event, (f"{OK} ", "green"), (project.name, "bold"), f" {result}")
        for name, url in urls.items():
            if (project.name, name) not in self._logs:
                if not self._out.json:
                    self._out.line("  ", (url, "cyan"))
                self._follow(project.name, name)
        for event, line in self._apps.apply(project):
            self._print(event, *line)

    def _failed(self, error: Exception, project: Project | None) -> None:
        """Print the error and its place. The version before goes on answering."""
        locator = Locator(self._directory)
        details = getattr(error, "details", None) or {}
        lines = [line for entry in details.get("log") or () for line in str(entry).splitlines()]
        places = locator.places(lines)
        document = as_document(error)["error"]
        message = str(document["message"])
        event = {"event": "failed", "project": project.name if project else None, "error": document}
        if places:
            event |= {"file": places[-1].file, "line": places[-1].line}
        self._print(event, (f"{FAIL} ", "red bold"), (message, "bold"))
        if self._out.json:
            return
        for line in [line for line in lines if line not in self._shown][-_LOG_LINES:]:
            self._out.line(("  │ ", "dim"), locator.rewritten(line))
        for place in places[-1:]:
            self._point(place)
        for hint in advice(error):
            self._out.line(("  → ", "cyan"), hint)
        self._out.line(("  waiting for the next save", "dim"))

    def _point(self, place: Place) -> None:
        self._out.line(("  → ", "cyan"), (str(place), "red bold"))

    def _restore(self, name: str, version: int | None) -> None:
        """Return to the version before, or delete the project."""
        try:
            if version is None:
                self._control.delete_project(name)
                result = f"{name} is deleted again"
            elif self._control.project(name).get("version") != version:
                self._control.rollback(name, version)
                result = f"{name} is back at version {version}"
            else:
                return
        except ClipperError as error:
            if error.status == 404:
                return
            result = f"{name} could not be put back: {error}"
        _emit(self._out, {"event": "restored", "project": name, "version": version, "message": result}, (result, "dim"))

    # Logs

    def _follow(self, project: str, function: str) -> None:
        thread = threading.Thread(
            target=self._follow_log, args=(project, function, time.time()), name=f"log {function}", daemon=True
        )
        self._logs[project, function] = thread
        thread.start()

    def _follow_log(self, project: str, function: str, since: float) -> None:
        locator = Locator(self._directory)
        while not self._ended.is_set():
            try:
                for record in self._control.logs(project, function, since=since, follow=True):
                    if self._ended.is_set():
                        return
                    since = max(since, float(record.get("ts") or 0))
                    if record.get("stream") != "system":
                        self._record({**record, "function": function}, locator)
            except (ClipperError, OSError, RuntimeError):  # the platform stops, or the client is closed
                pass
            self._ended.wait(_RECONNECT_S)

    def _record(self, record: Mapping[str, Any], locator: Any = None) -> None:
        """Print a log record with paths of the project directory, and the place of an error that ends in it."""
        locator = locator or Locator(self._directory)
        message = str(record.get("message") or "")
        with self._printing:
            lines = message.split("\n")
            places = locator.places(lines)
            if self._out.json:
                _emit(self._out, {"event": "log", **record})
                for place in places:
                    _emit(self._out, {"event": "error", "function": record["function"], **_as_dict(place)})
                return
            level = str(record.get("level") or "").lower()
            style = "red" if level in ("error", "critical") or record.get("stream") == "stderr" else ""
            for line in lines:
                self._out.line((f"{record['function']} │ ", "dim"), (locator.rewritten(line), style))
            for place in places:
                self._point(place)

    def _print(self, event: Mapping[str, Any], *parts: Part) -> None:
        with self._printing:
            _emit(self._out, event, *parts)


def _as_dict(place: Place) -> dict[str, Any]:
    return {"file": place.file, "line": place.line, "in": place.function, "message": place.message}


def _quick(project: Project) -> Project:
    """The project without canary and standby version, for short deploys. Smoke calls stay. The versions of all saves
    are kept, so that the version to return to is not removed."""
    deploy = type(project.deploy)(keep_previous_s=0.0, smoke=project.deploy.smoke)
    return replace(project, deploy=deploy, keep_versions=MAX_KEEP_VERSIONS)
