"""The text and TOML files of a project directory: `clip.toml` and those that it names."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

from clipper.contract.rules import SpecError

__all__ = ["PROJECT_FILE", "read_table", "read_text", "read_toml"]

PROJECT_FILE: Final = "clip.toml"

# Larger than any settings file; keeps a wrong name (a model's weights) out of memory.
_MAX_TEXT_BYTES: Final = 4 * 1024 * 1024


def read_table(directory: Path) -> dict[str, Any]:
    """clip.toml of the project in `directory`, not validated. Raises SpecError."""
    if not directory.is_dir():
        raise SpecError(f"{directory} is not a directory")
    if not (directory / PROJECT_FILE).is_file():
        raise SpecError(f"there is no {PROJECT_FILE} in {directory}; `clip init` makes a project to start from")
    return read_toml(directory, PROJECT_FILE, where=PROJECT_FILE, key="")


def read_toml(directory: Path, name: str, *, where: str, key: str) -> dict[str, Any]:
    """A TOML file of the project. `where` and `key` say in a refusal what named it. Raises SpecError."""
    text = read_text(directory, name, where=where, key=key)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"not valid TOML: {error}", where=name) from None
    except RecursionError:
        raise SpecError("not valid TOML: nested too deeply", where=name) from None


def read_text(directory: Path, name: str, *, where: str, key: str) -> str:
    """A UTF-8 file inside the project, with or without a byte order mark. Raises SpecError."""
    path = (directory / name).resolve()
    if not path.is_relative_to(directory):
        raise SpecError(f"{key} = {name!r} lies outside the project", where=where, key=key)
    if not path.is_file():
        raise SpecError(f"{key} = {name!r}: the project has no such file", where=where, key=key)
    try:
        if path.stat().st_size > _MAX_TEXT_BYTES:
            raise SpecError(f"{name} is larger than {_MAX_TEXT_BYTES} bytes", where=where, key=key)
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{name} is not UTF-8 text: {error.reason} at byte {error.start}", where=where, key=key
        ) from None
    except OSError as error:
        raise SpecError(f"{name} cannot be read: {error.strerror}", where=where, key=key) from None
