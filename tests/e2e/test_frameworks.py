"""Models of each framework: the examples and files of other kinds, deployed, called, and compared with the library.

The libraries are installed once, beside the platform's environments, from the same cache of uv.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ROOT
from tests.support.platform import PlatformProcess, eventually

EXAMPLES, FILES, SUPPORT = ROOT / "examples", ROOT / "tests/support/model_files", ROOT / "tests/support"
FRAMEWORKS = ("scikit_learn", "xgboost", "lightgbm", "onnx", "pytorch", "vowpal_wabbit", "caffe")
# The version of the examples' program and of the files' networks.
TORCH = "torch==2.13.0"
LIBRARIES = (
    "scikit-learn==1.9.1", "pandas", "xgboost-cpu==3.2.0", "lightgbm>=4", "onnxruntime>=1.20",
    "vowpalwabbit>=9.11.9,<10", "opencv-python-headless>=4.8,<5", "transformers==5.24.0", "safetensors", TORCH,
)  # fmt: skip

pytestmark = pytest.mark.timeout(600)


def wheels_of_pip() -> str:
    """Where pip finds PyTorch, if that is a directory of this machine: uv, which installs, reads pip's settings not."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet"]
    done = subprocess.run([*command, "--report", "-", TORCH], capture_output=True, text=True, timeout=120)
    try:
        url = json.loads(done.stdout)["install"][0]["download_info"]["url"]
    except (ValueError, LookupError):
        return ""
    return str(Path(url.removeprefix("file://")).parent) if url.startswith("file://") else ""


@pytest.fixture(scope="module")
def wheels() -> dict[str, str]:
    place = wheels_of_pip()
    return {"UV_FIND_LINKS": place} if place else {}


