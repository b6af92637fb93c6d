"""Isolation of replicas from each other and from the platform: what this machine offers, and what a launch gets of it.

The runtime confines itself before user code runs (`clipper_runtime.confinement`). Here is which mode it uses, found by
a probe at the platform's start, and which paths it hides and shows.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from clipper.contract.confinement import Confinement, Mode, Probe, decode_probe
from clipper_platform.backends.base import IsolationState
from clipper_platform.backends.process.launch import Launch
from clipper_platform.backends.process.staging import find_packages
from clipper_platform.backends.process.users import User, Users, closed_path, device_groups, missing_capabilities
from clipper_platform.types import IdRange

__all__ = ["Isolation", "probe_machine", "project_users"]

PROBE_TIMEOUT_S = 20.0
_PROBE = (sys.executable, "-P", "-m", "clipper_runtime.confinement_probe")
_ROOT_READ_ONLY: Mapping[Mode, tuple[str, ...]] = {
    # Files in which root changes the kernel, such as the program that takes core dumps.
    "mounts": ("/proc/sys", "/proc/irq", "/proc/bus", "/proc/sysrq-trigger", "/sys"),
    "landlock": ("/proc", "/sys"),
    "none": (),
}
_USERS_FIX = "remove what is in the way (infra/docs/isolation.md), or isolation_uids from the platform's settings"
_BUILDS_FIX = "a Linux with Landlock, 5.13 or newer, confines builds too"
# Disks as character devices, which a read shows whole.
_RAW_DEVICES = ("sg", "ng", "mem", "port", "bsg")


def probe_machine(runtime: Path, directory: Path, allowed: str = "auto", uid: int = 0) -> Probe:
    """What confines replicas here; `directory` takes the probe's files. `allowed`: "auto", or the only mode to try.
    `uid`: the user that they are to become; 0: they keep the platform's. Blocks for about 0.1 s. Never raises
    OSError."""
    if allowed == "none" and not uid:
        return Probe(mode="none", reasons={"setting": "switched off (isolation = none)"})
    if sys.platform != "linux":
        return Probe(mode="none", reasons={"system": f"there is none for {sys.platform}"})
    try:
        with tempfile.TemporaryDirectory(prefix="probe-", dir=directory) as place:
            done = subprocess.run(
                [*_PROBE, os.path.realpath(place), allowed, str(uid)],
                env={"PYTHONPATH": str(runtime), "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_TIMEOUT_S,
                check=True,
            )
        return decode_probe(done.stdout)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        return Probe(mode="none", reasons={"probe": f"it failed: {error}"})


def project_users(home: Path, ids: IdRange, runtime: Path, directory: Path, mode: Mode) -> tuple[Users | None, str]:
    """The users of the home's projects, or why they can have none here. Blocks for about 0.1 s."""
    if os.geteuid() != 0:
        return None, "the platform does not run as root"
    if lacking := missing_capabilities():
        return None, f"the platform lacks {', '.join(lacking)}"
    if why := closed_path([Path(sysconfig.get_path("stdlib")), home]):
        return None, why
    users = Users(home, ids)
    try:
        users.open()
        directory.chmod(0o711)
    except OSError as error:
        return None, str(error)
    if why := closed_path([directory]):
        return None, why
    probe = probe_machine(runtime, directory, mode, ids.users[0])
    if probe.users and probe.mode == mode and probe.signals and probe.memory:
        return users, ""
    return None, "; ".join(probe.reasons.values()) or "what a user may not was not refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """`hidden`: directories and files of the platform. `runtime`: the staged packages. `users`: those of projects, if
    they have any; `users_refused`: why they have none, where they were asked for."""

    probe: Probe
    hidden: Sequence[Path]
    runtime: Path
    environ: Mapping[str, str]  # the platform's
    users: Users | None = None
    users_refused: str = ""
    bases: dict[tuple[Path, Path], Confinement] = field(default_factory=dict)

    def base(self, launch: Launch) -> Confinement:
        """What all replicas of the environment share, before a bundle is known."""
        key = (launch.environment.path, launch.environment.python)
        if key not in self.bases:
            self.bases[key] = self._base(launch)
        return self.bases[key]

    def _base(self, launch: Launch) -> Confinement:
        environment = launch.environment
        hidden, read_only = self._of_machine(_real([self.runtime, environment.path, *self._code(environment.python)]))
        mode, user_namespace = self.probe.mode, self.probe.user_namespace
        return Confinement(mode=mode, user_namespace=user_namespace, hidden=hidden, read_only=read_only)

    def of(self, launch: Launch, tmp: Path, *, memory_bytes: int | None = None) -> Confinement:
        """For a replica of this bundle with this directory of its own. Raises OSError."""
        base, user = self.base(launch), self.user(launch)
        own = msgspec.structs.replace(base, read_only=[*base.read_only, *_real([launch.bundle])], writable=_real([tmp]))
        if user is None or self.users is None:
            return own
        own_groups = {launch.bundle.stat().st_gid} & {*self.users.range.groups}
        return msgspec.structs.replace(
            own,
            writable=[*own.writable, *_real([user.home])],
            uid=user.uid,
            memory_bytes=memory_bytes or 0,
            groups=sorted(own_groups | device_groups()),
        )

    def user(self, launch: Launch) -> User | None:
        """The user that the launch's processes become; None: they keep the platform's. Raises OSError."""
        if self.users is None:
            return None
        if why := self.users.closed(launch.environment.python):
            raise PermissionError(f"the Python of the environment is out of reach for the project's user: {why}")
        return self.users.of(launch.spec.function.project)

    def can_fork(self, launch: Launch, memory_bytes: int | None) -> bool:
        """Whether a replica may be forked from a process with this bound of its memory: it must have its own, and a
        platform without the right to bound processes of its users cannot give it one."""
        return self.users is None or self.users.bounds or launch.spec.memory_bytes in (None, memory_bytes)

    def of_build(self, python: Path, shown: Sequence[Path], writable: Path, cache: Path) -> Confinement | None:
        """For the build of an environment (see `environments.installing.BuildIsolation`)."""
        probe = self.probe
        if probe.mode == "none":
            return None
        hidden, read_only = self._of_machine(_real([*shown, *self._code(python)]))
        users_cache = os.path.realpath(_uv_cache(self.environ))
        mounts = probe.mode == "mounts"
        return Confinement(
            mode=probe.mode,
            user_namespace=probe.user_namespace,
            hidden=hidden if mounts else [*hidden, users_cache],
            read_only=read_only,
            writable=_real([writable]),
            overlays=[(users_cache, os.path.realpath(cache))] if mounts and os.path.isdir(users_cache) else [],
        )

    def _of_machine(self, read_only: list[str]) -> tuple[list[str], list[str]]:
        """The hidden and the read-only paths of every confined process, and these read-only ones."""
        hidden = _outermost(_real(self.hidden))
        if os.geteuid() == 0:
            hidden += _raw_devices()
            read_only = [*read_only, *_ROOT_READ_ONLY[self.probe.mode]]
        if self.probe.mode == "landlock":
            # A rule for a directory holds for everything below it.
            read_only = [path for path in read_only if not any(one.startswith(path + os.sep) for one in hidden)]
        return hidden, list(dict.fromkeys(read_only))

    def _code(self, python: Path) -> list[Path]:
        """Code that other replicas, and the platform itself, will run: the base interpreter's library, the platform's
        packages, and uv's cache, which has the files of environments as hard links."""
        code = [Path(sysconfig.get_path("stdlib")), *find_packages().values(), Path(__file__).parents[2]]
        code += [Path(sys.prefix)] if sys.prefix != sys.base_prefix else [Path(sysconfig.get_path("purelib"))]
        base = python.resolve().parent.parent
        version = sorted(base.glob("lib/python3.*")) if base != Path("/usr") else []
        code += [base] if _below(base, self.hidden) else version
        if self.probe.mode == "mounts":
            # Landlock would refuse new directories beside it, which are other libraries' caches.
            code.append(_uv_cache(self.environ))
        return code

    def state(self) -> IsolationState:
        """What holds, for people."""
        probe = self.probe
        if probe.mode == "none" and self.users is not None:
            return IsolationState("users", f"{self._users_words()}; not: builds of packages", _BUILDS_FIX)
        if probe.mode == "none":
            why = "; ".join(f"{mode}: {reason}" for mode, reason in probe.reasons.items())
            fix = "run the platform on Linux 5.13 or newer with Landlock (lsm=landlock,…) or user namespaces"
            if "setting" in probe.reasons:
                fix = "remove isolation = none from the platform's settings"
            why += f"; users: {self.users_refused}" if self.users_refused else ""
            return IsolationState("none", f"none: user code can do what the platform can ({why})", fix)
        parts = [self._users_words()] if self.users is not None else []
        parts += ["files: a mount namespace" if probe.mode == "mounts" else f"files: Landlock {probe.landlock}"]
        lacking: list[str] = []
        for holds, what in ((probe.memory, "memory and environment of other processes"), (probe.signals, "signals")):
            (parts if holds else lacking).append(what)
        detail = ", ".join(parts)
        if self.users_refused:
            detail += f"; projects have no users of their own: {self.users_refused}"
        fix = _USERS_FIX if self.users_refused else ""
        if lacking:
            detail += f"; not: {', '.join(lacking)} (Landlock's ABI is {probe.landlock or 'missing'})"
            fix = "a kernel with Landlock: 5.13 for memory, 6.12 for signals"
        elif probe.mode == "landlock":
            why = probe.reasons.get("mounts", "")
            detail += f"; no mount namespace ({why}): new entries beside the home's own directories are refused"
            fix = "set CLIP_HOME to a directory outside your home directory, or allow user namespaces"
        return IsolationState(probe.mode, detail, fix)

    def _users_words(self) -> str:
        return f"a user for each project ({'' if self.users is None else self.users.range})"


def _real(paths: Iterable[Path]) -> list[str]:
    return [os.path.realpath(path) for path in paths]


def _outermost(paths: Sequence[str]) -> list[str]:
    """Without those that lie in another one."""
    distinct = list(dict.fromkeys(paths))
    return [path for path in distinct if not any(path.startswith(other + os.sep) for other in distinct)]


def _below(path: Path, directories: Sequence[Path]) -> bool:
    return any(path.is_relative_to(os.path.realpath(directory)) for directory in directories)


def _uv_cache(environ: Mapping[str, str]) -> Path:
    if named := environ.get("UV_CACHE_DIR"):
        return Path(named)
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    return Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "uv"


def _raw_devices() -> list[str]:
    """Device files through which root could read the disks."""
    found = []
    for entry in os.scandir("/dev"):
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
        except OSError:
            continue
        if stat.S_ISBLK(mode) or (entry.name.rstrip("0123456789n") in _RAW_DEVICES and not stat.S_ISLNK(mode)):
            found.append(entry.path)
    return found
