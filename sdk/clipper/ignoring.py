"""Which files of a project are left out of its bundle: what Git ignores, as changed by `.clipignore` files.

`git_patterns` reads the patterns; which of them decides follows gitignore(5). As in Git, the `.gitignore` files above
the project count up to the top of the repository, then `info/exclude` and `core.excludesFile`; a tracked file is never
ignored.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Final

from clipper.contract.spec import SpecError
from clipper.git_patterns import GitPattern, read_patterns

__all__ = ["ALWAYS_IGNORED", "Ignores"]

GIT, CLIP = ".gitignore", ".clipignore"

# Never part of what runs: version control, caches, environments of this machine, the platform's own home.
ALWAYS_IGNORED: Final = (
    ".git",
    ".hg",
    ".svn",
    "__pycache__/",
    "*.py[co]",
    ".venv/",
    "venv/",
    ".tox/",
    ".nox/",
    "node_modules/",
    ".clip/",
    ".DS_Store",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".hypothesis/",
    ".ipynb_checkpoints/",
    "*.egg-info/",
    GIT,
    CLIP,
)
_ALWAYS: Final = tuple(read_patterns("\n".join(ALWAYS_IGNORED).encode()))

GIT_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class _File:
    """The patterns of one ignore file. `below`: its directory's path from the project. `above`: the project's path from
    its directory."""

    patterns: tuple[GitPattern, ...]
    below: str = ""
    above: str = ""

    def relative(self, path: str) -> str:
        return self.above + path.removeprefix(self.below)


_Rank = tuple[int, int]  # of the file, the deepest last, and of the pattern in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignores:
    """The decisions in one directory of a project. Those for the directories below are got by `below`."""

    git: tuple[_File, ...] = ()
    clip: tuple[_File, ...] = ()
    tracked: frozenset[str] = frozenset()  # ignored by a pattern, and known to Git
    ignored_by_git: bool = False
    inside_ignored: bool = False  # only a pattern of a `.clipignore` that names the place brings back what is here
    clip_verdict: bool | None = None  # of the directory; it passes on to what it holds
    clip_rank: _Rank = (-1, -1)
    files: list[Path] = field(default_factory=list)  # the ignore files that were read, of all directories

    @classmethod
    def of_project(cls, root: Path) -> Ignores:
        """The patterns that hold before the project's own directory is read. Raises SpecError."""
        top = next((d for d in (root, *root.parents) if (d / ".git").exists()), None)
        if top is None:
            return cls()
        tracked, outside = _facts(root, top, _changed_at(top))
        read: list[Path] = []
        bases = [(top, _read(source, str(source), read)) for source in outside]
        for directory in [d for d in (*reversed(root.parents), root) if d.is_relative_to(top)]:
            git = tuple(_File(patterns, above=_steps(directory, base)) for base, patterns in bases)
            if directory != top and _last(git, "")[0]:
                return cls(files=read)  # a repository that ignores the project, as one of a home directory may
            if directory != root:
                bases.append((directory, _read(directory / GIT, str(directory / GIT), read)))
        return cls(git=git, tracked=tracked, files=read)

    def below(self, directory: Path, prefix: str) -> Ignores:
        """The decisions for `directory`, whose path from the root is `prefix` ("" or "a/b/"). Raises SpecError."""
        git = self.git
        if prefix and (directory / ".git").exists():  # a repository of its own, as a submodule is
            git = ()
        found = [_File(_read(directory / n, prefix + n, self.files), below=prefix) for n in (GIT, CLIP)]
        return replace(self, git=(*git, found[0]), clip=(*self.clip, found[1]))

    def entered(self, path: str) -> Ignores:
        """As `below` of the directory `path`, with what was decided about it, before its ignore files are read."""
        verdict, rank = self._clip(path)
        return replace(
            self,
            ignored_by_git=self._matched_by_git(path),
            inside_ignored=self._matched_by_git(path) if verdict is None else verdict,
            clip_verdict=verdict,
            clip_rank=rank,
        )

    def ignored(self, path: str) -> bool:
        """Whether `path` (with a trailing "/" for a directory) is left out."""
        if _always_ignored(path):
            return True
        verdict, _ = self._clip(path)
        return self._git(path) if verdict is None else verdict

    def may_include_below(self, path: str) -> bool:
        """Whether a `.clipignore` may bring back something in the ignored directory `path`."""
        if _always_ignored(path):
            return False
        return any(_may_include_below(p, f.relative(path)) for f in self.clip for p in f.patterns)

    def _git(self, path: str) -> bool:
        if path in self.tracked or any(name.startswith(path) for name in self.tracked if path.endswith("/")):
            return False
        return self._matched_by_git(path)

    def _matched_by_git(self, path: str) -> bool:
        return self.ignored_by_git or bool(_last(self.git, path)[0])

    def _clip(self, path: str) -> tuple[bool | None, _Rank]:
        """A directory's exclusion holds for what it contains until a later pattern brings that back."""
        verdict, rank = _last(self.clip, path, only_anchored=self.inside_ignored)
        if verdict is None or (verdict is False and self.clip_verdict and rank < self.clip_rank):
            return self.clip_verdict, self.clip_rank
        return verdict, rank


