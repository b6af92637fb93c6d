"""Deploys a project: bundle, upload, environment, replicas, until callers get the new version."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from clipper import errors
from clipper.bundle_checks import hidden_modules, likely_secrets
from clipper.contract.spec import FunctionSpec, SpecError
from clipper.control import ControlClient
from clipper.packaging import Bundle, bundle_directory
from clipper.project import Project

__all__ = ["OnEvent", "deploy_bundle", "deploy_project"]

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
    return deploy_bundle(project, bundle, control, on_event, force, rebuild)


def deploy_bundle(
    project: Project,
    bundle: Bundle,
    control: ControlClient,
    on_event: OnEvent,
    force: bool,
    rebuild: bool = False,
) -> dict[str, Any]:
    """`deploy_project` of a bundle that is made already."""
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
    found = [named] if secrets else []
    return [*found, *hidden_modules(bundle.files, project.environment.requirements), *_short_graces(project.functions)]


def _short_graces(functions: Iterable[FunctionSpec]) -> Iterator[str]:
    for spec in functions:
        grace_s = spec.effective_graceful_shutdown_timeout_s
        if grace_s < spec.timeout_s:
            yield (
                f"{spec.name}: graceful_shutdown_timeout_s = {grace_s:g} is shorter than timeout_s = "
                f"{spec.timeout_s:g}: a deploy, restart, scale-down or delete cuts off calls that take longer; leave "
                "it out to let them end"
            )


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
