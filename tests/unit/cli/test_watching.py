"""Noticing saves: what counts as a change, and when it is over."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from clipper.cli.watching import PERIOD_S, Watcher, differences
from clipper.packaging import file_stamps

Stamps = Mapping[str, tuple[int, int]]


class Tree:
    """Files as the looks find them, one after the other; the last stays. Time passes only in sleeps."""

    def __init__(self, *looks: Stamps | None, cost_s: float = 0.0) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.cost_s = cost_s
        self._looks: Iterator[Stamps | None] = iter(looks)
        self._last: Stamps | None = {}

    def look(self, directory: Path) -> Stamps | None:
        self.now += self.cost_s
        self._last = next(self._looks, self._last)
        return self._last

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        assert self.now < 60, "it waits for ever"

    def watcher(self) -> Watcher:
        return Watcher(Path(), clock=lambda: self.now, sleep=self.sleep, look=self.look)


ONE, TWO, THREE = {"a": (1, 1)}, {"a": (1, 2)}, {"a": (1, 2), "b": (5, 1)}


def test_a_save_is_told_by_the_files_that_differ() -> None:
    watcher = (tree := Tree(ONE, ONE, ONE, TWO, TWO)).watcher()
    watcher.take()
    assert watcher.changed() == ["a"]
    assert tree.now < 2 * PERIOD_S


def test_a_save_in_several_steps_is_one() -> None:
    watcher = Tree(ONE, ONE, TWO, THREE, THREE, THREE).watcher()
    watcher.take()
    assert watcher.changed() == ["a", "b"]


def test_files_that_come_and_go_are_waited_for() -> None:
    watcher = Tree(ONE, ONE, None, TWO, None, THREE, THREE).watcher()
    watcher.take()
    assert watcher.changed() == ["a", "b"]


def test_a_tree_that_takes_long_to_look_at_is_looked_at_less_often() -> None:
    watcher = (tree := Tree(ONE, ONE, ONE, TWO, TWO, cost_s=1.0)).watcher()
    watcher.take()
    watcher.changed()
    assert max(tree.slept) == pytest.approx(5.0)


def test_differences_are_additions_changes_and_removals() -> None:
    assert differences({"a": (1, 1), "b": (1, 1), "c": (1, 1)}, {"a": (1, 2), "b": (1, 1), "d": (1, 1)}) == [
        "a",
        "c",
        "d",
    ]


def test_the_stamps_are_of_the_files_that_a_bundle_holds_and_of_what_decides_that(tmp_path: Path) -> None:
    for name in ("app.py", "notes.txt", ".clipignore"):
        (tmp_path / name).write_text("*.txt\n")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "app.pyc").write_text("")
    before = file_stamps(tmp_path)
    assert before is not None
    assert set(before) == {"app.py", ".clipignore"}
    os.utime(tmp_path / "app.py", ns=(1, 1))
    after = file_stamps(tmp_path)
    assert after is not None
    assert differences(before, after) == ["app.py"]


def test_a_real_save_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("one")
    watcher = Watcher(tmp_path, sleep=lambda _: None)
    watcher.take()
    (tmp_path / "app.py").write_text("two, longer")
    assert watcher.changed() == ["app.py"]
