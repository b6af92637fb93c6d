"""Deploys a project directory, or a function from a notebook."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, Unpack

from clipper import errors
from clipper.address import FunctionAddress
from clipper.bundle_checks import hidden_modules, likely_secrets
from clipper.client import shared_client
from clipper.closures import closure_files
from clipper.contract.constants import CLOSURE_MODULE
from clipper.contract.spec import EnvironmentSpec, FunctionSpec, SpecError
from clipper.contract.wrappers import name_of
from clipper.control import ControlClient
from clipper.function import Function, FunctionOptions
from clipper.packaging import Bundle, bundle_directory, bundle_files
from clipper.project import Project
from clipper.requirement_files import read_requirements

__all__ = ["OnEvent", "deploy", "deploy_project"]

P = ParamSpec("P")
R = TypeVar("R")

OnEvent = Callable[[Mapping[str, Any]], None]
"""Takes events of the form that `infra/docs/control-api.md` describes.

Phases `bundle` and `upload` run in the client, before the platform's. Their `phase_done` carry {"digest",
"files", "bytes", "uncompressed_bytes", "seconds"} and {"reused", "bytes", "seconds"}; `progress` of `upload` carries
{"sent", "total"}. A `warning` has a sentence as its message. `accepted` comes between them and the platform's, with
{"deployment"}.
"""

# States of a deployment after its last event.
_ENDED_WELL: Final = ("succeeded", "unchanged")
_ENDED: Final = (*_ENDED_WELL, "failed", "cancelled")


def deploy_project(
    project: Project, control: ControlClient, on_event: OnEvent, force: bool = False, rebuild: bool = False
) -> dict[str, Any]:
    """Bundle, upload, deploy, wait until callers get the new version; the finished deployment. `rebuild`: in a new
    environment, with the newest versions that the requirements allow.

    Raises DeployFailed with the phase, the exception and the last lines of the log; Conflict while another deployment
    of the project runs; SpecError for what cannot be bundled. Interrupted, it cancels the deployment.
    """
    phase = _Phase("bundle", on_event)
    bundle = bundle_directory(project.directory)
    _check_entrypoints(project, bundle)
    phase.done(
        digest=bundle.digest,
        files=len(bundle.files),
        bytes=len(bundle.data),
        uncompressed_bytes=bundle.uncompressed_bytes,
    )
    for warning in _warnings(project, bundle):
        on_event(_event("warning", warning, phase="bundle"))
    return _deploy(project, bundle, control, on_event, force, rebuild)


def deploy(
    fn: Callable[P, R] | Function[P, R],
    *,
    name: str,
    requirements: Iterable[str] = (),
    python: str | None = None,
    force: bool = False,
    control: ControlClient | None = None,
    on_event: OnEvent | None = None,
    **options: Unpack[FunctionOptions],
) -> Function[P, R]:
    """Deploy a function or class of the running program, as in a notebook; the function, bound to what was deployed.

    `name` is "project/function"; the project then has this function only. Its references to `__main__` and to modules
    of this machine are sent by value (cloudpickle), and modules of this machine that it imports when it runs as files;
    installed packages must be among `requirements`. Only a replica
    unpickles it, with the same minor version of Python: that is the default, and another one is refused.
    """
    address = FunctionAddress.parse(name)
    if address.version is not None:
        raise SpecError(f"name = {name!r} names a version; versions are counted by the platform", key="name")
    decorated = fn if isinstance(fn, Function) else None
    wrapped = decorated.wrapped if decorated is not None else fn
    merged = {**(decorated.options if decorated is not None else {}), **options}
    project = _closure_project(address, wrapped, merged, requirements, python)
    bundle = bundle_files(closure_files(wrapped))
    with nullcontext(control) if control is not None else ControlClient() as used:
        _deploy(project, bundle, used, on_event or (lambda event: None), force)
    client = shared_client(control.location) if control is not None else None
    function: Function[P, R] = Function(wrapped, name=address.function, options=merged)
    return function.bind(address, client)


def _closure_project(
    address: FunctionAddress,
    wrapped: Callable[..., Any],
    options: Mapping[str, Any],
    requirements: Iterable[str],
    python: str | None,
) -> Project:
    """A project of one function, which is loaded from a pickle. Raises SpecError."""
    where = f"clipper.deploy('{address}')"
    lines = read_requirements(None, [requirements] if isinstance(requirements, str) else requirements, where=where)
    target = re.sub(r"\W", "_", name_of(wrapped)).strip("_") or "closure"
    entrypoint = f"{CLOSURE_MODULE}:{_identifier(target)}"
    return Project(
        directory=Path(),
        name=address.project,
        environment=EnvironmentSpec.parse({"python": _python(python), "requirements": lines.lines}, where=where),
        functions=(FunctionSpec.parse(address.function, entrypoint, options, where=where),),
        provenance={},
    )


def _identifier(text: str) -> str:
    return text if not text[0].isdigit() else f"_{text}"


def _python(wanted: str | None) -> str:
    """The version to ask for: only the same minor version reads pickled bytecode."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if wanted is not None and wanted != own and not wanted.startswith(own + "."):
        raise SpecError(
            f"python = {wanted!r} is not allowed: a closure of Python {own} can only be loaded by Python {own}; "
            "leave python out, or deploy a project directory",
            key="python",
        )
    return wanted or own


