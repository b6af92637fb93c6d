"""What an environment is asked to hold, as steps for uv, and as the identity by which equal requests share one.

uv gets each requirement as it was written: the identity, in which names and versions have one form, is only hashed.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from packaging.utils import canonicalize_name

from clipper.contract.credentials import mask
from clipper.contract.manifest import PACKAGES, REBUILT
from clipper.contract.requirements import PLACES, Option, Requirement, check_hashes, has_scheme, parse_line
from clipper.contract.spec import EnvironmentSpec
from clipper_platform.environments.moving import pinned
from clipper_platform.errors import DeployFailed

__all__ = ["Installation", "Step"]

# Options that uv reads in a requirements file. The others have a flag of its command line.
_IN_FILE: Final = frozenset(
    {"--index-url", "--extra-index-url", "--find-links", "--no-index", "--no-binary", "--only-binary"}
)
_AS_FLAG: Final = {"--pre": "--prerelease=allow", "--trusted-host": "--allow-insecure-host"}
_PROJECT_FILES: Final = ("pyproject.toml", "setup.py")
_PROVIDED: Final = frozenset({"clipper"})  # importable in every function, from the platform that runs it
# With hashes a package from any index is the one that was asked for, so that, as with pip, all are searched.
_HASHED: Final = ("--require-hashes", "--index-strategy=unsafe-best-match")
# A version that the first index does not have comes from the next one that has it, as where a file of `pip-compile`
# names an index beside the usual one. Of several that fit, those of the first index win.
_OF_INDEXES: Final = ("--index-strategy=unsafe-first-match",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One `uv pip install` of `lines`, with `also`, which the runtime needs. `bounds` are versions that packages must
    have if they are installed."""

    lines: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    bounds: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def hashed(self) -> bool:
        """Whether each line names the one file that it means."""
        return _HASHED[0] in self.flags


