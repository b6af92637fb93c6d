"""`clip init`: a working project to start from."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import click

from clipper.cli.console import OK, Output
from clipper.cli.options import json_option, path
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
@click.option("--name", default="", metavar="NAME", help="Name of the project.", show_default="the directory's")
@json_option
def init(directory: Path, name: str, out: Output) -> None:
    """Make a working project to start from.

    Writes clip.toml, app.py, README.md and .clipignore; overwrites nothing.
    """
    project = project_name(directory, name)
    written = write(directory, project)
    out.line((f"{OK} ", "green"), "Project ", (project, "bold"), f" in {directory}: {', '.join(written)}")
    out.line()
    out.line("Next")
    steps = [] if directory.resolve() == Path.cwd() else [f"cd {directory}"]
    steps += ["clip up", "clip deploy", f"""clip invoke {project}/analyze --json-input '{{"text": "Hello there."}}'"""]
    notes = {"clip up": "the platform, in a terminal of its own, unless it runs already"}
    for step in steps:
        out.line("  ", (step, "cyan"), (f"    # {notes[step]}" if step in notes else "", "dim"))
    if out.json:
        out.document({"project": project, "directory": str(directory.resolve()), "files": written, "next": steps})


def project_name(directory: Path, given: str) -> str:
    """The name given, or one made from the directory's. Raises SpecError on a name that is not allowed."""
    if given:
        return check_name(given, "project", where="--name")
    derived = re.sub(r"[^a-z0-9_-]+", "-", directory.resolve().name.lower()).strip("-_")[:63]
    return f"{derived}-project" if derived in RESERVED_NAMES else derived or "demo"


def write(directory: Path, project: str) -> list[str]:
    """Write the template's files; their names. Raises CommandFailed, having written nothing, where one exists."""
    if directory.exists() and not directory.is_dir():
        raise CommandFailed(f"{directory} is not a directory", code="exists")
    there = [name for name in _FILES.values() if (directory / name).exists() or (directory / name).is_symlink()]
    if there:
        raise CommandFailed(
            f"{directory} already has {', '.join(there)}; nothing was written",
            hint="Name another directory: clip init DIR",
            code="exists",
        )
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
