"""`clip doctor`: checks this machine and the platform; each finding has its fix."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click

from clipper.cli import platform_extra, storage
from clipper.cli.console import FAIL, OK, WARN, Output
from clipper.cli.options import connect, json_option, yes_option
from clipper.cli.problems import CommandFailed, advice
from clipper.cli.text import size
from clipper.contract.version import VERSION
from clipper.errors import ClipperError
from clipper.location import home_directory

__all__ = ["Check", "doctor", "examine"]

Result = Literal["ok", "warn", "fail"]

_PYTHON_NEEDED = (3, 11)
# An environment with scikit-learn takes about 400 MB, one with a CPU build of PyTorch about 1 GB.
_DISK_WARN_BYTES = 2 * 1024**3
_DISK_FAIL_BYTES = 200 * 1024**2
# A replica takes about five descriptors, each client connection one.
_FILES_NEEDED = 1024
_PROBE_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `fix` is what to do unless `result` is "ok"."""

    name: str
    result: Result
    detail: str
    fix: str = ""


@click.command()
@click.option("--clean", is_flag=True, help="Remove what the platform stores and does not use any more.")
@yes_option
@json_option
def doctor(clean: bool, yes: bool, out: Output) -> int:
    """Check this machine and the platform.

    Every finding comes with its fix; exits with 1 if something is broken. Shows what the platform stores. With
    --clean, temporary directories that killed platforms left on this machine go too.
    """
    checks = _print_checks(out)
    failed = any(c.result == "fail" for c in checks)
    stored: dict[str, Any] = {"storage": None, "removed": None, "leftovers": None}
    if any((c.name, c.result) == ("platform", "ok") for c in checks):
        with connect() as control:
            stored["storage"] = storage.show(out, control, hint=not clean)
            if clean:
                stored["removed"] = storage.clean(out, control, stored["storage"], yes=yes)
    elif clean:
        out.line("Nothing stored was removed: that is for a platform to do, and there is none.")
    if clean:
        stored["leftovers"] = _sweep(out)
    if out.json:
        out.document({"ok": not failed, "checks": [asdict(c) for c in checks], **stored})
    elif not failed:
        out.line()
        out.line("All is well." if all(c.result == "ok" for c in checks) else "Nothing is broken.")
    return 1 if failed else 0


def _sweep(out: Output) -> list[str]:
    """Remove what killed platforms left in the system's temporary directory. Returns the directories."""
    try:
        sweep = platform_extra.load("sweep")
    except CommandFailed:
        return []  # no platform ran here
    leftovers: list[str] = sweep()
    if leftovers:
        directories = "1 temporary directory" if len(leftovers) == 1 else f"{len(leftovers)} temporary directories"
        out.line((f"{OK} ", "green"), f"Removed {directories} of killed platforms")
    return leftovers


def _print_checks(out: Output) -> list[Check]:
    marks = {"ok": (OK, "green"), "warn": (WARN, "yellow"), "fail": (FAIL, "red")}
    checks = []
    for check in examine():
        checks.append(check)
        mark, style = marks[check.result]
        out.line((f"{mark} ", style), (f"{check.name:<20}", "bold"), f" {check.detail}")
        if check.fix:
            out.line(("    → ", "cyan"), check.fix)
    return checks


def examine() -> Iterator[Check]:
    """The findings one by one, since some checks take a second."""
    yield check_python(sys.version_info[:3])
    yield check_platform_extra()
    uv = find_uv()
    yield check_uv(uv)
    if uv:
        yield check_interpreters(uv)
    yield from check_platform()
    home = home_directory()
    yield check_home(home)
    yield check_disk(home, shutil.disk_usage(_existing(home)).free)
    yield check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE))


def check_python(version: tuple[int, ...]) -> Check:
    words = ".".join(map(str, version))
    if version >= _PYTHON_NEEDED:
        return Check("Python", "ok", f"{words} at {sys.executable}")
    needed = ".".join(map(str, _PYTHON_NEEDED))
    return Check("Python", "fail", f"{words} is too old", f"Install clipper under Python {needed} or newer")


