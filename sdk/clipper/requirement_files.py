"""The requirements of `[environment]`: lines, or a file of the project with all that it includes, as pip reads them.

Included files are put in place, `-c` files become constraints, paths become relative to the project, and ${VARIABLES}
get the values of this machine, so that the platform needs no other file than the bundle's and no variable.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from clipper.contract.credentials import mask
from clipper.contract.requirements import (
    PLACES,
    Option,
    Requirement,
    check_hashes,
    expand_variables,
    has_scheme,
    logical_lines,
    parse_line,
)
from clipper.contract.rules import SpecError
from clipper.locked_requirements import read_project_requirements
from clipper.project_files import read_text

__all__ = ["Requirements", "read_requirements"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """Lines for a manifest, and the files that they came from."""

    lines: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def read_requirements(
    directory: Path | None,
    value: str | Iterable[str],
    constraints: str | Iterable[str] = (),
    *,
    where: str,
    environ: Mapping[str, str] | None = None,
) -> Requirements:
    """`value` and `constraints` are lines, or the name of a file in `directory`, which is None for a function without a
    project: it has no files.

    Raises SpecError, which names the file and the line, for what pip would refuse, files outside the project, and
    variables that are not set.
    """
    reader = _Reader(directory, os.environ if environ is None else environ)
    for source, constraint in ((value, False), (constraints, True)):
        if directory is not None and source in ("pyproject.toml", "uv.lock"):
            for logical in logical_lines(read_project_requirements(directory, where=where)):
                reader.read_line(logical, Path(), constraint=constraint, where=str(source))
            reader.files.append(str(source))
        elif isinstance(source, str):
            reader.read_file(source, Path(), constraint=constraint, where=where)
        else:
            for logical in (logical for line in source for logical in logical_lines(line)):
                reader.read_line(logical, Path(), constraint=constraint, where=where)
    try:
        check_hashes(reader.requirements, reader.constraints)
    except ValueError as error:
        raise SpecError(str(error), where=where, key="requirements") from None
    return Requirements(
        lines=(*(o.line for o in reader.options), *(r.line for r in reader.requirements)),
        constraints=tuple(r.line for r in reader.constraints),
        files=tuple(reader.files),
    )


@dataclass(slots=True)
class _Reader:
    directory: Path | None
    environ: Mapping[str, str]
    options: list[Option] = field(default_factory=list)
    requirements: list[Requirement] = field(default_factory=list)
    constraints: list[Requirement] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def read_file(self, name: str, base: Path, *, constraint: bool, where: str) -> None:
        """Read the file `name`, relative to `base`, the directory of the file that includes it."""
        if self.directory is None:
            raise SpecError(f"{name} is a file: a function without a project has none", where=where, key="requirements")
        path = os.path.normpath(base / name)
        if path in self.files:  # included twice, or by itself
            return
        text = read_text(self.directory, path, where=where, key="requirements")
        self.files.append(path)
        for line in logical_lines(text):
            self.read_line(line, Path(path).parent, constraint=constraint, where=path)

    def read_line(self, line: str, base: Path, *, constraint: bool, where: str) -> None:
        try:
            parsed = parse_line(expand_variables(line, self.environ))
        except ValueError as error:
            raise SpecError(
                f"requirement {mask(line)!r} is not allowed: {error}", where=where, key="requirements"
            ) from None
        if isinstance(parsed, Requirement):
            if parsed.path:
                parsed = replace(parsed, path=self._inside(parsed.path, base, where))
            (self.constraints if constraint else self.requirements).append(parsed)
            return
        for option in parsed:
            if option.flag in ("--requirement", "--constraint"):
                self.read_file(option.value, base, constraint=constraint or option.flag == "--constraint", where=where)
            elif option.flag in PLACES and not has_scheme(option.value.removeprefix("file:")):
                self.options.append(replace(option, value=self._place(option.value, base, where)))
            else:
                self.options.append(option)

    def _place(self, name: str, base: Path, where: str) -> str:
        """A directory of the project, or one of the machine by its absolute path: pip writes those of its
        configuration into the files of `pip-compile`."""
        path = Path(name.removeprefix("file://").removeprefix("file:"))
        if path.is_absolute() and (self.directory is None or not path.is_relative_to(self.directory)):
            return str(path)
        return self._inside(name, base, where)

    def _inside(self, name: str, base: Path, where: str) -> str:
        """The path relative to the project: of what is beside the file that names it, else of what pip would find from
        the project's directory."""
        if self.directory is None:
            raise SpecError(
                f"{name!r} is a file: a function without a project has none; deploy a project directory",
                where=where,
                key="requirements",
            )
        name = name.removeprefix("file://").removeprefix("file:")
        beside, here = (self.directory / base / name).resolve(), (self.directory / name).resolve()
        path = beside if beside.exists() and beside.is_relative_to(self.directory) else here
        if not path.is_relative_to(self.directory):
            raise SpecError(
                f"{name!r} lies outside the project: copy it in, so that it becomes a part of the bundle",
                where=where,
                key="requirements",
            )
        if not path.exists():
            raise SpecError(f"{name!r}: the project has no such file or directory", where=where, key="requirements")
        relative = path.relative_to(self.directory).as_posix()
        return relative if relative == "." else f"./{relative}"
