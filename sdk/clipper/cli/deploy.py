"""`clip deploy`: from a directory, or a model's file, to a URL."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipper.cli.console import OK, Output
from clipper.cli.deploy_apps import Applications
from clipper.cli.examples import curl, example, python_call
from clipper.cli.models import Wanted, array_calls, as_document, found_model, is_model, model_project, show_model
from clipper.cli.options import connect, json_option, path, usage_error
from clipper.cli.progress import Progress, display
from clipper.cli.text import duration
from clipper.errors import ClipperError, DeployFailed, NotFound
from clipper.project import Project, load_project
from clipper.project_apps import declared_apps
from clipper.project_files import PROJECT_FILE

if TYPE_CHECKING:
    from clipper.control import ControlClient
    from clipper.models.description import Model

__all__ = ["deploy"]


@click.command()
@click.argument(
    "target",
    metavar="[DIR|MODEL]",
    type=path(),
    default=Path("."),
    help="A directory with a clip.toml, or a model: its file, or a directory of MLflow or Hugging Face.  "
    "[default: this directory]",
)
@click.option("--force", is_flag=True, help="Deploy even when nothing changed.")
@click.option("--rebuild", is_flag=True, help="Build the environment anew, with the newest versions that fit.")
@click.option("--name", default="", metavar="NAME", help="Of a model: its project.", show_default="the file's")
@click.option("--smoke", default="", metavar="JSON", help="Of a model: arguments of a call that it takes.")
@click.option("--method", default="", metavar="NAME", help="Of an estimator: what is served, as predict_proba.")
@json_option
def deploy(target: Path, force: bool, rebuild: bool, name: str, smoke: str, method: str, out: Output) -> int:
    """Deploy a directory and wait until it answers.

    The version before serves until then, and goes on if this fails or is cancelled with Ctrl-C. The applications of
    clip.toml are made or changed after that. Of a model, the framework, its version and the inputs are read from the
    file, which is not run here.
    """
    wanted = Wanted(name=name, smoke=smoke, method=method)
    if is_model(target):
        return _deploy_model(target, wanted, out, force=force, rebuild=rebuild)
    if (option := wanted.given()) is not None and (target / PROJECT_FILE).exists():
        raise usage_error(f"is for a model's file; {target} is a project, whose {PROJECT_FILE} says it", option)
    return _deploy_project(load_project(target), out, force=force, rebuild=rebuild)


def _deploy_model(target: Path, wanted: Wanted, out: Output, *, force: bool, rebuild: bool) -> int:
    model, name, smoke = found_model(target, wanted)
    show_model(out, model, target, name)
    with model_project(model, name, smoke) as directory:
        try:
            return _deploy_project(load_project(directory), out, force=force, rebuild=rebuild, model=model)
        except DeployFailed as error:
            if error.details.get("phase") == "smoke" and not wanted.smoke:
                error.add_note(
                    "The call was made up from what the file says: give one that the model takes, --smoke JSON"
                )
            raise


def _deploy_project(project: Project, out: Output, *, force: bool, rebuild: bool, model: Model | None = None) -> int:
    begun = time.monotonic()
    with connect() as control:
        declared = declared_apps(control, project.name)
        deployment = _deploy(out, control, project, force=force, rebuild=rebuild)
        apps = Applications(control, project, declared)
        if out.json:
            out.document(deployment | apps.document() | ({"model": as_document(model)} if model is not None else {}))
        elif deployment["state"] == "unchanged":
            _unchanged(out, project, deployment)
        else:
            _succeeded(out, control, project, deployment, time.monotonic() - begun, model)
        return apps.show(out)


def _deploy(out: Output, control: ControlClient, project: Project, *, force: bool, rebuild: bool) -> dict[str, Any]:
    """The finished deployment. A failure, or Ctrl-C, is reported with the version that goes on serving."""
    from clipper.deploying import deploy_project

    progress = Progress()
    try:
        with display(out, progress) as show:
            control.on_retry = retries = _Retries(show, control.timeout_s)
            try:
                deployment = deploy_project(project, control, show, force=force, rebuild=rebuild)
                progress.succeed(time.monotonic())
                return deployment
            except BaseException:
                progress.fail()  # before the display ends, so that its last frame shows the failure
                raise
    except DeployFailed as error:
        error.add_note(_still_serving(control, project.name))
        raise
    except KeyboardInterrupt:
        out.note(("✗ ", "red"), f"Cancelled. {_still_serving(control, project.name)}")
        raise
    except ClipperError as error:
        if retries.count:
            error.add_note(f"Tried {retries.count + 1} times in {duration(retries.waited_s)}")
        if error.status == 409:
            error.add_note(f"Wait for it to end; `clip status {project.name}` shows what answers meanwhile")
        raise
    finally:
        for warning in progress.warnings:
            out.note(("! ", "yellow"), warning)


class _Retries:
    """Reports a refusal that is tried again, once for each error code, and counts the tries."""

    def __init__(self, show: Callable[[Mapping[str, Any]], None], limit_s: float) -> None:
        self._show, self._limit_s = show, limit_s
        self._reported: set[str] = set()
        self.count = 0
        self.waited_s = 0.0

    def __call__(self, error: ClipperError, delay_s: float) -> None:
        self.count += 1
        self.waited_s += delay_s
        if error.code not in self._reported:
            self._reported.add(error.code)
            self._show({"kind": "retry", "message": f"{error}; trying again for up to {self._limit_s:g} s"})


def _still_serving(control: ControlClient, name: str) -> str:
    """The version that callers get after a failed deploy, as a sentence."""
    try:
        version = control.project(name).get("version")
    except NotFound:
        version = None
    except ClipperError:
        return f"Callers of {name} keep what they had"
    return (
        f"Version {version} of {name} keeps serving" if version else f"Nothing was deployed: {name} has no version yet"
    )


def _unchanged(out: Output, project: Project, deployment: Mapping[str, Any]) -> None:
    out.line(
        (f"{OK} ", "green"), f"No changes: version {deployment['version']} of ", (project.name, "bold"), " serves."
    )
    for function in deployment.get("functions") or ():
        out.line("  ", (str(function["url"]), "cyan"))
    out.line(("  To deploy it again all the same: clip deploy --force", "dim"))


def _succeeded(
    out: Output,
    control: ControlClient,
    project: Project,
    deployment: Mapping[str, Any],
    seconds: float,
    model: Model | None,
) -> None:
    """Print version, URLs, a call by curl and from Python, and the rollback command."""
    functions = deployment.get("functions") or []
    out.line()
    out.line(
        (f"{OK} ", "green bold"),
        "Deployed ",
        (project.name, "bold"),
        f" version {deployment['version']} in {duration(seconds)}",
    )
    for function in functions:
        out.line("  ", (str(function["url"]), "cyan bold"))
    for function in functions[:1]:
        _call_it(out, control, project, function, model)
    out.line()
    _undo(out, project.name, deployment.get("previous"))


def _call_it(
    out: Output, control: ControlClient, project: Project, function: Mapping[str, Any], model: Model | None
) -> None:
    """Print a call by curl and one from Python."""
    name, url, schema = str(function["name"]), str(function["url"]), function.get("schema") or {}
    address, smoke = f"{project.name}/{name}", project.deploy.smoke.get(name)
    out.line()
    out.line(("Call it", "bold"))
    if model is not None and (lines := array_calls(model, smoke, url, address)) is not None:
        for line in lines:
            out.line("  ", line)
        return
    call = example(schema, smoke)
    public = any(spec.public for spec in project.functions if spec.name == name)
    for line in curl(url, schema, call, key_needed=not control.location.loopback and not public).splitlines():
        out.line("  ", line)
    out.line()
    out.line("  import clipper")
    out.line("  ", python_call(address, schema, call))
    if call.unsure:
        where = "[deploy.smoke] in\n  clip.toml" if model is None else "--smoke JSON"
        note = f"  The schema does not say which values {', '.join(call.unsure)} takes: put in your own. With {where}, "
        for line in (note + "the call of a deploy is shown here.").splitlines():
            out.line((line, "dim"))


def _undo(out: Output, name: str, previous: int | None) -> None:
    if previous is None:
        out.line((f"This is its first version. Take it away: clip delete {name}", "dim"))
    else:
        out.line(("Roll back: ", "dim"), f"clip rollback {name} {previous}")
