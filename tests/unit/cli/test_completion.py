from __future__ import annotations

from pathlib import Path

import pytest

from clipper.cli import completion
from clipper.cli.commands import clip
from clipper.cli.problems import CommandFailed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_asks_clip_for_completions(shell: str) -> None:
    script = completion.script(clip, shell)
    assert f"{completion.COMPLETE_VARIABLE}={shell}_complete" in script


@pytest.mark.parametrize(
    ("shell", "place", "start_up"),
    [
        ("bash", ".bash_completions/clip.sh", ".bashrc"),
        ("zsh", ".zfunc/_clip", ".zshrc"),
        ("fish", ".config/fish/completions/clip.fish", None),
    ],
)
def test_installing_twice_writes_the_script_and_one_line_that_loads_it(
    shell: str, place: str, start_up: str | None, tmp_path: Path
) -> None:
    if start_up:
        (tmp_path / start_up).write_text("alias ll='ls -l'")
    for _ in range(2):
        assert completion.install(clip, shell, tmp_path) == tmp_path / place
    assert (tmp_path / place).read_text() == completion.script(clip, shell)
    if start_up:
        lines = [line for line in (tmp_path / start_up).read_text().splitlines() if line]
        assert lines[0] == "alias ll='ls -l'"
        assert len(lines) == 2
    assert {path.name for path in tmp_path.iterdir()} == {Path(place).parts[0], *([start_up] if start_up else [])}


def test_without_a_shell_that_has_completion_the_failure_names_those_that_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getppid", lambda: 1)  # no parent is a shell
    monkeypatch.setenv("SHELL", "/bin/zsh")
    assert completion.current_shell() == "zsh"
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    with pytest.raises(CommandFailed, match="bash, zsh, fish"):
        completion.current_shell()
