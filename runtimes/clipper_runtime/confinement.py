"""Confines this process before it runs any code of its environment or bundle: what it may see, change, signal, trace.

A mount namespace is preferred to Landlock's rules for files. Landlock has rules that allow and none that refuse, so to
hide one directory it must list everything beside it, and what appears there later, such as a new directory in the
user's home, is refused. With mounts the rest of the machine stays as it is. Landlock is used with both for what mounts
cannot do: it keeps the mounts as they are, and separates processes of one user.

Standard library only, and nothing of `clipper`: packages of the environment, msgspec among them, are code that must
not run before. `python -m tests.benchmarks.cold_start` has what it costs.
"""

from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from clipper_runtime import kernel

__all__ = ["VARIABLE", "Rules", "confine", "separate", "take_rules"]

VARIABLE: Final = "CLIP_CONFINEMENT"
"""Environment variable with the process's Rules as JSON."""

# What root keeps: to own, read and write files, to bind low ports, to change its user, priority and limits. Not kept
# are those that lead out: mounts, modules, devices, raw sockets (which hear other requests), traces, file handles.
_KEPT_BY_ROOT = (0, 1, 3, 4, 5, 6, 7, 10, 11, 14, 15, 18, 23, 24, 28, 29, 31)
_EMPTY_FILE = ".empty"


class Rules(NamedTuple):
    """`clipper.contract.confinement.Confinement`, which describes the fields, as this process reads it."""

    mode: str
    user_namespace: bool = False
    hidden: Sequence[str] = ()
    read_only: Sequence[str] = ()
    writable: Sequence[str] = ()
    overlays: Sequence[Sequence[str]] = ()
    uid: int = 0
    groups: Sequence[int] = ()
    memory_bytes: int = 0


def take_rules() -> Rules | None:
    """Those of CLIP_CONFINEMENT, which is removed. None: the platform asks for none. Raises ValueError, TypeError."""
    text = os.environ.pop(VARIABLE, "")
    return Rules(**json.loads(text)) if text else None


def confine(rules: Rules) -> None:
    """Apply the rules to this process and all that it starts. Raises OSError; then no other code must run in it."""
    if rules.mode == "none":
        if rules.uid:
            _become(rules)
            _drop_capabilities()
        return
    if rules.mode == "mounts":
        kernel.new_mount_namespace(with_user_namespace=rules.user_namespace)
        _View().build(rules)
    if os.geteuid() == 0:
        kernel.bound_capabilities(_KEPT_BY_ROOT)
    if rules.mode == "mounts":
        _become(rules)
        separate()
        _enter_view()
    else:
        allowed = kernel.Ruleset(kernel.landlock_abi())
        _allow_others(allowed, rules)  # by root, which may open what the user may not
        _become(rules)
        _drop_capabilities()
        allowed.enforce()


def separate(abi: int | None = None) -> None:
    """Refuse to trace and to signal processes that are not this one's descendants, and to change mounts."""
    abi = kernel.landlock_abi() if abi is None else abi
    _drop_capabilities()
    if abi:
        rules = kernel.Ruleset(abi, handled=kernel.MAKE_BLOCK | kernel.MAKE_CHAR | kernel.REFER)
        rules.allow("/", kernel.REFER)  # links and renames across directories are refused unless they are allowed
        rules.enforce()


def _become(rules: Rules) -> None:
    """The user of the rules, which has no capability, nor has any program that it executes."""
    if not rules.uid:
        return
    parent = os.getppid()
    for stream in (1, 2):
        try:
            os.fchown(stream, rules.uid, -1)  # `open("/dev/stderr")` opens the pipe anew, which only its owner may
        except OSError:
            continue  # closed, or of a kind that has no owner
    if rules.memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (rules.memory_bytes, rules.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kernel.bound_capabilities(())
    os.setgroups(list(rules.groups))
    os.setresgid(rules.uid, rules.uid, rules.uid)
    os.setresuid(rules.uid, rules.uid, rules.uid)
    # The kernel takes two things from a process that changes its user: its own entries in /proc, and the signal at the
    # end of its parent.
    kernel.show_to_its_user()
    kernel.die_with_parent()
    if os.getppid() != parent:
        raise OSError("the platform ended")


def _enter_view() -> None:
    """The working directory is still the one below the mounts, from where `..` leads to what they hide."""
    try:
        os.chdir(os.getcwd())
    except OSError:
        os.chdir("/")


class _View:
    """The mounts: hidden directories are empty but for what is shown in them."""

    def __init__(self) -> None:
        self._originals: dict[str, int] = {}  # hidden directory -> what it was before

    def build(self, rules: Rules) -> None:
        directories = {path for path in rules.hidden if os.path.isdir(path)}
        writable = set(rules.writable)
        # From the outside in: what is mounted later lies on top.
        for path in sorted(directories | {*rules.read_only, *writable}, key=lambda one: one.count(os.sep)):
            if path in directories:
                self._originals[path] = os.open(path, os.O_PATH | os.O_CLOEXEC)
                kernel.hide_with_tmpfs(path)
                self._keep_links(path)
            else:
                self._show(path, writable=path in writable)
        for path, private in rules.overlays:
            self._overlay(path, private, rules)
        self._hide_files([path for path in rules.hidden if path not in directories])
        for path, descriptor in self._originals.items():
            kernel.make_read_only(path, recursive=False)
            os.close(descriptor)

    def _keep_links(self, hidden: str) -> None:
        """Put the links of a hidden directory into the empty one, such as `environments` that lead to another disk.
        What they lead to is shown or hidden by its own path."""
        for entry in os.scandir(f"/proc/self/fd/{self._originals[hidden]}"):
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), os.path.join(hidden, entry.name))

    def _show(self, path: str, *, writable: bool) -> None:
        """Nothing happens if it does not exist."""
        try:
            descriptor = os.open(self._original(path), os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            if not os.path.exists(path):  # a hidden directory is empty
                _make_mount_point(path, stat.S_ISDIR(os.fstat(descriptor).st_mode))
            kernel.bind(descriptor, path)
            if not writable:
                kernel.make_read_only(path)
        finally:
            os.close(descriptor)

    def _overlay(self, path: str, private: str, rules: Rules) -> None:
        """Let changes below `path` go to the directory `private`. Where the kernel has no overlays for this process,
        `private` takes its place, so that what was there before is not seen."""
        if not os.path.isdir(path):
            return
        upper, work = os.path.join(private, "upper"), os.path.join(private, "work")
        for directory in (upper, work):
            os.makedirs(directory, exist_ok=True)
        try:
            kernel.overlay(path, upper, work, in_user_namespace=rules.user_namespace)
        except OSError:
            descriptor = os.open(upper, os.O_PATH | os.O_CLOEXEC)
            kernel.bind(descriptor, path)
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


def _allow_others(allowed: kernel.Ruleset, rules: Rules) -> None:
    """Allow everything but what the rules name, and that as they say."""
    named = dict.fromkeys(rules.hidden, 0)
    named |= dict.fromkeys(rules.read_only, kernel.ACCESS_READ)
    named |= dict.fromkeys(rules.writable, _no_devices(allowed))
    above = {parent for path in named for parent in _parents(path)}
    for path, rights in named.items():
        if rights and os.path.exists(path):
            allowed.allow(path, rights)
    _allow_below("/", allowed, named, above)


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
