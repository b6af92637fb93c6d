"""Git itself says which files of random trees it ignores, and a bundle holds the others."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.packaging import bundle_directory

NAMES = st.sampled_from([
    "a", "b", "build", "x.log", "keep.log", "we ird", "[x]", "#y", "!z", "e", "é", "A", "-d", "[", "a ", "**", "\\t",
])  # fmt: skip
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PATTERNS = st.sampled_from([
    "a", "a/", "/a", "*.log", "!keep.log", "b/*", "!b/a", "**/x.log", "a/**", "!a/**/keep.log", "build/", "!build/",
    "*", "!*/", "!*.log", "/*/b", "we ird", "we\\ ird ", "\\#y", "\\!z", "[[]x]", "[ab]", "a/b", "!a/b", "**", "?",
    "#", "a/*/b", "!/a", "b/**/a", "x.log/", "*/x.log", "",
])  # fmt: skip
# What a pattern may be made of, so that odd ones occur too.
PIECES = st.sampled_from([
    "a", "b", "*", "**", "***", "?", "[", "]", "/", "\\", "!", "-", "^", " ", "\t", "é", ".", "[:", "alpha", ":]",
    "[a-c]", "[!a]", "[z-a]", "[[:upper:]]", "/**/", "**/", "#",
])  # fmt: skip
ODD_PATTERNS = PATTERNS | st.lists(PIECES, min_size=1, max_size=5).map("".join)
IGNORE_FILES = st.dictionaries(
    st.sampled_from(["", "a/", "b/", "a/b/", "build/"]), st.lists(ODD_PATTERNS, max_size=5), max_size=3
)


def run_git(top: Path, *arguments: str) -> str:
    git = ["git", "-c", "core.excludesFile=/dev/null", "-C", str(top)]
    return subprocess.run([*git, *arguments], check=True, capture_output=True, timeout=30).stdout.decode()


def lay_out(top: Path, files: set[str], ignore_files: dict[str, list[str]]) -> None:
    for path in sorted(files):
        if not any(parent.is_file() for parent in (top / path).parents) and not (top / path).is_dir():
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            (top / path).write_text("")
    for directory, patterns in ignore_files.items():
        if (top / directory).is_dir():
            (top / directory / ".gitignore").write_text("\n".join(patterns) + "\n")


@settings(deadline=None, max_examples=50)
@given(st.sets(PATHS, min_size=1, max_size=12), IGNORE_FILES, st.sets(PATHS, max_size=2))
def test_a_bundle_holds_what_git_does_not_ignore(
    files: set[str], ignore_files: dict[str, list[str]], forced: set[str]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        lay_out(top, files, ignore_files)
        run_git(top, "init", "-q")
        if added := [path for path in forced if (top / path).is_file()]:
            run_git(top, "add", "-f", "--", *(f":(literal){path}" for path in added))
        listed = run_git(top, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
        expected = sorted(p for p in listed.split("\0") if p and not p.endswith(".gitignore"))
        assert [path for path, _ in bundle_directory(top).files] == expected


@settings(deadline=None, max_examples=25)
@given(st.sets(PATHS, min_size=1, max_size=8), IGNORE_FILES, st.lists(PATTERNS, max_size=5))
def test_patterns_above_the_project_count_as_in_git(
    files: set[str], ignore_files: dict[str, list[str]], above: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        top, project = Path(directory), Path(directory, "services", "one")
        project.mkdir(parents=True)
        lay_out(project, files, ignore_files)
        (top / ".gitignore").write_text("\n".join(f"services/one/{p}" for p in above if p[:1] not in ("", "#", "!")))
        (top / "services" / ".gitignore").write_text("\n".join(above))
        run_git(top, "init", "-q")
        ignored = (
            subprocess.run(["git", "-C", str(top), "check-ignore", "-q", "services/one"], timeout=30).returncode == 0
        )
        listed = run_git(project, "ls-files", "--others", "--exclude-standard", "-z")
        expected = sorted(p for p in listed.split("\0") if p and not p.endswith(".gitignore"))
        if not ignored:
            assert [path for path, _ in bundle_directory(project).files] == expected
