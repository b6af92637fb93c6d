"""Requirement lines in pip's file format: requirements by PEP 508, options as in pip's `req_file.py`.

Names, versions, extras, markers and hashes are read by `packaging`, the library that pip itself uses. Of the readers of
the file format none is kept (`pip-requirements-parser` had its last release in 2022), so that the few rules of lines
and options stand here. The client and the platform import this module; replicas do not have `packaging`.

https://pip.pypa.io/en/stable/reference/requirements-file-format/
"""

from __future__ import annotations

import optparse
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn
from urllib.parse import quote, unquote, urlsplit

from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as Pep508
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from clipper.contract.credentials import mask

__all__ = [
    "PLACES",
    "Option",
    "Requirement",
    "check_hashes",
    "expand_variables",
    "has_scheme",
    "logical_lines",
    "moving_requirements",
    "parse_line",
]

PLACES: Final = ("--index-url", "--extra-index-url", "--find-links")
"""Options whose value is an address, or a path of the project."""

_COMMENT: Final = re.compile(r"(^|\s+)#.*$")
_VARIABLE: Final = re.compile(r"\$\{([A-Z0-9_]+)\}")
_URL: Final = re.compile(r"(https?|ftp|file|(git|hg|svn|bzr)(\+[a-z]+)?):", re.IGNORECASE)
_ARCHIVE: Final = re.compile(r"\.(whl|zip|tar|tgz|tbz|txz|tlz|tar\.(gz|bz2|xz|lz|lzma))\Z", re.IGNORECASE)
_EXTRAS: Final = re.compile(r"(.+?)(\[[^\[\]]*\])\Z")
_COMMIT: Final = re.compile(r"@[0-9a-f]{40}\Z")
# Digits of a digest; `pip` takes these three.
_DIGESTS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One package. `specification` is PEP 508 as written, and empty for what `url` or `path` names without a name.

    `path` is a file or directory, relative to the project once the client has read the line.
    """

    specification: str = ""
    name: str = ""  # as the index spells it; empty if only the package's files know
    extras: str = ""  # "[a,b]"
    marker: str = ""
    url: str = ""
    path: str = ""
    editable: bool = False
    hashes: tuple[str, ...] = ()
    config_settings: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The requirement as one line, which `parse_line` reads again."""
        text = self.specification
        if self.path:
            plain = re.fullmatch(r"(\.{0,2}/)[\w./+-]*|\.", self.path)
            path = self.path if plain else f"file:{quote(self.path)}"
            named = f"{self.name}{self.extras} @ {path}" if self.name else f"{path}{self.extras}"
            text = f"{named} ; {self.marker}" if self.marker else named
        prefix = "-e " if self.editable else ""
        options = [f"--hash={digest}" for digest in self.hashes]
        options += [f"--config-settings={shlex.quote(setting)}" for setting in self.config_settings]
        return " ".join([prefix + text, *options])

    @property
    def pinned(self) -> bool:
        """Whether it always means the same files: one version of an index, a commit, or an address with a hash."""
        if self.url:
            address = self.url.partition("#")[0]
            return bool(self.hashes) or "sha256=" in self.url or ("+" in address and bool(_COMMIT.search(address)))
        if self.path:
            return False
        versions = list(Pep508(self.specification).specifier)
        return any(v.operator in ("==", "===") and not v.version.endswith(".*") for v in versions)

    @property
    def identity(self) -> str:
        """Equal for requirements that ask for the same; never what is installed. Without credentials."""
        if self.url or self.path:
            text = f"{self.name}{self.extras}@{mask(self.url) or self.path};{self.marker}"
        else:
            parsed = Pep508(self.specification)
            parsed.name = self.name
            text = str(parsed)
        return " ".join([text, *sorted(self.hashes), *self.config_settings])


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option that stands on a line of its own, by its long name, as in ("--index-url", "https://…")."""

    flag: str
    value: str = ""

    @property
    def line(self) -> str:
        return f"{self.flag} {self.value}".rstrip()

    @property
    def identity(self) -> str:
        return mask(self.line)


def logical_lines(text: str) -> Iterator[str]:
    """The lines of a requirements file: those that end with a backslash are continued, comments and blanks left out."""
    pending: list[str] = []
    for line in text.splitlines():
        comment = bool(_COMMENT.match(line))
        if line.endswith("\\") and not comment:
            pending.append(line.strip("\\"))
            continue
        # A comment ends a continued line; the blank before it keeps it apart from the last word.
        pending.append(" " + line if comment else line)
        yield from _content("".join(pending))
        pending = []
    yield from _content("".join(pending))


def _content(line: str) -> Iterator[str]:
    if stripped := _COMMENT.sub("", line).strip():
        yield stripped


def expand_variables(line: str, environ: Mapping[str, str]) -> str:
    """`line` with each ${NAME} replaced. Raises ValueError for a variable that is not set."""

    def value(match: re.Match[str]) -> str:
        if not environ.get(match[1]):
            raise ValueError(f"the environment variable {match[1]} is not set here")
        return environ[match[1]]

    return _VARIABLE.sub(value, line)


def parse_line(line: str) -> Requirement | tuple[Option, ...]:
    """One logical line: a requirement, or the options of a line that begins with one.

    Raises ValueError, with the reason, for what pip refuses and for options that uv cannot honour.
    """
    if any((ord(c) < 32 and c != "\t") or ord(c) == 127 for c in line):
        raise ValueError("it holds a control character")
    words = line.split(" ")
    first_option = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    text = " ".join(words[:first_option]).strip()
    options = _options(" ".join(words[first_option:]))
    if text and (misplaced := [option.flag for option in options if option.flag not in _OF_A_REQUIREMENT]):
        raise ValueError(f"{misplaced[0]} must stand on a line of its own")
    if text:
        return _with_options(_requirement(text), options)
    if editable := [option for option in options if option.flag == "--editable"]:
        rest = [option for option in options if option.flag != "--editable"]
        return _with_options(replace(_requirement(editable[0].value), editable=True), rest)
    if misplaced := [option.flag for option in options if option.flag in _OF_A_REQUIREMENT]:
        raise ValueError(f"{misplaced[0]} belongs to a requirement, on the same line")
    if not options:
        raise ValueError("it is empty")
    return tuple(options)


def _with_options(requirement: Requirement, options: list[Option]) -> Requirement:
    hashes = tuple(_digest(option.value) for option in options if option.flag == "--hash")
    settings = tuple(option.value for option in options if option.flag == "--config-settings")
    if bad := [setting for setting in settings if "=" not in setting]:
        raise ValueError(f"--config-settings {bad[0]!r} must have the form KEY=VALUE")
    return replace(requirement, hashes=hashes, config_settings=settings)


def _digest(value: str) -> str:
    algorithm, _, digits = value.partition(":")
    if len(digits) != _DIGESTS.get(algorithm) or not re.fullmatch(r"[0-9a-fA-F]+", digits):
        raise ValueError(f"--hash={value[:80]} is not an algorithm and its digits, as in sha256:2cf24dba… (64 digits)")
    return f"{algorithm}:{digits.lower()}"


def check_hashes(requirements: Iterable[Requirement], constraints: Iterable[Requirement]) -> bool:
    """Whether hashes are required: as with pip, one hash asks for those of all. Raises ValueError where one is missing.

    A requirement whose marker may leave it out, a commit and a directory need none: `uv export` writes such lines.
    """
    needed = [r for r in requirements if not (r.path or r.marker or (r.url and r.pinned))]
    with_hash = {c.name for c in constraints if c.hashes}
    if not with_hash and not any(r.hashes for r in requirements):
        return False
    for requirement in needed:
        text = mask(requirement.specification)
        if not requirement.hashes and requirement.name not in with_hash:
            raise ValueError(f"{text!r} has no --hash: where one requirement has it, all need it")
        if not requirement.pinned and requirement.name not in with_hash:
            raise ValueError(f"{text!r} has a --hash and no version: pin it with ==")
    return True


def moving_requirements(lines: Iterable[str]) -> list[Requirement]:
    """Those whose address may give other files tomorrow. Raises ValueError for a line that cannot be read."""
    parsed = (parse_line(line) for line in lines)
    return [r for r in parsed if isinstance(r, Requirement) and r.url and not r.pinned]


def has_scheme(address: str) -> bool:
    """Whether it is an address and not a path."""
    return bool(re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:", address))


# Requirements


def _requirement(text: str) -> Requirement:
    if _URL.match(text) or _is_path(text):
        return _unnamed(text)
    try:
        parsed = Pep508(text)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise ValueError(f"{reason}; write it as pip would read it, as in name>=1.2") from None
    extras = f"[{','.join(sorted(parsed.extras))}]" if parsed.extras else ""
    requirement = Requirement(
        specification=text,
        name=canonicalize_name(parsed.name),
        extras=extras,
        marker=str(parsed.marker or ""),
    )
    return _with_target(requirement, parsed.url) if parsed.url else requirement


def _is_path(text: str) -> bool:
    """Whether pip looks for a file or a directory of this name: `./wheels/x.whl`, `x.whl`, `../lib[extra]`, but not
    `name @ ./x.whl`."""
    before = text.partition("@")[0]
    target = _split_marker(text, ";")[0]
    named = "@" in text and not before.startswith(".") and "/" not in before
    return not named and (target.startswith(".") or "/" in target or bool(_ARCHIVE.search(_split_extras(target)[0])))


def _unnamed(text: str) -> Requirement:
    """A requirement without a name: an address or a path, maybe with extras and a marker."""
    target, marker = _split_marker(text, " ;" if _URL.match(text) else ";")
    target, extras = _split_extras(target)
    if re.search(r"\s", target) and _URL.match(text):
        raise ValueError("an address must not hold blanks")
    if marker:
        try:
            marker = str(Pep508(f"x ; {marker}").marker)
        except InvalidRequirement as error:
            raise ValueError(str(error).splitlines()[0].rstrip(":")) from None
    requirement = _with_target(Requirement(extras=extras, marker=marker, specification=text), target)
    egg = re.search(r"[#&]egg=([A-Za-z0-9._-]+)", requirement.url)
    return replace(requirement, name=canonicalize_name(egg[1])) if egg else requirement


def _with_target(requirement: Requirement, target: str) -> Requirement:
    scheme = urlsplit(target).scheme.lower()
    if scheme and scheme != "file":
        if not _URL.match(target):
            raise ValueError(f"addresses of the form {scheme}: are not understood")
        return replace(requirement, url=target)
    path = target
    if scheme == "file":
        parts = urlsplit(target)
        if parts.netloc not in ("", "localhost"):
            raise ValueError("a file: address must name a file of this machine")
        path = unquote(parts.path)
    if path.lower().endswith(".whl"):
        try:
            parse_wheel_filename(path.rpartition("/")[2])
        except InvalidWheelFilename:
            raise ValueError(f"{path.rpartition('/')[2]} is not the name of a wheel") from None
    return replace(requirement, path=path, specification="")


def _split_marker(text: str, separator: str) -> tuple[str, str]:
    target, _, marker = text.partition(separator)
    return target.strip(), marker.strip()


def _split_extras(target: str) -> tuple[str, str]:
    match = _EXTRAS.match(target)
    return (match[1].strip(), match[2]) if match else (target, "")


# Options


class _Parser(optparse.OptionParser):
    """pip's own parser is one of these: short, attached and abbreviated forms are read as pip reads them."""

    def error(self, msg: str) -> NoReturn:
        raise ValueError(msg)


