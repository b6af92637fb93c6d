"""`clip init`: a working project to start from."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from clipper.cli.console import OK, Output
from clipper.cli.models import Wanted, as_document, found_model, show_model
from clipper.cli.options import json_option, path, usage_error
from clipper.cli.problems import CommandFailed
from clipper.contract.spec import RESERVED_NAMES, check_name

__all__ = ["init", "project_name", "write"]

# Template → name in the project. Dot files are stored without their dot, so that no tool takes them for its own.
_FILES = {"clip.toml": "clip.toml", "app.py": "app.py", "README.md": "README.md", "clipignore": ".clipignore"}


@click.command()
@click.argument(
    "directory",
    metavar="[DIR]",
    type=path(),
    default=Path("."),
    help="Where to; made when missing.  [default: this directory]",
)
@click.option(
    "--name", default="", metavar="NAME", help="Name of the project.", show_default="the directory's, or the model's"
)
@click.option("--from", "model", type=path(), metavar="MODEL", help="A model's file, which the project then serves.")
@click.option("--smoke", default="", metavar="JSON", help="With --from: arguments of a call that the model takes.")
@click.option("--method", default="", metavar="NAME", help="With --from: what is served, as predict_proba.")
@json_option
def init(directory: Path, name: str, model: Path | None, smoke: str, method: str, out: Output) -> None:
    """Make a working project to start from.

    Writes clip.toml, app.py, README.md and .clipignore; overwrites nothing. With --from, the project that `clip deploy
    MODEL` deploys, and the model beside it.
    """
    wanted = Wanted(name=name, smoke=smoke, method=method)
    if model is not None:
        _init_from(model, directory, wanted, out)
        return
    if option := Wanted(smoke=smoke, method=method).given():
        raise usage_error("needs --from MODEL", option)
    project = project_name(directory, name)
    written = write(directory, project)
    call = f"""clip invoke {project}/analyze --json-input '{{"text": "Hello there."}}'"""
    _written(out, project, directory, written, [call])


def _init_from(source: Path, directory: Path, wanted: Wanted, out: Output) -> None:
    """The project that `clip deploy MODEL` would deploy, to be edited."""
    from clipper.models.projects import PROJECT_FILES, write_project

    model, project, smoke = found_model(source, wanted)
    targets = [name for name, file in model.files if not _is_same(directory / name, file)]
    check_free(directory, [*PROJECT_FILES, *targets])
    show_model(out, model, source, project)
    try:
        written = write_project(model, directory, name=project, smoke=smoke)
    except OSError as error:
        raise CommandFailed(f"Cannot write to {directory}: {error.strerror}", code="not_writable") from error
    call = f"clip invoke {project}/{model.function} --json-input {shlex.quote(json.dumps(smoke))}"
    _written(out, project, directory, written, [call] if smoke is not None else [], model=as_document(model))


def _is_same(target: Path, source: Path) -> bool:
    return target.exists() and target.samefile(source)


def _written(out: Output, project: str, directory: Path, written: list[str], calls: list[str], **more: Any) -> None:
    """Print what was written, and what to do next."""
    out.line((f"{OK} ", "green"), "Project ", (project, "bold"), f" in {directory}: {', '.join(written)}")
    out.line()
    out.line("Next")
    steps = [] if directory.resolve() == Path.cwd() else [f"cd {directory}"]
    steps += ["clip up", "clip deploy", *calls]
    notes = {"clip up": "the platform, in a terminal of its own, unless it runs already"}
    for step in steps:
        out.line("  ", (step, "cyan"), (f"    # {notes[step]}" if step in notes else "", "dim"))
    if out.json:
        document = {"project": project, "directory": str(directory.resolve()), "files": written, "next": steps}
        out.document({**document, **more})


def project_name(directory: Path, given: str) -> str:
    """The name given, or one made from the directory's. Raises SpecError on a name that is not allowed."""
    if given:
        return check_name(given, "project", where="--name")
    derived = re.sub(r"[^a-z0-9_-]+", "-", directory.resolve().name.lower()).strip("-_")[:63]
    return f"{derived}-project" if derived in RESERVED_NAMES else derived or "demo"


def check_free(directory: Path, names: Iterable[str]) -> None:
    """Raises CommandFailed where the directory is none, or has one of these files."""
    if directory.exists() and not directory.is_dir():
        raise CommandFailed(f"{directory} is not a directory", code="exists")
    there = [name for name in names if (directory / name).exists() or (directory / name).is_symlink()]
    if there:
        raise CommandFailed(
            f"{directory} already has {', '.join(there)}; nothing was written",
            hint="Name another directory: clip init DIR",
            code="exists",
        )


def write(directory: Path, project: str) -> list[str]:
    """Write the template's files; their names. Raises CommandFailed, having written nothing, where one exists."""
    check_free(directory, _FILES.values())
    templates = files("clipper.cli") / "templates"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for template, name in _FILES.items():
            text = (templates / template).read_text(encoding="utf-8").replace("{{name}}", project)
            # "x": a file that appears meanwhile is not overwritten either.
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise CommandFailed(f"Cannot write to {directory}: {error.strerror}", code="not_writable") from error
    return list(_FILES.values())
