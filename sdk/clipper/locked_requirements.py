"""The requirements of `pyproject.toml`: those of `uv.lock` beside it, as uv exports them, else its dependencies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from clipper.contract.rules import SpecError
from clipper.project_files import read_toml

__all__ = ["read_project_requirements"]

PYPROJECT: Final = "pyproject.toml"
LOCK: Final = "uv.lock"
EXPORT_TIMEOUT_S: Final = 60.0


def read_project_requirements(directory: Path, *, where: str) -> str:
    """The text of a requirements file. Raises SpecError."""
    table = read_toml(directory, PYPROJECT, where=where, key="requirements")
    if (directory / LOCK).is_file():
        return "\n".join([*_indexes(table), _export(directory)])
    project = table.get("project", {})
    if "dependencies" in project.get("dynamic", []):
        raise SpecError("its dependencies are dynamic: lock them by `uv lock`", where=PYPROJECT, key="dependencies")
    if table.get("tool", {}).get("uv", {}).get("sources"):
        raise SpecError("[tool.uv.sources] needs a lock file: write one by `uv lock`", where=PYPROJECT, key="sources")
    return "\n".join(project.get("dependencies", []))


def _export(directory: Path) -> str:
    """What `uv export` prints: hashes, markers and the project itself if it is a package, without groups for
    development. It reads the lock file alone and resolves nothing."""
    beside = Path(sys.executable).with_name("uv")
    program = shutil.which("uv") or (str(beside) if beside.exists() else None)
    if program is None:
        raise SpecError(
            "the program uv is needed to read it: `pip install uv`, or `uv export -o requirements.txt` elsewhere",
            where=LOCK,
        )
    command = [
        program,
        "export",
        "--frozen",
        "--no-dev",
        "--no-header",
        "--no-annotate",
        "--format",
        "requirements-txt",
    ]
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=EXPORT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SpecError(f"uv cannot export it: {error}", where=LOCK) from None
    if done.returncode != 0:
        raise SpecError(f"uv cannot export it: {done.stderr.strip()[-1000:]}", where=LOCK)
    return done.stdout


def _indexes(table: Mapping[str, Any]) -> Iterator[str]:
    """The indexes of [[tool.uv.index]], which `uv export` leaves out."""
    uv = table.get("tool", {}).get("uv", {})
    for index in uv.get("index", []):
        flag = "--index-url" if index.get("default") else "--extra-index-url"
        flag = "--find-links" if index.get("format") == "flat" else flag
        yield f"{flag} {index['url']}"
    if isinstance(uv.get("index-url"), str):
        yield f"--index-url {uv['index-url']}"
    yield from (f"--extra-index-url {url}" for url in uv.get("extra-index-url", []))
    yield from (f"--find-links {place}" for place in uv.get("find-links", []))
    if uv.get("no-index"):
        yield "--no-index"
