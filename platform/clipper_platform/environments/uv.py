"""Running `uv`: its output goes to the caller line by line, and none of its processes outlives the caller.

uv gets a session of its own and dies with the platform (PDEATHSIG). What it starts in turn, such as the build of a
source distribution, is killed with its process group; should the platform be killed, the instance's marker in
their environment lets the guardian find them.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import msgspec
import uv

from clipper.contract.confinement import CONFINEMENT_VARIABLE, Confinement, encode

__all__ = ["Confined", "Uv", "UvError", "explain", "hint_for", "in_conflict", "uv_environment"]

# Has the kernel kill it with its parent, confines itself, then becomes uv. A parent that ended before prctl has another
# pid by now.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None, use_errno=True).prctl(1, 9)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
if sys.argv[2]:
    sys.path.insert(0, sys.argv[2])
    sys.dont_write_bytecode = True
    from clipper_runtime.confinement import confine, take_rules
    confine(take_rules())
os.execv(sys.argv[3], sys.argv[3:])
"""

# The variables of the platform that uv and the builds it runs get: where to fetch from and how, and what compilers
# need. All others, keys and secrets above all, are hidden from packages' build scripts.
_PASSED = re.compile(
    r"(HOME|USER|LOGNAME|PATH|TMPDIR|TZ|LANG|LANGUAGE|NETRC|SSH_AUTH_SOCK"
    r"|CC|CXX|CPP|AR|LD|FC|(C|CXX|CPP|LD|F|MAKE)FLAGS|PKG_CONFIG_PATH|LD_LIBRARY_PATH|CUDA_(HOME|PATH)"
    r"|(?i:(http|https|all|no)_proxy)|(REQUESTS|CURL)_CA_BUNDLE|(LC|XDG|SSL|UV|PIP|GIT|CARGO|RUSTUP|KEYRING)_\w+)\Z"
)
# These would point uv at another environment or project than the one that is built, or change the output.
_REFUSED = re.compile(
    r"UV_(PYTHON|PROJECT|PROJECT_ENVIRONMENT|WORKING_DIR(ECTORY)?|SYSTEM_PYTHON|TARGET|PREFIX|REQUIREMENTS?|VENV_\w+"
    r"|BREAK_SYSTEM_PACKAGES|QUIET|VERBOSE|NO_BUILD_ISOLATION)\Z"
)

_MAX_LINE_CHARS = 2_000
_STREAM_LIMIT_BYTES = 1 << 20


class UvError(Exception):
    """uv ended with a status other than 0; `lines` are the last of its output."""

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.lines = list(lines)