_OF_A_REQUIREMENT: Final = frozenset({"--hash", "--config-settings"})
_WITH_VALUE: Final = (
    ("-i", "--index-url", "--pypi-url"),
    ("--extra-index-url",),
    ("-f", "--find-links"),
    ("-r", "--requirement"),
    ("-c", "--constraint"),
    ("-e", "--editable"),
    ("--no-binary",),
    ("--only-binary",),
    ("--trusted-host",),
    ("--use-feature",),
    ("--global-option",),
    ("--hash",),
    ("-C", "--config-settings", "--config-setting"),
)
_WITHOUT_VALUE: Final = ("--no-index", "--pre", "--prefer-binary", "--require-hashes")
# pip reads these; uv, which installs, has no counterpart.
_NOT_HONOURED: Final = {"--global-option": "packages are built by PEP 517; use --config-settings"}


def _options(text: str) -> list[Option]:
    """The options in their order. Raises ValueError for unknown ones."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"the options cannot be read: {error}") from None
    found: list[Option] = []

    def take(option: optparse.Option, _: str, value: str | None, __: Any) -> None:
        found.append(Option(flag=option._long_opts[0], value=value or ""))

    parser = _Parser(add_help_option=False, usage="")
    for names in _WITH_VALUE:
        parser.add_option(*names, action="callback", callback=take, type="string")
    for name in _WITHOUT_VALUE:
        parser.add_option(name, action="callback", callback=take)
    _, extra = parser.parse_args(words)
    if extra:
        raise ValueError(f"{extra[0]!r} follows the options; a requirement stands before its options")
    for option in found:
        if option.flag in _NOT_HONOURED:
            raise ValueError(f"{option.flag} cannot be honoured: {_NOT_HONOURED[option.flag]}")
    return found