def _always_ignored(path: str) -> bool:
    return any(pattern.decides(path) for pattern in _ALWAYS)


def _may_include_below(pattern: GitPattern, directory: str) -> bool:
    """Whether it can bring back something in `directory`, a path with "/" at its end."""
    if not (pattern.brings_back and pattern.of_place):
        return False
    for part, name in zip(pattern.parts, directory.rstrip("/").split("/"), strict=False):
        if part == "**":
            return True
        if not fnmatchcase(name, part):
            return False
    return True


def _last(files: tuple[_File, ...], path: str, *, only_anchored: bool = False) -> tuple[bool | None, _Rank]:
    """The decision of the last pattern that matches, of the deepest file that has one. `only_anchored`: without those
    that bring back a name at any depth."""
    for level in reversed(range(len(files))):
        relative = files[level].relative(path)
        for index in reversed(range(len(files[level].patterns))):
            pattern = files[level].patterns[index]
            verdict = pattern.decides(relative)
            if verdict is not None and (verdict or pattern.of_place or not only_anchored):
                return verdict, (level, index)
    return None, (-1, -1)


def _steps(directory: Path, base: Path) -> str:
    return "".join(f"{part}/" for part in directory.relative_to(base).parts)


def _read(path: Path, shown: str, read: list[Path]) -> tuple[GitPattern, ...]:
    try:
        content = path.read_bytes()
        if path.name == CLIP:
            content.decode()  # Git takes any bytes
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot be read: {error}", where=shown) from None
    read.append(path)
    return tuple(read_patterns(content))


# What only Git knows


def _changed_at(top: Path) -> int:
    """Changes with what is tracked. A worktree's index is elsewhere: a deploy reads it once, `clip dev` not again."""
    try:
        return (top / ".git" / "index").stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=8)  # `clip dev` asks several times a second
def _facts(root: Path, top: Path, _: int) -> tuple[frozenset[str], tuple[Path, ...]]:
    """The project's tracked files that a pattern ignores, and the ignore files outside the work tree, the strongest
    last. Without the program `git`, nothing is known to be tracked, and these files are looked for in their usual
    places."""
    listed = _git(root, "ls-files", "-z", "--cached", "--ignored", "--exclude-standard") or ""
    tracked = frozenset(name for name in listed.split("\0") if name)
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    everywhere = _git(root, "config", "--type=path", "--get", "core.excludesFile") or f"{settings}/git/ignore"
    exclude = _git(root, "rev-parse", "--git-path", "info/exclude") or str(top / ".git/info/exclude")
    return tracked, (root / everywhere.rstrip("\n"), root / exclude.rstrip("\n"))


def _git(directory: Path, *arguments: str) -> str | None:
    """What `git` prints, or None where it fails or is not installed."""
    # In a hook Git sets these to the repository of the hook.
    environ = {k: v for k, v in os.environ.items() if k not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=directory, env=environ, capture_output=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return os.fsdecode(done.stdout) if done.returncode == 0 else None
