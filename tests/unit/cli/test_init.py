from __future__ import annotations

import json
import runpy
import tomllib
from pathlib import Path

import pytest

from clipper.cli.init import project_name
from clipper.cli.main import main
from clipper.contract.spec import FunctionSpec, SpecError
from clipper.packaging import bundle_directory
from clipper.project import load_project

FILES = {"clip.toml", "app.py", "README.md", ".clipignore"}


def test_a_new_project_has_its_files_and_says_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "demo")]) == 0
    assert {p.name for p in (tmp_path / "demo").iterdir()} == FILES
    printed = capsys.readouterr().out
    assert "clip deploy" in printed
    assert "clip invoke demo/analyze" in printed


def test_the_configuration_of_a_new_project_is_valid_and_carries_its_name(tmp_path: Path) -> None:
    main(["init", str(tmp_path), "--name", "texts"])
    table = tomllib.loads((tmp_path / "clip.toml").read_text())
    assert table["name"] == "texts"
    assert table["environment"]["requirements"] == []
    spec = FunctionSpec.parse("analyze", "app:analyze", table["functions"]["analyze"])
    assert spec.autoscaling.min_replicas >= 1
    assert "{{" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("there", sorted(FILES))
def test_nothing_is_overwritten_and_nothing_is_written_beside_it(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / there).write_text("mine")
    assert main(["init", str(tmp_path)]) == 1
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {there: "mine"}
    assert there in capsys.readouterr().err


def test_a_dangling_link_counts_as_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "app.py").symlink_to(tmp_path / "elsewhere")
    assert main(["init", str(tmp_path)]) == 1
    assert not (tmp_path / "elsewhere").exists()


def test_with_json_the_answer_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "x"), "--name", "texts", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["project"] == "texts"
    assert set(document["files"]) == FILES


@pytest.mark.parametrize(
    ("directory", "name"),
    [("demo", "demo"), ("My Project!", "my-project"), ("...", "demo"), ("ünïcode", "n-code"), ("api", "api-project")],
)
def test_the_directory_gives_the_project_an_allowed_name(directory: str, name: str, tmp_path: Path) -> None:
    assert project_name(tmp_path / directory, "") == name


def test_a_name_that_is_not_allowed_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SpecError):
        project_name(tmp_path, "a/b")
    assert main(["init", str(tmp_path / "x"), "--name", "a/b"]) == 1
    assert not (tmp_path / "x").exists()
    assert "not allowed" in capsys.readouterr().err


def test_a_file_in_the_way_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert main(["init", str(tmp_path / "file")]) == 1


def test_the_function_of_a_new_project_does_what_it_says(tmp_path: Path) -> None:
    main(["init", str(tmp_path)])
    analyze = runpy.run_path(str(tmp_path / "app.py"))["analyze"]
    found = analyze.local(["Call me Ishmael. Don't!", ""])
    assert [(s.characters, s.words, s.sentences, s.longest_word) for s in found] == [
        (23, 4, 2, "Ishmael"),
        (0, 0, 0, ""),
    ]


def test_a_new_project_is_one_that_can_be_deployed(tmp_path: Path) -> None:
    main(["init", str(tmp_path), "--name", "texts"])
    project = load_project(tmp_path)
    assert (project.name, [spec.name for spec in project.functions]) == ("texts", ["analyze"])
    assert {path for path, _ in bundle_directory(tmp_path).files} == {"README.md", "app.py", "clip.toml"}
