"""Unpacked bundles on disk: sealed when they are whole, and checked before they are used.

A seal is a digest of what the kernel says of each file and directory: path, mode, size, inode, and the times of its
last change. No program can set the time of a change of the inode (ctime), so a tree with the same seal is as it was
unpacked. A check takes 1 ms for 200 files, where reading them would take the size of a model.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["give_group", "is_sealed", "seal", "unseal"]

_READ_ONLY = ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def seal(tree: Path) -> None:
    """Make it read-only, and record what it is now beside it."""
    for path in (*_below(tree), str(tree)):
        os.chmod(path, stat.S_IMODE(os.lstat(path).st_mode) & _READ_ONLY)  # an archive has no links
    record, draft = _record(tree), tree.with_name(f".{tree.name}.draft")
    draft.write_text(_digest(tree))
    os.replace(draft, record)


def is_sealed(tree: Path) -> bool:
    """Whether it is there, and has not changed since it was sealed."""
    try:
        return _record(tree).read_text() == _digest(tree)
    except OSError:
        return False


def unseal(tree: Path) -> None:
    """Let it be moved and removed, which needs the right to write into its directories. Never raises OSError."""
    _record(tree).unlink(missing_ok=True)
    for directory, _, _ in os.walk(tree):  # from the outside in, so that each can be read by then
        try:
            os.chmod(directory, 0o700)
        except OSError:
            continue


def give_group(tree: Path, others: Path, groups: range) -> None:
    """Close it to all but a group that none of the trees in `others` has. Raises OSError; only root may do it."""
    taken = {entry.stat(follow_symlinks=False).st_gid for entry in os.scandir(others)}
    free = [number for number in groups if number not in taken]
    if not free:
        raise OSError(errno.EDQUOT, "each of isolation_uids' groups has a bundle: delete versions, or allow more")
    # Not the first free one: processes with the group of a tree that was just removed may still run.
    os.chown(tree, -1, secrets.choice(free))
    os.chmod(tree, 0o750)


def _record(tree: Path) -> Path:
    return tree.with_name(f"{tree.name}.seal")


def _below(tree: Path) -> Iterator[str]:
    for directory, directories, files in os.walk(tree):
        for name in (*directories, *files):
            yield os.path.join(directory, name)


def _digest(tree: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted((str(tree), *_below(tree))):
        found = os.lstat(path)
        facts = (found.st_mode, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
        digest.update(f"{len(path)}:{path}{facts}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
