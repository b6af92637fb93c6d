"""A user for each project, on a platform that runs as root.

The kernel then refuses a project the files, the memory and the processes of the others by its oldest rule, also where
it has neither mounts nor Landlock for that. The users have no entry in /etc/passwd and no right but to their own
directory, `<home>/users/<project>`, whose owner is the record of which user a project has: it is kept by restarts.

Numbers are taken from the lower half of a range; those of the upper half are groups of bundles (`store.groups`).
"""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clipper_platform.types import IdRange

__all__ = ["User", "Users", "closed_path", "device_groups", "make_private", "missing_capabilities"]

# What a project's user may pass through, without the right to list it: each leads to what the user is shown. All else
# in the home is closed to it.
_PASSABLE = frozenset({"bundles", "environments", "runtime", "tmp", "users"})
# What a platform needs to start, watch and end processes of other users.
_NEEDED = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SYS_PTRACE": 19,
}
_TO_BOUND = {"CAP_SYS_RESOURCE": 24}
# Where systemd says which numbers of this range its services have at the moment.
_TAKEN_BY_SYSTEMD = Path("/run/systemd/dynamic-uid")


@dataclass(frozen=True, slots=True)
class User:
    """`uid` is its group's number too. `home`: its directory."""

    uid: int
    home: Path


class Users:
    """The users of a home's projects."""

    def __init__(self, home: Path, range: IdRange) -> None:
        self.range = range
        self.bounds = not missing_capabilities(_TO_BOUND)
        """Whether the platform may set limits of its users' processes. Many containers may not."""
        self._home = home
        self._directory = home / "users"
        self._users: dict[str, User] = {}
        self._closed: dict[Path, str] = {}

    def open(self) -> None:
        """Let the users pass through the home, and close what they are not shown. Raises OSError."""
        for name in ("environments", "logs", "users"):
            (self._home / name).mkdir(mode=0o700, exist_ok=True)
        for entry in os.scandir(self._home):
            if entry.is_symlink():
                continue
            mode = stat.S_IMODE(entry.stat().st_mode)
            os.chmod(entry.path, 0o711 if entry.name in _PASSABLE else mode & 0o700)
        self._home.chmod(0o711)

    def of(self, project: str) -> User:
        """The project's user, made if it has none. Raises OSError."""
        if (user := self._users.get(project)) is None:
            user = self._users[project] = self._find(project)
        return user

    def _find(self, project: str) -> User:
        home = self._directory / project
        owners = {entry.name: entry.stat(follow_symlinks=False).st_uid for entry in os.scandir(self._directory)}
        if (own := owners.pop(project, None)) is not None:
            if own not in self.range.users or own in owners.values():
                raise OSError(f"{home} belongs to the user {own}, which is not this project's: remove it, or chown it")
            return User(own, home)
        taken = {*owners.values(), *_taken_on_this_machine()}
        uid = next((number for number in self.range.users if number not in taken), None)
        if uid is None:
            raise OSError(f"no user of isolation_uids = {self.range} is left: remove directories of {self._directory}")
        home.mkdir(mode=0o700)
        _give(home, uid)
        return User(uid, home)

    def closed(self, path: Path) -> str:
        """What keeps the users from `path`, as a sentence; "" if nothing does. It is found out once."""
        if path not in self._closed:
            self._closed[path] = closed_path([path])
        return self._closed[path]


def make_private(parent: Path, prefix: str, user: User | None) -> Path:
    """A new directory for `user`, or for the platform's own, that no other may enter. Raises OSError."""
    directory = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    if user is not None:
        _give(directory, user.uid)
    return directory


def _give(directory: Path, uid: int) -> None:
    """Make the user the owner of a directory that root has just made. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(descriptor, uid, uid)
    finally:
        os.close(descriptor)


def closed_path(paths: Iterable[Path]) -> str:
    """The first directory above these that users without rights cannot pass through; "" if there is none."""
    for path in paths:
        for above in (*reversed(path.absolute().parents), *reversed(Path(os.path.realpath(path)).parents)):
            mode = os.stat(above).st_mode
            if not mode & stat.S_IXOTH:
                return f"{above}, above {path}, is closed to other users (mode {stat.S_IMODE(mode):04o})"
    return ""


def device_groups() -> set[int]:
    """Groups that may open the devices of AMD's and Intel's GPUs. NVIDIA's are open to all."""
    groups = set()
    for path in (Path("/dev/kfd"), *Path("/dev/dri").glob("renderD*")):
        try:
            groups.add(path.stat().st_gid)
        except OSError:
            continue
    return groups - {0}


def missing_capabilities(needed: Mapping[str, int] = _NEEDED) -> list[str]:
    """Those that this process lacks. All, where it is not known."""
    try:
        status = Path("/proc/self/status").read_text()
        held = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    except (OSError, ValueError, StopIteration):
        held = 0
    return [name for name, number in needed.items() if not held >> number & 1]


def _taken_on_this_machine() -> set[int]:
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    try:
        taken |= {int(name) for name in os.listdir(_TAKEN_BY_SYSTEMD) if name.isdigit()}
    except OSError:
        pass  # no systemd
    return taken