def _deploy(
    project: Project,
    bundle: Bundle,
    control: ControlClient,
    on_event: OnEvent,
    force: bool,
    rebuild: bool = False,
) -> dict[str, Any]:
    manifest = project.manifest(bundle.digest)
    phase = _Phase("upload", on_event)
    known = control.has_bundle(bundle.digest)
    if not known:
        control.put_bundle(bundle.digest, bundle.data, phase.progress)
    phase.done(reused=known, bytes=len(bundle.data))
    deployment: dict[str, Any] = {}
    try:
        with _signals_held():
            deployment = control.create_deployment(project.name, manifest.to_dict(), force, rebuild)
        on_event(_event("accepted", data={"deployment": deployment}))
        if deployment.get("state") not in _ENDED:
            deployment = _follow(control, str(deployment["id"]), on_event)
    except errors.NotFound as error:
        if not deployment:
            raise
        raise errors.DeployFailed(
            f"the platform was restarted during the deployment of {project.name}, which ended with it",
            details={"deployment": deployment.get("id"), "hint": "Deploy it again"},
        ) from error
    except errors.ClipperError:
        raise  # the platform goes on with the deployment, or did not accept it
    except BaseException:
        if deployment.get("state") not in _ENDED:
            _cancel(control, deployment)
        raise
    if deployment.get("state") in _ENDED_WELL:
        return deployment
    raise _failure(project.name, deployment)


def _follow(control: ControlClient, id: str, on_event: OnEvent) -> dict[str, Any]:
    """Wait for the end of a deployment."""
    for event in control.deployment_events(id):
        on_event(event)
    return control.deployment(id)


def _cancel(control: ControlClient, deployment: Mapping[str, Any]) -> None:
    """After an interruption: Ctrl-C, a signal, or an error of the caller's `on_event`."""
    try:
        if deployment:
            control.cancel_deployment(str(deployment["id"]))
    except errors.ClipperError:
        pass  # it ended meanwhile, or the platform does not answer: the interruption is what gets reported


@contextmanager
def _signals_held() -> Iterator[None]:
    """Deliver interruptions after this: one that comes while a deployment is created could not cancel it."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _failure(name: str, deployment: Mapping[str, Any]) -> errors.DeployFailed:
    error = deployment.get("error")
    details = dict(error) if isinstance(error, Mapping) else {}
    details.pop("code", None)
    message = details.pop("message", None)
    if deployment.get("state") == "cancelled":
        message = message or f"the deployment of {name} was cancelled"
    details["deployment"] = deployment.get("id")
    return errors.DeployFailed(str(message or f"the deployment of {name} failed"), details=details)


def _check_entrypoints(project: Project, bundle: Bundle) -> None:
    """Raises SpecError where an ignore file keeps a function's own module out of the bundle."""
    packed = {path for path, _ in bundle.files}
    for spec in project.functions:
        module = spec.entrypoint.partition(":")[0].replace(".", "/")
        if not packed & {f"{module}.py", f"{module}/__init__.py"}:
            raise SpecError(
                f"{module}.py is not in the bundle: .gitignore or .clipignore leaves it out; "
                f"add !{module}.py to .clipignore",
                where=f"[functions.{spec.name}]",
                key="entrypoint",
            )


def _warnings(project: Project, bundle: Bundle) -> list[str]:
    secrets = likely_secrets(bundle.files, lambda path: (project.directory / path).read_bytes())
    named = (
        f"the bundle holds what looks like secrets: {', '.join(secrets)}; name such files in .clipignore and pass "
        f"their values by `clip secret set {project.name} …`"
    )
    return ([named] if secrets else []) + hidden_modules(bundle.files, project.environment.requirements)


def _event(kind: str, message: str = "", **more: Any) -> dict[str, Any]:
    return {"seq": 0, "at": time.time(), "kind": kind, "message": message, **more}


class _Phase:
    """A phase on the client's side, reported by the same events as the platform's phases."""

    def __init__(self, name: str, on_event: OnEvent) -> None:
        self._name, self._on_event = name, on_event
        self._begun = time.monotonic()
        on_event(_event("phase", name, phase=name))

    def progress(self, sent: int, total: int) -> None:
        self._on_event(_event("progress", phase=self._name, data={"sent": sent, "total": total}))

    def done(self, **data: Any) -> None:
        data["seconds"] = time.monotonic() - self._begun
        self._on_event(_event("phase_done", phase=self._name, data=data))
