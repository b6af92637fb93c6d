"""Bundles: the same files are the same bytes, however they came to be there."""

from __future__ import annotations

import io
import os
import random
import tarfile
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.packaging import bundle_directory, bundle_files

NAMES = st.text(st.sampled_from("abcXYZ.-_ üñ日"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..") and name.strip(". ")
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def clash_free(tree: dict[str, bytes]) -> bool:
    """No path is both a file and a directory."""
    return not any(other.startswith(path + "/") for path in tree for other in tree)


TREES = st.dictionaries(PATHS, st.binary(max_size=200), min_size=1, max_size=8).filter(clash_free)


def lay_out(root: Path, tree: dict[str, bytes], seed: int) -> None:
    """Write the tree in an order, and with times, that depend on `seed`."""
    rng = random.Random(seed)
    order = sorted(tree)
    rng.shuffle(order)
    for path in order:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(tree[path])
        os.utime(target, (rng.randrange(2**31), rng.randrange(2**31)))


@settings(deadline=None, max_examples=60)
@given(TREES, st.integers(), st.integers())
def test_the_same_tree_has_the_same_digest_whatever_its_order_and_times(
    tree: dict[str, bytes], first: int, second: int
) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        lay_out(Path(one), tree, first)
        lay_out(Path(other), tree, second)
        bundle = bundle_directory(one)
        assert bundle == bundle_directory(other)
        assert bundle == bundle_files(tree)


@settings(deadline=None, max_examples=60)
@given(TREES)
def test_what_goes_in_comes_out(tree: dict[str, bytes]) -> None:
    bundle = bundle_files(tree)
    with tarfile.open(fileobj=io.BytesIO(bundle.data), mode="r:gz") as archive:
        members = archive.getmembers()
        found = {m.name: archive.extractfile(m).read() for m in members}  # type: ignore[union-attr]  # regular files
    assert found == tree
    assert [m.name for m in members] == sorted(tree)
    assert all(m.isreg() and not m.name.startswith("/") and ".." not in m.name.split("/") for m in members)


@settings(deadline=None, max_examples=60)
@given(TREES, st.data())
def test_any_difference_is_another_digest(tree: dict[str, bytes], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(tree)))
    changed = tree | {path: tree[path] + b"!"}
    removed = {p: c for p, c in tree.items() if p != path}
    renamed = removed | {path + "~": tree[path]}
    digests = {bundle_files(t).digest for t in (tree, changed, removed, renamed)}
    assert len(digests) == 4


@settings(deadline=None, max_examples=60)
@given(TREES, st.data())
def test_an_ignored_file_is_as_if_it_were_not_there(tree: dict[str, bytes], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(tree)))
    kept = {p: c for p, c in tree.items() if p != path}
    with tempfile.TemporaryDirectory() as directory:
        lay_out(Path(directory), tree, 0)
        (Path(directory) / ".clipignore").write_text("/" + path.replace(" ", "\\ ") + "\n", encoding="utf-8")
        assert bundle_directory(directory).digest == bundle_files(kept).digest