def uv_environment(environ: Mapping[str, str], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment that uv runs in."""
    passed = {key: value for key, value in environ.items() if _PASSED.match(key) and not _REFUSED.match(key)}
    if wheels := _wheels_of_pip(passed):
        passed["UV_FIND_LINKS"] = wheels
    # Output for a program: no colours, no wrapped lines, no prompts.
    return passed | {"NO_COLOR": "1", "UV_NO_WRAP": "1", "GIT_TERMINAL_PROMPT": "0"} | dict(extra or {})


def _wheels_of_pip(environ: Mapping[str, str]) -> str:
    """The places of wheels that this machine's pip is told of, for uv, which does not read pip's variable.

    They add to the index what lies on the machine already. As with pip, a directory that is not there is no error.
    """
    places = [] if "UV_FIND_LINKS" in environ else environ.get("PIP_FIND_LINKS", "").split()
    return ",".join(place for place in places if "://" in place or Path(place).is_dir())


@dataclass(frozen=True, slots=True)
class Confined:
    """How uv is confined. `runtime` holds the package `clipper_runtime`; `cache` is a directory for a cache of its own,
    for where the confinement has no overlay of the user's."""

    runtime: Path
    confinement: Confinement
    cache: Path

    def writing(self, path: Path) -> Confined:
        """The same with another writable directory."""
        read_only = [one for one in self.confinement.read_only if one != str(path)]
        return replace(
            self, confinement=msgspec.structs.replace(self.confinement, read_only=read_only, writable=[str(path)])
        )

    def environ(self) -> dict[str, str]:
        """For the launcher and for uv. Files are copied: hard links to the cache would let a build change it."""
        own = {CONFINEMENT_VARIABLE: encode(self.confinement).decode(), "UV_LINK_MODE": "copy"}
        return own if self.confinement.overlays else own | {"UV_CACHE_DIR": str(self.cache)}


class Uv:
    """The uv binary that is installed with the platform."""

    def __init__(self, *, cwd: Path, environ: Mapping[str, str]) -> None:
        self._binary = uv.find_uv_bin()
        self._cwd = cwd
        self.environ = dict(environ)

    async def run(
        self,
        *arguments: str | Path,
        on_line: Callable[[str], None] | None = None,
        keep_open: int | None = None,
        confined: Confined | None = None,
    ) -> list[str]:
        """Run `uv ARGUMENTS` to its end; returns the last 200 lines of its output.

        `keep_open`: a descriptor that uv and its children inherit, a lock for instance. Raises UvError when it
        fails. Cancelling kills its process group and returns once uv is gone.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(confined.runtime) if confined else "", self._binary),
            *map(str, arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self._cwd,
            env=self.environ | (confined.environ() if confined else {}),
            start_new_session=True,
            pass_fds=() if keep_open is None else (keep_open,),
            limit=_STREAM_LIMIT_BYTES,
        )
        lines: deque[str] = deque(maxlen=200)
        try:
            await _read_lines(process, lines, on_line)
            status = await process.wait()
        finally:
            await _end(process)
        if status != 0:
            raise UvError(f"uv ended with status {status}", tuple(lines))
        return list(lines)


async def _read_lines(
    process: asyncio.subprocess.Process, lines: deque[str], on_line: Callable[[str], None] | None
) -> None:
    stream = cast(asyncio.StreamReader, process.stdout)  # it was asked for, so it is there
    while True:
        try:
            raw = await stream.readline()
        except ValueError:  # a line over the stream's limit is dropped
            continue
        if not raw:
            return
        line = raw.decode("utf-8", "replace").rstrip()[:_MAX_LINE_CHARS]
        if line:
            lines.append(line)
            if on_line is not None:
                on_line(line)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kills the rest of the process group. A group without members is no error."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if process.returncode is None:
        # Bounded by the kill above; shielded, so that a second cancellation does not leave a zombie.
        await asyncio.shield(asyncio.ensure_future(process.wait()))


def explain(lines: Sequence[str]) -> str:
    """uv's own explanation in one paragraph, out of its output: from `error:` on, causes joined, progress left out.

    >>> explain(["Using Python 3.11.7", "error: No solution found", "  cause: Because x was not found, …"])
    'No solution found: Because x was not found, …'
    """
    start = next((i for i, line in enumerate(lines) if re.match(r"\s*(error:|×)", line)), None)
    if start is None:
        return lines[-1].strip() if lines else "uv printed nothing"
    parts: list[str] = []
    for line in lines[start:]:
        text = re.sub(r"^(error:|cause:|×|├─▶|╰─▶|│|\[stderr\]|\[stdout\]|hint:)\s*", "", line.strip())
        if text and not set(text) <= set("^~ "):
            parts.append(text.rstrip(":"))
    text = ": ".join(parts)
    return text if len(text) <= 4_000 else text[:4_000] + " …"


def in_conflict(lines: Sequence[str], requirements: Iterable[str]) -> list[str]:
    """Those of `requirements` whose package uv names in an explanation of versions that contradict each other."""
    text = explain(lines)
    if "No solution" not in text:
        return []
    return [line for line in requirements if re.search(rf"\b{re.split('[^A-Za-z0-9_-]', line)[0]}\b", text)]


# Patterns in uv's output, the most specific first, and what the reader can do.
_HINTS: tuple[tuple[str, str], ...] = (
    (r"No space left", "the platform's disk is full: free some space, then deploy again"),
    (
        r"dns error|tcp connect|error sending request|Failed to fetch|timed out|client error|certificate|offline",
        "the package index cannot be reached from the platform: check its network, proxy and UV_DEFAULT_INDEX",
    ),
    (r"Couldn't parse|Failed to parse|no such comparison", "write the requirement as pip would read it: name>=1.2"),
    (r"not found in the package registry", "check the spelling of the package's name in requirements"),
    (r"there (is|are) no versions? of|only .* available", "ask for a version of the package that exists"),
    (
        r"[Ff]ailed to build|build backend|setup\.py|gcc|cc1",
        "the package has to be compiled: choose a version that has a wheel for this Python, or install its compilers "
        "on the platform's machine",
    ),
    (r"Requires-Python|Python.*does not satisfy|Python[<>=]", "choose another python in [environment]"),
    (r"unsatisfiable|incompatible|No solution", "loosen the versions that contradict each other"),
)


def hint_for(text: str) -> str:
    """What to do about uv's explanation."""
    for pattern, hint in _HINTS:
        if re.search(pattern, text):
            return hint
    return "correct the requirements in clip.toml, then deploy again"
