"""Linux system calls that Python has no function for: mounts, namespaces, capabilities, Landlock.

Each function raises OSError. The numbers of the newer system calls are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Collection
from typing import Final

__all__ = [
    "ACCESS_READ", "MAKE_BLOCK", "MAKE_CHAR", "REFER", "Ruleset", "bind", "bound_capabilities", "capabilities",
    "die_with_parent", "hide_with_tmpfs", "keep_capabilities", "landlock_abi", "make_read_only", "new_mount_namespace",
    "overlay", "show_to_its_user",
]  # fmt: skip

_MOUNT_SETATTR: Final = 442
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_ADD_RULE: Final = 445
_LANDLOCK_RESTRICT_SELF: Final = 446

_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_SLAVE = 2, 4, 4096, 16384, 1 << 19
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY = 1

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAPABILITY_LAST: Final = 63

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR: Final = 1 << 6
MAKE_BLOCK: Final = 1 << 11
REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
ACCESS_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_ALL_OF_ABI_1: Final = (1 << 13) - 1
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1, 2
_SCOPE_ABI: Final = 6
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


class _RulesetAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("fs", "net", "scoped")]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


# Namespaces and mounts


def new_mount_namespace(*, with_user_namespace: bool) -> None:
    """Give this process mounts of its own, which follow the machine's from now on but not the other way round. It must
    have one thread if `with_user_namespace`: then it keeps its user and group, and gains the right to mount."""
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWNS | (_CLONE_NEWUSER if with_user_namespace else 0)), "unshare")
    if with_user_namespace:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    _mount("", "/", _MS_REC | _MS_SLAVE)


def hide_with_tmpfs(directory: str) -> None:
    """Mount an empty directory over it."""
    _mount("tmpfs", directory, _MS_NOSUID | _MS_NODEV, kind="tmpfs", options="mode=0755,size=1m")


def bind(descriptor: int, target: str) -> None:
    """Show the directory or file of the descriptor at `target`, with what is mounted below it."""
    _mount(f"/proc/self/fd/{descriptor}", target, _MS_BIND | _MS_REC)


def overlay(directory: str, upper: str, work: str, *, in_user_namespace: bool) -> None:
    """Let changes below `directory` go to `upper`; `work` is an empty directory on the same file system. A path with a
    comma or a colon is refused: it would need a form that older kernels do not read."""
    if any(character in path for path in (directory, upper, work) for character in ",:\\"):
        raise OSError(errno.EINVAL, "an overlay's path holds a character that separates options")
    options = f"lowerdir={directory},upperdir={upper},workdir={work}" + (",userxattr" if in_user_namespace else "")
    _mount("overlay", directory, _MS_NOSUID | _MS_NODEV, kind="overlay", options=options)


def make_read_only(target: str, *, recursive: bool = True) -> None:
    """`target` is a mount point."""
    attributes = _MountAttr(attr_set=_MOUNT_ATTR_RDONLY)
    flags = _AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    path = ctypes.c_char_p(os.fsencode(target))
    result = _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, path, flags, ctypes.byref(attributes), size)
    _check(result, f"mount_setattr {target}")


def _mount(source: str, target: str, flags: int, *, kind: str = "", options: str = "") -> None:
    arguments = [os.fsencode(text) if text else None for text in (source, target, kind)]
    result = _libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(options) if options else None)
    _check(result, f"mount {target}")


# Capabilities


def capabilities() -> int:
    """The effective set, as bits."""
    data = (_CapData * 2)()
    _check(_libc.capget(ctypes.byref(_CapHeader(_CAPABILITY_VERSION_3, 0)), data), "capget")
    return int(data[0].effective) | int(data[1].effective) << 32


def bound_capabilities(kept: Collection[int]) -> None:
    """Let no program that this process executes from now on gain others. It keeps those that it has."""
    for number in range(_CAPABILITY_LAST + 1):
        # Fails for a number that the kernel does not know, and without CAP_SETPCAP.
        if number not in kept and _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            return


def keep_capabilities(kept: Collection[int]) -> None:
    """Drop all others. With no new privileges, a program that is not root's has none either."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    mask = capabilities() & sum(1 << number for number in kept)
    data = (_CapData * 2)(*(_CapData(word, word, 0) for word in (mask & 0xFFFFFFFF, mask >> 32)))
    _check(_libc.capset(ctypes.byref(_CapHeader(_CAPABILITY_VERSION_3, 0)), data), "capset")


# Users


def show_to_its_user() -> None:
    """Let this process's entries in /proc belong to its user, which it needs itself to open them."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "prctl")


# Landlock


def landlock_abi() -> int:
    """0: the kernel has no Landlock, or it is switched off."""
    return max(0, int(_libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)))


class Ruleset:
    """A Landlock ruleset. Whatever it handles, it also refuses: to change mounts, to trace processes outside it and to
    read their memory and environment; from ABI 6 on, signals and abstract sockets towards them."""

    def __init__(self, abi: int, *, handled: int | None = None) -> None:
        """`handled`: rights that are refused unless a rule allows them; None: all of `abi` but control of devices."""
        everything = _ALL_OF_ABI_1 | (REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0)
        self.handled = everything & (everything if handled is None else handled)
        scoped = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if abi >= _SCOPE_ABI else 0
        attributes = _RulesetAttr(fs=self.handled, scoped=scoped)
        size = ctypes.c_size_t(24 if abi >= _SCOPE_ABI else 8)
        created = _libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), size, 0)
        self._descriptor = _check(created, "landlock_create_ruleset")

    def allow(self, path: str, rights: int) -> None:
        """These rights for the file, or for everything below the directory."""
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rights &= self.handled
            if not os.path.isdir(f"/proc/self/fd/{descriptor}"):
                rights &= _FILE_RIGHTS
            if rights:
                rule = ctypes.byref(_PathBeneath(rights, descriptor))
                added = _libc.syscall(_LANDLOCK_ADD_RULE, self._descriptor, _RULE_PATH_BENEATH, rule, 0)
                _check(added, f"landlock_add_rule {path}")
        finally:
            os.close(descriptor)

    def enforce(self) -> None:
        """On this thread, and on every thread and process that it starts from now on. Needs no new privileges."""
        _check(_libc.syscall(_LANDLOCK_RESTRICT_SELF, self._descriptor, 0), "landlock_restrict_self")
        os.close(self._descriptor)