def check_platform_extra() -> Check:
    try:
        platform_extra.load("up")
    except CommandFailed as error:
        return Check(
            "platform extra", "warn", f"{error}; this machine can call a platform, not run one", " ".join(advice(error))
        )
    return Check("platform extra", "ok", "installed: `clip up` works here")


def find_uv() -> str | None:
    """Beside this Python, where the platform extra installs it, else on PATH."""
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")


def check_uv(uv: str | None) -> Check:
    if uv is None:
        return Check("uv", "warn", "not found; the platform builds environments with it", "pip install uv")
    code, text = _ask([uv, "--version"])
    if code == 0:
        return Check("uv", "ok", f"{text.strip()} at {uv}")
    return Check("uv", "fail", f"{uv} does not run: {text.strip()}", "pip install --force-reinstall uv")


def check_interpreters(uv: str) -> Check:
    code, text = _ask([uv, "python", "list", "--only-installed", "--offline", "--no-config"])
    names = [line.split()[0].removeprefix("cpython-").partition("-")[0] for line in text.splitlines() if line.split()]
    found = sorted(set(names), key=lambda n: [int(p) for p in n.split(".") if p.isdigit()]) if code == 0 else []
    if found:
        return Check("interpreters", "ok", ", ".join(found))
    return Check(
        "interpreters", "warn", "uv finds no Python for functions to run on", "Install one: uv python install 3.11"
    )


def check_platform() -> Iterator[Check]:
    """Reachable, the key accepted, the same version as this client."""
    try:
        with connect() as control:
            info = control.info()
    except (ClipperError, CommandFailed) as error:
        refused = getattr(error, "status", 0) in (401, 403)
        if refused:
            yield Check("platform", "ok", "reachable")
        yield Check("API key" if refused else "platform", "fail", str(error), " ".join(advice(error)))
        return
    yield Check("platform", "ok", f"{info['url']}, {info['backend']} backend")
    isolation = info.get("isolation") or {}
    holds = isolation.get("mode") not in (None, "none", "users")  # users alone do not confine builds of packages
    unknown = "the platform does not say: it is older than this client"
    yield Check("isolation", "ok" if holds else "warn", isolation.get("detail", unknown), isolation.get("fix", ""))
    key = info.get("key") or {}
    yield Check("API key", "ok", f"accepted: {key.get('name')} ({', '.join(key.get('scopes') or ())})")
    if info["version"] == VERSION:
        yield Check("versions", "ok", f"{VERSION} here and there")
    else:
        detail = f"{VERSION} here, {info['version']} on the platform"
        yield Check("versions", "warn", detail, f"pip install clipper=={info['version']}, or upgrade the platform")


def check_home(home: Path) -> Check:
    place = _existing(home)
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return Check("home", "ok", f"{home}{'' if home == place else ' (made on first use)'}")
    return Check("home", "fail", f"{home} is not writable", "chown it to you, or set CLIP_HOME to a directory that is")


def check_disk(home: Path, free: int) -> Check:
    detail = f"{size(free)} free at {_existing(home)}"
    fix = "Make room (clip doctor --clean), or set CLIP_HOME to a larger disk"
    if free < _DISK_FAIL_BYTES:
        return Check("disk space", "fail", detail, fix)
    if free < _DISK_WARN_BYTES:
        return Check("disk space", "warn", f"{detail}: little for environments with large packages", fix)
    return Check("disk space", "ok", detail)


def check_open_files(limits: tuple[int, int]) -> Check:
    """`limits`: soft and hard limit of RLIMIT_NOFILE; -1 is none."""
    soft, hard = limits
    if soft == resource.RLIM_INFINITY or soft >= _FILES_NEEDED:
        return Check("open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft}")
    wanted = _FILES_NEEDED if hard == resource.RLIM_INFINITY else min(hard, _FILES_NEEDED)
    return Check("open files", "warn", f"only {soft}: few clients at once", f"ulimit -n {wanted}")


def _existing(path: Path) -> Path:
    """`path`, or its nearest ancestor that exists."""
    return next(p for p in (path, *path.parents) if p.exists())


def _ask(command: list[str]) -> tuple[int, str]:
    """Exit status and output; status -1 and the reason for a command that cannot run or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, str(error)
    return done.returncode, done.stdout or done.stderr
