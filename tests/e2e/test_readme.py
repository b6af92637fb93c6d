"""The README does what it says: its example is deployed, its transcript is replayed, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT
from tests.support.platform import CLIP, PlatformProcess

README = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.timeout(240)


def block(marker: str) -> str:
    """The fenced block that follows `<!-- marker -->`."""
    found = re.search(rf"<!-- {marker} -->\s*```\w*\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no block marked {marker!r}"
    return found[1]


def steps(transcript: str) -> list[tuple[str, list[str]]]:
    """`$ command` and the lines it printed, for each command; a trailing backslash continues a command."""
    found: list[tuple[str, list[str]]] = []
    lines = iter(transcript.splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command = command[:-1] + next(lines).strip()
            found.append((command, []))
        else:
            found[-1][1].append(line)
    return found


# What differs from run to run.
VARIABLE = [
    (re.compile(r"http://127\.0\.0\.1:\d+"), "URL"),
    (re.compile(r"\b\d+(\.\d+)? ?(ms|s|min|KiB|MiB|B)\b"), "AMOUNT"),
    (re.compile(r"\bPython 3\.\d+\.\d+"), "PYTHON"),
    (re.compile(r"\b20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\b"), "MOMENT"),
    (re.compile(r"\b[0-9a-f]{10}\b"), "DIGEST"),
]


def steady(line: str) -> str:
    for pattern, word in VARIABLE:
        line = pattern.sub(word, line)
    return line.rstrip()


def matches(said: list[str], written: list[str]) -> bool:
    """Whether what was printed is what is written, where a line with a lone `…` stands for any number of lines."""
    if not written:
        return not said
    if written[0].strip() == "…":
        return any(matches(said[skipped:], written[1:]) for skipped in range(len(said) + 1))
    return bool(said) and steady(said[0]) == steady(written[0]) and matches(said[1:], written[1:])


def run(platform: PlatformProcess, command: str, directory: Path) -> str:
    """What a shell in `directory` prints for `command`, both streams, with `clip` and this platform at hand."""
    path = f"{Path(CLIP).parent}:{platform.environment()['PATH']}"
    command = command.replace("http://127.0.0.1:8700", platform.url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=directory,
        env=platform.environment(PATH=path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def test_the_transcript_is_what_a_new_user_sees(own_platform: PlatformProcess, tmp_path: Path) -> None:
    transcript = steps(block("replayed: transcript"))
    assert [shlex.split(command)[:2] for command, _ in transcript][:3] == [
        ["clip", "init"],
        ["clip", "deploy"],
        ["clip", "invoke"],
    ]
    for command, written in transcript:
        said = run(own_platform, command, tmp_path).splitlines()
        assert matches(said, written), "\n".join([f"$ {command}", *said, "--- but README.md says", *written])


def test_the_example_is_a_working_project(platform: PlatformProcess, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(block("replayed: app.py"))
    (tmp_path / "clip.toml").write_text(block("replayed: clip.toml"))
    platform.deploy(tmp_path, timeout_s=180)
    try:
        for command, written in steps(block("replayed: calls")):
            assert run(platform, command, tmp_path).split() == " ".join(written).split()
    finally:
        platform.clip("delete", "iris", "--yes", check=False)


def test_every_link_of_the_documents_leads_to_a_file() -> None:
    documents = [ROOT / "README.md", *(ROOT / "infra" / "docs").glob("*.md"), *(ROOT / "examples").glob("*/README.md")]
    missing = []
    for document in documents:
        targets = re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
        local = [target for target in targets if "://" not in target]
        missing += [f"{document.relative_to(ROOT)}: {t}" for t in local if not (document.parent / t).exists()]
    assert not missing
