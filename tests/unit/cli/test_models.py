"""Model files on the command line: what is printed of them, and the project that `clip init --from` writes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from clipper.cli.main import main
from clipper.packaging import bundle_directory
from clipper.project import load_project

ROOT = Path(__file__).parents[3]
FILES = ROOT / "tests" / "support" / "model_files"
FRAMEWORKS = {
    "caffe": "digits.caffemodel",
    "lightgbm": "diabetes.txt",
    "onnx": "digits.onnx",
    "pytorch": "digits.pt2",
    "scikit_learn": "wine.joblib",
    "vowpal_wabbit": "digits.vw",
    "xgboost": "tumour.ubj",
}
SERVED = (
    "iris.joblib", "table.joblib", "mixed.joblib", "text.joblib", "pca.joblib", "classifier.ubj", "booster.txt",
    "script.pt", "pair.pt", "one.pt2", "pair.pt2", "add.onnx", "one.onnx", "whole.onnx", "any.onnx", "text.onnx",
    "sentiment", "tracked",
)  # fmt: skip

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("name", SERVED)
def test_the_project_of_a_model_can_be_deployed(name: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["init", "--from", str(FILES / name), str(tmp_path / "here"), "--name", "served"]) == 0
    project = load_project(tmp_path / "here")
    assert project.name == "served"
    assert [spec.entrypoint.partition(":")[0] for spec in project.functions] == ["app"]
    packed = {path.partition("/")[0] for path, _ in bundle_directory(tmp_path / "here").files}
    assert packed == {"app.py", "clip.toml", name}
    assert "clip deploy" in capsys.readouterr().out


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_example_is_what_init_writes_for_its_model(name: str, tmp_path: Path, capsys: Capture) -> None:
    example = ROOT / "examples" / name
    main(["init", "--from", str(example / FRAMEWORKS[name]), str(tmp_path / "here"), "--name", name])
    for file in ("app.py", "clip.toml", ".clipignore"):
        assert (example / file).read_text() == (tmp_path / "here" / file).read_text()


def test_the_model_belongs_to_the_bundle_where_git_ignores_it(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / ".gitignore").write_text("*.joblib\n")
    main(["init", "--from", str(FILES / "iris.joblib"), str(tmp_path)])
    assert "iris.joblib" in {path for path, _ in bundle_directory(tmp_path).files}


def test_a_project_is_written_beside_a_model_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "iris.joblib").write_bytes((FILES / "iris.joblib").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--from", "iris.joblib"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"app.py", "clip.toml", ".clipignore", "iris.joblib"}
    assert load_project(tmp_path).name == "iris"


@pytest.mark.parametrize("there", ["app.py", "clip.toml", "iris.joblib"])
def test_nothing_is_overwritten(there: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / there).write_text("mine")
    assert main(["init", "--from", str(FILES / "iris.joblib"), str(tmp_path)]) == 1
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {there: "mine"}
    assert there in capsys.readouterr().err


def test_the_smoke_call_may_be_given(tmp_path: Path, capsys: Capture) -> None:
    words = ["init", "--from", str(FILES / "pair.pt"), str(tmp_path), "--smoke", '{"a": [1.0], "b": [2.0]}']
    assert main(words) == 0
    assert tomllib.loads((tmp_path / "clip.toml").read_text())["deploy"]["smoke"] == {
        "predict": {"a": [1.0], "b": [2.0]}
    }


@pytest.mark.parametrize(
    ("smoke", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "object"),
        ('{"a": 1, "c": 2}', "no input 'c'"),
        ('{"a": 1}', "lacks the model's input 'b'"),
    ],
)
def test_a_smoke_call_that_cannot_be_is_refused(smoke: str, said: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["init", "--from", str(FILES / "pair.pt"), str(tmp_path / "x"), "--smoke", smoke]) in (1, 2)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("option", ["--smoke", "--method"])
def test_options_of_a_model_need_one(option: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["init", str(tmp_path / "x"), option, "{}"]) == 2
    assert "--from" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--name", "--smoke", "--method"])
def test_a_deploy_of_a_project_refuses_options_of_a_model(option: str, tmp_path: Path, capsys: Capture) -> None:
    main(["init", str(tmp_path)])
    assert main(["deploy", str(tmp_path), option, "predict"]) == 2
    assert "clip.toml" in capsys.readouterr().err


def test_a_deploy_says_what_it_found_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("CLIP_HOME", str(tmp_path))  # no platform there
    assert main(["deploy", str(FILES / "hostile_inside.pkl"), "--name", "mine"]) == 1
    printed = capsys.readouterr()
    for words in (
        "scikit-learn 1.9.1",
        "features: float64 [4]",
        "predict: int",
        "scikit-learn==1.9.1",
        "Project      mine",
    ):
        assert words in printed.out
    assert "posix.system" in printed.err
    assert "No platform" in printed.err


def test_a_deploy_of_what_is_no_model_says_so(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    assert main(["deploy", str(tmp_path / "model.onnx"), "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "invalid_spec"
    assert "no model that is known" in error["message"]


def test_a_directory_with_two_models_and_no_project_names_them(tmp_path: Path, capsys: Capture) -> None:
    for name in ("iris.joblib", "add.onnx"):
        (tmp_path / name).write_bytes((FILES / name).read_bytes())
    assert main(["deploy", str(tmp_path)]) == 1
    assert "add.onnx, iris.joblib; name one" in capsys.readouterr().err


def test_what_was_written_is_told_as_json(tmp_path: Path, capsys: Capture) -> None:
    main(["init", "--from", str(FILES / "table.joblib"), str(tmp_path), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["model"]["framework"] == "scikit-learn"
    assert document["model"]["inputs"][0]["columns"][0] == {"name": "sepal length (cm)", "type": "float"}
    assert set(document["files"]) == {"app.py", "clip.toml", ".clipignore", "table.joblib"}
