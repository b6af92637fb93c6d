"""What a project leaves out: Git's rules up to the top of the repository, and `.clipignore` above them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from clipper.packaging import bundle_directory, file_stamps


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def packed(directory: Path) -> list[str]:
    return [path for path, _ in bundle_directory(directory).files]


def repository(top: Path, **files: str) -> Path:
    write(top, **files)
    subprocess.run(["git", "-C", str(top), "init", "-q"], check=True, timeout=30)
    return top


def test_the_ignore_files_above_the_project_count_up_to_the_top_of_the_repository(tmp_path: Path) -> None:
    write(tmp_path, **{".gitignore": "app.py\n"})  # outside the repository
    top = repository(tmp_path / "repo", **{".gitignore": ".env\n/services/*/data/\n", "services/.gitignore": "*.tmp\n"})
    one = write(top / "services" / "one", **{".env": "KEY=1", "data/x": "", "x.tmp": "", "app.py": "", "lib/.env": ""})
    assert packed(one) == ["app.py"]


def test_what_git_ignores_outside_the_work_tree_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(write(tmp_path / "config", **{"git/ignore": "*.swp\n"})))
    top = repository(tmp_path / "repo", **{"app.py": "", "app.swp": "", "mine.txt": ""})
    write(top, **{".git/info/exclude": "mine.txt\n"})
    assert packed(top) == ["app.py"]


def test_a_tracked_file_is_not_ignored(tmp_path: Path) -> None:
    top = repository(tmp_path, **{".gitignore": "models/\n", "models/m.bin": "", "models/other.bin": "", "app.py": ""})
    subprocess.run(["git", "-C", str(top), "add", "-f", "models/m.bin"], check=True, timeout=30)
    assert packed(top) == ["app.py", "models/m.bin"]


def test_the_rules_hold_without_the_program_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = repository(tmp_path / "repo", **{".gitignore": ".env\n", "one/.env": "KEY=1", "one/app.py": "", "one/x": ""})
    write(top, **{".git/info/exclude": "x\n"})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert packed(top / "one") == ["app.py"]


def test_a_repository_that_ignores_the_project_itself_says_nothing_about_it(tmp_path: Path) -> None:
    home = repository(tmp_path, **{".gitignore": "*\n", "work/one/app.py": "", "work/one/.gitignore": "*.tmp\n"})
    write(home, **{"work/one/x.tmp": ""})
    assert packed(home / "work" / "one") == ["app.py"]


def test_a_repository_inside_the_project_has_its_own_rules(tmp_path: Path) -> None:
    top = repository(tmp_path, **{".gitignore": "*.log\n", "app.py": "", "a.log": ""})
    repository(top / "inner", **{"a.log": "", "b.txt": "", ".gitignore": "b.txt\n"})
    assert packed(top) == ["app.py", "inner/a.log"]


@pytest.mark.parametrize(
    ("git", "clip", "packs"),
    [
        ("models/", "!models/m.bin", ["models/m.bin"]),
        ("models/", "!/models/m.bin", ["models/m.bin"]),
        ("models/", "!models/*.bin", ["models/m.bin", "models/n.bin"]),
        ("models/", "!models/", ["models/a.txt", "models/deep/m.bin", "models/m.bin", "models/n.bin"]),
        ("models/", "!models/deep/", ["models/deep/m.bin"]),
        ("models/", "!**/deep/m.bin", ["models/deep/m.bin"]),
        ("models/", "!models/\nmodels/n.bin", ["models/a.txt", "models/deep/m.bin", "models/m.bin"]),
        ("*.bin", "!models/m.bin", ["models/a.txt", "models/m.bin"]),
        ("models/", "!m.bin", []),  # a name at any depth reaches into no ignored directory, as in Git
        ("", "models/\n!models/m.bin", ["models/m.bin"]),
        ("", "!models/m.bin\nmodels/", []),  # the last pattern wins
        ("", "models/*\n!models/deep/", ["models/deep/m.bin"]),
    ],
)
def test_clipignore_brings_back_what_it_names(tmp_path: Path, git: str, clip: str, packs: list[str]) -> None:
    files = dict.fromkeys(["models/m.bin", "models/n.bin", "models/a.txt", "models/deep/m.bin"], "")
    write(tmp_path, **files, **{".gitignore": git, ".clipignore": clip})
    assert packed(tmp_path) == packs


def test_caches_and_environments_stay_out_whatever_is_brought_back(tmp_path: Path) -> None:
    write(
        tmp_path, **{".clipignore": "!.venv/x\n!d/__pycache__/x\n", ".venv/x": "", "d/__pycache__/x": "", "app.py": ""}
    )
    assert packed(tmp_path) == ["app.py"]


def test_a_changed_ignore_file_above_the_project_is_a_change_of_the_project(tmp_path: Path) -> None:
    top = repository(tmp_path, **{".gitignore": "x\n", "one/app.py": ""})
    before = file_stamps(top / "one")
    assert before is not None
    assert {"app.py", "../.gitignore"} <= set(before)
    write(top, **{".gitignore": "yy\n"})
    assert file_stamps(top / "one") != before
