"""The runtime's own code, staged for replicas: one directory per content, to be their PYTHONPATH.

A replica runs in the user's environment, where neither `clipper` nor `clipper_runtime` is installed, and must not see
the platform's site-packages. So the two packages are copied to `<home>/runtime/<digest>/`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["PACKAGES", "find_packages", "stage"]

# Package -> its parts that no replica needs.
PACKAGES: Mapping[str, frozenset[str]] = {"clipper": frozenset({"cli"}), "clipper_runtime": frozenset()}


def find_packages(names: Mapping[str, frozenset[str]] = PACKAGES) -> dict[str, Path]:
    """Where the packages are, found without importing them. Raises RuntimeError for one that is not installed."""
    found = {}
    for name in names:
        spec = importlib.util.find_spec(name)
        locations = list(spec.submodule_search_locations or ()) if spec else []
        if not locations:
            raise RuntimeError(f"the package {name!r} is not installed beside the platform")
        found[name] = Path(locations[0])
    return found


def stage(root: Path, packages: Mapping[str, Path] | None = None) -> Path:
    """Copy the packages to `root/<digest>/` unless they are there. Returns that directory.

    Atomic: a directory named by a digest is complete, or it is replaced. Other directories, of earlier versions of the
    platform or of an interrupted copy, are removed: a home belongs to one platform at a time.
    """
    packages = find_packages() if packages is None else packages
    files = {f"{name}/{path}": base / path for name, base in packages.items() for path in _files(name, base)}
    digest = _digest(files)
    target = root / digest
    root.mkdir(parents=True, exist_ok=True)
    if not _is_whole(target, digest):
        _replace(target, _copy(files, root))
    for other in root.iterdir():
        if other.is_dir() and other != target:
            shutil.rmtree(other, ignore_errors=True)
        elif not other.name.startswith(digest):  # a marker of bytecode that went with it
            other.unlink(missing_ok=True)
    return target


def _files(package: str, base: Path) -> Iterator[Path]:
    """Relative paths of a package's files, without bytecode and without what no replica needs."""
    unwanted = PACKAGES.get(package, frozenset())
    for path in sorted(base.rglob("*")):
        relative = path.relative_to(base)
        if path.is_file() and "__pycache__" not in relative.parts and relative.parts[0] not in unwanted:
            yield relative


def _digest(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = path.read_bytes()
        digest.update(f"{len(name)}:{name}{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()[:20]


def _is_whole(target: Path, digest: str) -> bool:
    if not target.is_dir():
        return False
    paths = [path for path in target.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return _digest({str(path.relative_to(target)): path for path in paths}) == digest


def _copy(files: Mapping[str, Path], root: Path) -> Path:
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=root))
    for name, source in files.items():
        destination = draft / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, destination)
    draft.chmod(0o755)
    return draft


def _replace(target: Path, draft: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    os.rename(draft, target)
