"""Writes a project around a model: app.py, clip.toml, the model's own files, and what keeps them in the bundle."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from clipper.models.description import Model

__all__ = ["PROJECT_FILES", "write_project"]

PROJECT_FILES: Final = ("app.py", "clip.toml", ".clipignore")


def write_project(
    model: Model,
    directory: Path,
    *,
    name: str,
    function: str = "",
    smoke: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write the project into `directory`, which has none of its files yet; the names of what was written.

    `function` gives the model's function another name. `smoke` replaces the call that the model proposes. `options` are
    the function's, beside those in app.py. Raises OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    texts = {
        "app.py": model.app,
        "clip.toml": settings(
            model, name, function or model.function, smoke if smoke is not None else model.smoke, options or {}
        ),
        ".clipignore": _kept(model),
    }
    for file, text in texts.items():
        with (directory / file).open("x", encoding="utf-8") as out:
            out.write(text)
        written.append(file)
    for target, source in model.files:
        _copy(source, directory / target)
        written.append(target)
    return written


def _copy(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        return  # the project is made where the model lies
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(source, target)


def _kept(model: Model) -> str:
    lines = ["# The model belongs to the bundle, also where Git ignores files of its kind."]
    for target, source in model.files:
        escaped = re.sub(r"([\\*?\[\]!# ])", r"\\\1", target)
        lines += [f"!/{escaped}/", f"!/{escaped}/**"] if source.is_dir() else [f"!/{escaped}"]
    return "\n".join(lines) + "\n"


def settings(
    model: Model, name: str, function: str, smoke: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> str:
    """clip.toml."""
    if function != model.function:
        options = {"entrypoint": f"app:{model.function.capitalize()}", **options}
    lines = [f"name = {_toml(name)}", "", "[environment]"]
    if model.python:
        lines.append(f"python = {_toml(model.python)}")
    lines.append("requirements = [")
    lines += [f"    {_toml(line)}," for line in model.requirements]
    lines.append("]")
    if any(line.startswith("torch") for line in model.requirements):
        lines += [
            "# On Linux the index has PyTorch with CUDA, several gigabytes. For the CPU alone, put the index that",
            '# pytorch.org names for it before the others: "--extra-index-url …"',
        ]
    if options:
        lines += ["", f"[functions.{function}]", *(f"{key} = {_toml(value)}" for key, value in options.items())]
    if smoke is not None:
        lines += [
            "",
            "# A new version answers this call before it gets any traffic.",
            "[deploy.smoke]",
            f"{function} = {_toml(smoke)}",
        ]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(str(key))} = {_toml(one)}" for key, one in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        # JSON's escapes are those of TOML, except for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)
