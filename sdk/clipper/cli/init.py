"""`clip init`: a working project to start from."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from clipper.cli.declare import Argument, Option
from clipper.cli.options import Json

# Template → name in the project. Dot files are stored without their dot, so that no tool takes them for its own.
_FILES = {"clip.toml": "clip.toml", "app.py": "app.py", "README.md": "README.md", "clipignore": ".clipignore"}


def init(
    directory: Annotated[
        Path, Argument(metavar="DIR", help="Where to; made when missing.", show_default="this directory")
    ] = Path("."),
    name: Annotated[str, Option(help="Name of the project.", show_default="the directory's")] = "",
    json: Json = False,
) -> None:
    """Make a working project to start from.

    Writes clip.toml, app.py, README.md and .clipignore; overwrites nothing.
    """
    from clipper.cli.console import OK, Output

    out = Output(json=json)
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
    if json:
        out.document({"project": project, "directory": str(directory.resolve()), "files": written, "next": steps})


def project_name(directory: Path, given: str) -> str:
    """The name given, or one made from the directory's. Raises SpecError on a name that is not allowed."""
    from clipper.contract.spec import RESERVED_NAMES, check_name

    if given:
        return check_name(given, "project", where="--name")
    made = re.sub(r"[^a-z0-9_-]+", "-", directory.resolve().name.lower()).strip("-_")[:63]
    return f"{made}-project" if made in RESERVED_NAMES else made or "demo"


def write(directory: Path, project: str) -> list[str]:
    """Write the template's files; their names. Raises CommandFailed, having written nothing, where one exists."""
    from clipper.cli.problems import CommandFailed

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
            # "x": whatever appears in between is not overwritten either.
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise CommandFailed(f"Cannot write to {directory}: {error.strerror}", code="not_writable") from error
    return list(_FILES.values())