class Installation:
    """Parsed requirements. `files` is the project's directory, to which paths are relative.

    `packages` are the versions that the environment had when it was built first, and gets again; they are no part of
    the identity. Raises DeployFailed for lines that cannot be read and for files that are not there. Reads the files.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        runtime: Sequence[str],
        files: Path | None,
        meanings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._files = files
        self._meanings = meanings
        self.runtime = tuple(runtime)
        self._options, self._requirements = _parse(spec.requirements)
        _, self._constraints = _parse(spec.constraints)
        if provided := [r.name for r in self._requirements if r.name in _PROVIDED]:
            raise _refused(
                f"the package {provided[0]!r} clashes with the runtime, which brings its own: leave it out of the "
                "requirements"
            )
        self._hashed = self._check_hashes()
        self.packages = tuple(meanings.get(PACKAGES, "").split())
        self.identity = self._identify(spec)

    def _check_hashes(self) -> bool:
        try:
            required = check_hashes(self._requirements, self._constraints)
        except ValueError as error:
            raise _refused(str(error)) from None
        return required or any(option.flag == "--require-hashes" for option in self._options)

    def _identify(self, spec: EnvironmentSpec) -> dict[str, Any]:
        """A JSON object that is equal for equal requests."""
        runtime = _parse(self.runtime)[1]
        identity: dict[str, Any] = {
            "requirements": [
                *(self._option_identity(option) for option in self._options),
                *sorted({self._requirement_identity(r) for r in (*self._requirements, *runtime)}),
            ]
        }
        if self._constraints:
            identity["constraints"] = sorted({self._requirement_identity(r) for r in self._constraints})
        if spec.exclude:  # absent where nothing is excluded, so that other environments keep their ids
            identity["exclude"] = sorted({canonicalize_name(name) for name in spec.exclude})
        if rebuilt := self._meanings.get(REBUILT):
            identity[REBUILT] = rebuilt
        return identity

    def _requirement_identity(self, requirement: Requirement) -> str:
        """A path stands for its content: the same wheel of another project is the same, a changed one is another."""
        if requirement.url:
            return f"{requirement.identity} {self._meanings.get(mask(requirement.url), '')}".rstrip()
        if not requirement.path:
            return requirement.identity
        path = self._find(requirement.path)
        return replace(requirement, path=f"{path.name}#{_content_digest(path)}").identity

    def _option_identity(self, option: Option) -> str:
        if self._is_elsewhere(option):
            return option.identity
        return f"{option.flag} {_content_digest(self._find(option.value))}"

    @staticmethod
    def _is_elsewhere(option: Option) -> bool:
        """Whether it names no directory of the project."""
        return option.flag not in PLACES or has_scheme(option.value) or Path(option.value).is_absolute()

    def _find(self, name: str) -> Path:
        """The file or directory of the project. Only callers inside the platform give absolute paths."""
        if Path(name).is_absolute():
            path = Path(name)
        elif self._files is None:
            raise _refused(f"{name!r} is a file of a project, and there is none: requirements must be in an index")
        else:
            path = (self._files / name).resolve()
            if not path.is_relative_to(self._files.resolve()):
                raise _refused(f"{name!r} lies outside the project")
        if not path.exists():
            raise _refused(f"{name!r} is not in the bundle: an ignore file may leave it out")
        return path

    def steps(self, scratch: Path) -> list[Step]:
        """What uv has to run, in order. Copies directories that get built into `scratch`: a build writes into them."""
        options = tuple(self._option_line(option) for option in self._options if self._counts(option))
        flags = tuple(
            _AS_FLAG[option.flag] + (f"={option.value}" if option.value else "")
            for option in self._options
            if option.flag in _AS_FLAG
        )
        if any(not name.startswith("git+") for name in self._meanings.keys() - {PACKAGES}):
            flags += ("--refresh",)  # what uv has cached of an address or an index may be what it meant before
        flags += tuple(flag for r in self._requirements for flag in _config_flags(r))
        lines = {requirement: self._line(requirement, scratch) for requirement in self._requirements}
        if not self._hashed and not options:
            return [Step(lines=tuple(lines.values()), also=self.runtime, flags=flags, bounds=self.packages)]
        # What the runtime needs comes last and from where the platform gets packages: the project's index, files and
        # hashes may not have it. Its versions bound the steps before.
        runtime = Step(also=self.runtime, bounds=self.packages)
        if not self._hashed:
            bounds = (*self.runtime, *self.packages)
            return [Step(lines=(*options, *lines.values()), flags=(*flags, *_OF_INDEXES), bounds=bounds), runtime]
        # What has no hash is named in the file by its commit or its place; the hashed lines hold what it depends on.
        named = tuple(line for r, line in lines.items() if not r.hashes and (r.path or r.url))
        hashed = tuple(line for line in lines.values() if line not in named)
        steps = [Step(lines=(*options, *hashed), flags=(*flags, *_HASHED))]
        if named:
            steps.append(Step(lines=(*options, *named), flags=(*flags, "--no-deps")))
        # A bound without a hash is refused there, so that the runtime's step finds out whether the versions allow it.
        versions = tuple(r.specification for r in self._requirements if r.name and not r.url)
        return [*steps, replace(runtime, bounds=(*versions, *self.packages))]

    @property
    def files(self) -> list[Path]:
        """What an installation reads of the project."""
        return [] if self._files is None else [self._files]

    @property
    def constraints(self) -> tuple[str, ...]:
        return tuple(requirement.line for requirement in self._constraints)

    @staticmethod
    def _counts(option: Option) -> bool:
        """As with pip, a directory that is not on this machine is no error: the lines may come from another one."""
        missing = option.flag in PLACES and Path(option.value).is_absolute() and not Path(option.value).exists()
        return option.flag in _IN_FILE and not missing

    def _option_line(self, option: Option) -> str:
        if not self._is_elsewhere(option):
            return f"{option.flag} {self._find(option.value).as_uri()}"
        return option.line

    def _line(self, requirement: Requirement, scratch: Path) -> str:
        # Per-requirement settings travel as flags: uv reads none in a file but --hash.
        plain = replace(requirement, config_settings=(), editable=False)
        if not plain.path:
            return pinned(plain, self._meanings).line
        path = self._find(plain.path)
        if path.is_dir():
            if not any((path / name).is_file() for name in _PROJECT_FILES):
                raise _refused(f"{plain.path!r} holds no Python project: it has no {' or '.join(_PROJECT_FILES)}")
            copy = scratch / hashlib.sha256(plain.path.encode()).hexdigest()[:16] / path.name
            shutil.copytree(path, copy, dirs_exist_ok=True)
            _make_writable(copy)  # the files of a version are not
            path = copy
        return replace(plain, path=str(path)).line


def _parse(lines: Iterable[str]) -> tuple[list[Option], list[Requirement]]:
    options: list[Option] = []
    requirements: list[Requirement] = []
    for line in lines:
        try:
            parsed = parse_line(line)
        except ValueError as error:
            raise _refused(f"requirement {mask(line)!r} is not allowed: {error}") from None
        if isinstance(parsed, Requirement):
            requirements.append(parsed)
        else:
            options.extend(parsed)
    return options, requirements


def _refused(message: str) -> DeployFailed:
    hint = "write the requirements as pip would read them, then deploy again"
    return DeployFailed(message, phase="environment", log=[message], hint=hint)


def _config_flags(requirement: Requirement) -> list[str]:
    if requirement.name:
        return [f"--config-settings-package={requirement.name}:{setting}" for setting in requirement.config_settings]
    return [f"--config-settings={setting}" for setting in requirement.config_settings]


def _make_writable(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | stat.S_IWUSR)


def _content_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and the contents of all files below a directory."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file.relative_to(path)}\0{_content_digest(file)}\0".encode())
        return digest.hexdigest()
    with path.open("rb") as file_object:
        while chunk := file_object.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