@pytest.fixture(scope="module")
def machine(wheels: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    # Two replicas of Spark or PyTorch at once are more than a small machine has memory for.
    with PlatformProcess(tmp_path_factory.mktemp("frameworks") / "home", env=wheels) as running:
        yield running


@pytest.fixture(scope="module")
def libraries(wheels: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has all the libraries, and the SDK."""
    directory = tmp_path_factory.mktemp("libraries") / "venv"
    environment = {**os.environ, **wheels}
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, directory], check=True, env=environment)
    python = directory / "bin" / "python"
    install = [*uv, "pip", "install", "--quiet", "--python", python, *LIBRARIES, ROOT]
    subprocess.run(install, check=True, env=environment, timeout=300)
    return python


def run_program(machine: PlatformProcess, libraries: Path, *words: Path) -> str:
    """What a program with all libraries prints. What it imports is compiled once, and not beside the sources."""
    environment = machine.environment(PYTHONPYCACHEPREFIX=str(libraries.with_name("compiled")))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [libraries, "-P", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def answers(machine: PlatformProcess, libraries: Path) -> dict[str, Any]:
    """What the libraries themselves answer."""
    out = libraries.with_name("answers.json")
    run_program(machine, libraries, SUPPORT / "framework_answers.py", out)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def called(machine: PlatformProcess, address: str, answer: dict[str, Any], at_once: int) -> list[Any]:
    """The function's values for the answer's inputs, `at_once` of them together."""
    with machine.client(limits=httpx.Limits(max_connections=at_once)) as http, ThreadPoolExecutor(at_once) as pool:

        def call(value: Any) -> Any:
            got = http.post(f"/fn/{address}", json={answer["parameter"]: value})
            assert got.status_code == 200, got.text
            return got.json()

        return list(pool.map(call, answer["inputs"]))


def bits(values: Any, dtype: str) -> Any:
    """The bits of numbers as the model gave them: JSON writes a float32 by the digits of a float64."""
    if isinstance(values, list):
        return [bits(value, dtype) for value in values]
    if isinstance(values, dict):
        return {key: bits(value, dtype) for key, value in values.items()}
    return struct.pack("<f" if dtype == "float32" else "<d", values) if isinstance(values, float) else values


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_example_predicts_what_its_library_does_bit_for_bit(
    name: str, machine: PlatformProcess, answers: dict[str, Any]
) -> None:
    machine.deploy(EXAMPLES / name, timeout_s=300)
    answer = answers[name]
    # PyTorch rounds differently for one and for several at once.
    found = called(machine, f"{name}/predict", answer, at_once=1 if name == "pytorch" else 16)
    assert bits(found, answer["dtype"]) == bits(answer["outputs"], answer["dtype"])
    machine.clip("delete", name, "--yes")


@pytest.mark.parametrize("name", ["table.joblib", "text.joblib", "classifier.ubj"])
def test_a_model_of_another_kind_predicts_what_its_library_does(
    name: str, machine: PlatformProcess, answers: dict[str, Any]
) -> None:
    project = name.partition(".")[0]
    printed = machine.clip("deploy", FILES / name, timeout_s=300).out
    assert called(machine, f"{project}/predict", answers[name], at_once=8) == answers[name]["outputs"]
    assert run_curl(printed) == json.loads(
        machine.clip("invoke", f"{project}/predict", "--json-input", smoke(printed)).out
    )
    machine.clip("delete", project, "--yes")


def curl_of(printed: str) -> str:
    """The command below `Call it`."""
    return printed.split("Call it\n", 1)[1].split("\n\n", 1)[0]


def smoke(printed: str) -> str:
    return curl_of(printed).split("-d '", 1)[1].rstrip().removesuffix("'")


def run_curl(printed: str) -> Any:
    done = subprocess.run(["bash", "-c", curl_of(printed)], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


ASKED = {
    # file: arguments -> value
    "add.onnx": ({"left": [1, 2, 3], "right": [10, 20, 30]}, [11.0, 22.0, 33.0]),
    "one.onnx": ({"left": [1, 2, 3], "right": [10, 20, 30]}, [11.0, 22.0, 33.0]),
    "whole.onnx": ({"left": [[1, 2, 3]] * 2, "right": [[1, 1, 1]] * 2}, [[2.0, 3.0, 4.0]] * 2),
    "any.onnx": ({"input_1": [1, 2, 3, 4]}, [2.0, 4.0, 6.0, 8.0]),
    "text.onnx": ({"words": "ünïcode"}, "ünïcode"),
    "pair.pt2": ({"a": [3, 2, 1], "b": [1, 1, 1]}, [[4.0, 3.0, 2.0], [2.0, 1.0, 0.0]]),
}


@pytest.mark.parametrize("name", ASKED)
def test_inputs_keep_their_names_and_shapes(name: str, machine: PlatformProcess) -> None:
    arguments, value = ASKED[name]
    project = name.replace(".", "-")
    machine.clip("deploy", FILES / name, "--name", project, "--smoke", json.dumps(arguments), timeout_s=300)
    assert machine.call(f"{project}/predict", **arguments) == value
    machine.clip("delete", project, "--yes")


def test_what_does_not_fit_the_model_is_refused_before_it_gets_there(machine: PlatformProcess) -> None:
    machine.clip("deploy", FILES / "add.onnx", "--name", "fits", timeout_s=300)
    for left in ([1, 2], [[1, 2, 3]], ["a", "b", "c"], None):
        answer = machine.post("/fn/fits/predict", {"left": left, "right": [1, 2, 3]})
        assert answer.status_code == 422, answer.text
        assert "$.left" in answer.json()["error"]["message"]
    machine.clip("delete", "fits", "--yes")


def test_shapes_that_differ_within_a_batch_are_each_answered(machine: PlatformProcess) -> None:
    machine.clip("deploy", FILES / "any.onnx", "--name", "ragged", timeout_s=300)
    rows = [[float(number)] * (1 + number % 5) for number in range(40)]
    found = called(machine, "ragged/predict", {"parameter": "input_1", "inputs": rows}, at_once=16)
    assert found == [[2 * value for value in row] for row in rows]
    machine.clip("delete", "ragged", "--yes")


def test_a_directory_of_hugging_face_is_a_pipeline(machine: PlatformProcess, answers: dict[str, Any]) -> None:
    """With the version of PyTorch that the tests have: the directory does not name one."""
    directory = machine.home.parent / "sentiment"
    machine.clip("init", "--from", FILES / "sentiment", directory)
    settings = directory / "clip.toml"
    settings.write_text(settings.read_text().replace('"torch>=2.6"', f'"{TORCH}"'))
    machine.deploy(directory, timeout_s=300)
    answer = answers["sentiment"]
    found = called(machine, "sentiment/predict", answer, at_once=1)
    assert [one["label"] for one in found] == ["kind", "unkind", "unkind", "kind"]
    assert found == answer["outputs"]
    machine.clip("delete", "sentiment", "--yes")


def test_a_directory_of_mlflow_takes_rows_of_its_signature(machine: PlatformProcess, answers: dict[str, Any]) -> None:
    """With MLflow's small package, which loads models: the large one brings servers and a hundred packages."""
    directory = machine.home.parent / "tracked"
    shutil.copytree(FILES / "tracked", directory)
    lines = (directory / "requirements.txt").read_text().replace("mlflow==", "mlflow-skinny==")
    (directory / "requirements.txt").write_text(lines)
    machine.clip("deploy", directory, timeout_s=300)
    assert called(machine, "tracked/predict", answers["table.joblib"], at_once=8) == answers["table.joblib"]["outputs"]
    machine.clip("delete", "tracked", "--yes")


def test_a_method_may_be_chosen(machine: PlatformProcess) -> None:
    machine.clip("deploy", FILES / "iris.joblib", "--method", "predict_proba", timeout_s=300)
    chances = machine.call("iris/predict", features=[5.1, 3.5, 1.4, 0.2])
    assert len(chances) == 3
    assert sum(chances) == pytest.approx(1)
    machine.clip("delete", "iris", "--yes")


@pytest.mark.parametrize(
    ("name", "function", "value"),
    [
        ("sparse.joblib", "transform", [1.0, 0.0, 1.0, 0.0]),
        ("codes.joblib", "predict", False),
        ("voting.joblib", "predict", 0),
    ],
)
def test_the_call_that_is_made_up_from_a_file_runs(
    name: str, function: str, value: Any, machine: PlatformProcess
) -> None:
    printed = machine.clip("deploy", FILES / name, timeout_s=300).out
    assert f"/{function} " in printed
    assert run_curl(printed) == value
    machine.clip("delete", name.partition(".")[0], "--yes")


def test_a_hostile_pickle_runs_in_a_replica_only(machine: PlatformProcess, tmp_path: Path) -> None:
    refused = machine.clip("deploy", FILES / "hostile.pkl", cwd=tmp_path, check=False)
    assert refused.code == 1
    assert "posix.system" in refused.err
    deployed = machine.clip("deploy", FILES / "hostile_inside.pkl", cwd=tmp_path, timeout_s=300)
    assert "it may be hostile" in deployed.err
    assert not list(tmp_path.iterdir())  # it touches a file where it runs
    assert not Path("hostile").exists()
    machine.clip("delete", "hostile_inside", "--yes")


def test_live_models_are_deployed_from_the_program_that_has_them(machine: PlatformProcess, libraries: Path) -> None:
    printed = run_program(machine, libraries, SUPPORT / "live_models.py")
    assert printed.splitlines() == [
        "estimator equal",
        "xgboost equal",
        "lightgbm equal",
        "torch equal",
        "unfitted refused",
    ]


def test_a_closure_is_deployed_from_its_program(machine: PlatformProcess, libraries: Path) -> None:
    printed = run_program(machine, libraries, EXAMPLES / "closure" / "deploy.py")
    assert float(printed) == pytest.approx(13.0, abs=0.5)  # the line that the points were measured of: 3x + 1
    machine.clip("delete", "line", "--yes")


THREE = ("iris.joblib", "classifier.ubj", "lightgbm.joblib")
"""The same flowers by scikit-learn, XGBoost and LightGBM: four numbers in, the species out."""


def test_one_application_switches_among_three_frameworks_while_one_is_killed(
    machine: PlatformProcess, answers: dict[str, Any]
) -> None:
    for file in THREE:
        machine.clip("deploy", FILES / file, "--name", f"app-{Path(file).stem}", timeout_s=300)
    functions = [f"app-{Path(file).stem}/predict" for file in THREE]
    spec = {"input_type": "doubles", "default_output": -1, "latency_slo_s": 10.0, "links": functions}

    def asked(rows: list[list[float]]) -> list[dict[str, Any]]:
        answer = machine.post("/species/predict", {"input_batch": rows})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["batch_predictions"])

    def linked(**changes: Any) -> None:
        answer = machine.api("PUT", "/apps/species", json={**spec, **changes})
        assert answer.is_success, answer.text

    rows, species = answers["classifier.ubj"]["inputs"], answers["classifier.ubj"]["outputs"]
    for function in functions:  # one after the other answers, without a change for clients
        linked(policy="single", links=[function])
        assert {tuple(one["models"]) for one in asked(rows[:20])} == {(function,)}
    linked(policy="majority")
    assert {len(one["models"]) for one in asked(rows[:20])} == {3}
    victim = next(replica for replica in machine.status(functions[0])["replicas"] if replica["state"] == "ready")
    os.kill(victim["pid"], signal.SIGKILL)
    # The setosas and the virginicas that all three know, while the first has to start anew.
    sure = [place for place in (*range(20), *range(130, 149)) if species[place] in (0, 2)]
    found = asked([rows[place] for place in sure])
    assert not any(one["default"] for one in found)
    right = sum(one["output"] == species[place] for one, place in zip(found, sure, strict=True))
    assert right >= len(sure) - 1
    eventually(lambda: len(asked(rows[:1] * 2)[0]["models"]) == 3, within_s=60)
    machine.api("DELETE", "/apps/species")
    for function in functions:
        machine.clip("delete", function.partition("/")[0], "--yes")


def test_spark_answers_a_batch_with_one_frame(machine: PlatformProcess) -> None:
    machine.deploy(EXAMPLES / "pyspark", timeout_s=400)
    names = ("sepal_length", "sepal_width", "petal_length", "petal_width")
    flowers = [[5.1, 3.5, 1.4, 0.2], [6.0, 2.7, 4.1, 1.0], [6.7, 3.1, 5.6, 2.4]] * 20
    inputs = [dict(zip(names, flower, strict=True)) for flower in flowers]
    assert called(machine, "pyspark/species", {"parameter": "flower", "inputs": inputs}, at_once=30) == [0, 1, 2] * 20
    machine.clip("delete", "pyspark", "--yes")
