"""Confines this process to its function, before user code runs: what it may see, change, signal and trace.

A mount namespace is preferred to Landlock's rules for files. Landlock has rules that allow and none that refuse, so to
hide one directory it must list everything beside it, and what appears there later, such as a new directory in the
user's home, is refused. With mounts the rest of the machine stays as it is. Landlock is used with both for what mounts
cannot do: it keeps the mounts as they are, and separates processes of one user.

`python -m tests.benchmarks.cold_start` has what it costs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence

from clipper.contract.confinement import CONFINEMENT_VARIABLE, Confinement, decode_confinement
from clipper_runtime import kernel

__all__ = ["Confiner", "confine_by_environment", "separate", "take_confinement"]

# What root keeps: to own, read and write files, to bind low ports, to change its user, priority and limits. Not kept
# are those that lead out: mounts, modules, devices, raw sockets (which hear other requests), traces, file handles.
_KEPT_BY_ROOT = (0, 1, 3, 4, 5, 6, 7, 10, 11, 14, 15, 18, 23, 24, 28, 29, 31)
_EMPTY_FILE = ".empty"


def take_confinement() -> Confinement | None:
    """The Confinement of CLIP_CONFINEMENT, which is removed. None: the platform asks for none."""
    text = os.environ.pop(CONFINEMENT_VARIABLE, "")
    return decode_confinement(text) if text else None


def confine_by_environment() -> None:
    """Apply the Confinement of CLIP_CONFINEMENT, if it is set. Raises OSError; then user code must not run."""
    confinement = take_confinement()
    if confinement is not None:
        Confiner(confinement).finish(confinement)


def separate(abi: int | None = None) -> None:
    """Refuse to trace and to signal processes that are not this one's descendants, and to change mounts."""
    abi = kernel.landlock_abi() if abi is None else abi
    _drop_capabilities()
    if abi:
        rules = kernel.Ruleset(abi, handled=kernel.MAKE_BLOCK | kernel.MAKE_CHAR | kernel.REFER)
        rules.allow("/", kernel.REFER)  # links and renames across directories are refused unless they are allowed
        rules.enforce()


class Confiner:
    """Confines this process in two steps, so that a child that is forked ahead of time has less to do for its launch:
    the first does what all replicas of an environment share, `finish` the rest."""

    def __init__(self, base: Confinement) -> None:
        """Raises OSError."""
        self._mode = base.mode
        self._originals: dict[str, int] = {}  # hidden directory -> what it was before
        self._shown: set[str] = set()
        if base.mode == "mounts":
            kernel.new_mount_namespace(with_user_namespace=base.user_namespace)
            self._show_view(base)
        if base.mode != "none" and os.geteuid() == 0:
            kernel.bound_capabilities(_KEPT_BY_ROOT)

    def finish(self, confinement: Confinement) -> None:
        """`confinement` extends that of the first step. Raises OSError."""
        if self._mode == "mounts":
            for path in (*confinement.read_only, *confinement.writable):
                self._show(path, writable=path in confinement.writable)
            for path, descriptor in self._originals.items():
                kernel.make_read_only(path, recursive=False)
                os.close(descriptor)
            separate()
        elif self._mode == "landlock":
            rules = kernel.Ruleset(kernel.landlock_abi())
            _allow_others(rules, confinement)
            _drop_capabilities()
            rules.enforce()

    def _show_view(self, base: Confinement) -> None:
        directories = {path for path in base.hidden if os.path.isdir(path)}
        shown = {*base.read_only, *base.writable}
        # From the outside in: what is mounted later lies on top.
        for path in sorted(directories | shown, key=lambda one: one.count(os.sep)):
            if path in directories:
                self._originals[path] = os.open(path, os.O_PATH | os.O_CLOEXEC)
                kernel.hide_with_tmpfs(path)
                self._keep_links(path)
            else:
                self._show(path, writable=path in base.writable)
        self._hide_files([path for path in base.hidden if path not in directories])

    def _keep_links(self, hidden: str) -> None:
        """Put the links of a hidden directory into the empty one, such as `environments` that lead to another disk.
        What they lead to is shown or hidden by its own path."""
        for entry in os.scandir(f"/proc/self/fd/{self._originals[hidden]}"):
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), os.path.join(hidden, entry.name))

    def _show(self, path: str, *, writable: bool) -> None:
        """Nothing happens if it is shown, or does not exist."""
        if path in self._shown:
            return
        try:
            descriptor = os.open(self._original(path), os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        self._shown.add(path)
        try:
            if not os.path.exists(path):  # a hidden directory is empty
                _make_mount_point(path, stat.S_ISDIR(os.fstat(descriptor).st_mode))
            kernel.bind(descriptor, path)
            if not writable:
                kernel.make_read_only(path)
        finally:
            os.close(descriptor)

    def _original(self, path: str) -> str:
        """A path that leads around the empty directory above it, if there is one."""
        above = max((hidden for hidden in self._originals if path.startswith(hidden + os.sep)), key=len, default=None)
        return path if above is None else f"/proc/self/fd/{self._originals[above]}{path.removeprefix(above)}"

    def _hide_files(self, files: Sequence[str]) -> None:
        """Put an empty file in their place, which lies in a hidden directory."""
        found = [path for path in files if os.path.exists(path)]
        if not found or not self._originals:
            return
        name = os.path.join(next(iter(self._originals)), _EMPTY_FILE)
        empty = os.open(name, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o000)
        try:
            for path in found:
                kernel.bind(empty, path)
                kernel.make_read_only(path)
        finally:
            os.close(empty)


def _make_mount_point(path: str, directory: bool) -> None:
    if directory:
        os.makedirs(path)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))


def _drop_capabilities() -> None:
    kernel.keep_capabilities(_KEPT_BY_ROOT if os.geteuid() == 0 else ())


# With Landlock alone


def _allow_others(rules: kernel.Ruleset, confinement: Confinement) -> None:
    """Allow everything but what the confinement names, and that as it says."""
    named = dict.fromkeys(confinement.hidden, 0)
    named |= dict.fromkeys(confinement.read_only, kernel.ACCESS_READ)
    named |= dict.fromkeys(confinement.writable, _no_devices(rules))
    above = {parent for path in named for parent in _parents(path)}
    for path, rights in named.items():
        if rights and os.path.exists(path):
            rules.allow(path, rights)
    _allow_below("/", rules, named, above)


def _allow_below(directory: str, rules: kernel.Ruleset, named: Mapping[str, int], above: set[str]) -> None:
    everything = _no_devices(rules)
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return
    for entry in entries:
        if entry.path in named or entry.is_symlink():
            continue  # access through a link is decided where it leads
        if entry.path in above:
            _allow_below(entry.path, rules, named, above)
            continue
        try:
            rules.allow(entry.path, everything)
        except OSError:
            continue  # gone meanwhile, or not ours to open


def _no_devices(rules: kernel.Ruleset) -> int:
    """All rights but to make device files, which would show the disks to root."""
    return rules.handled & ~(kernel.MAKE_BLOCK | kernel.MAKE_CHAR)


def _parents(path: str) -> list[str]:
    parents = []
    while (path := os.path.dirname(path)) not in ("", "/"):
        parents.append(path)
    return parents
