"""Files that are no model, not a whole one, or one that cannot be served: each says what to do."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from clipper.models import byte_stream
from clipper.models.description import ModelError
from clipper.models.reading import read_model
from clipper.packaging import Limits

ROOT = Path(__file__).parents[3]
WHOLE = (
    "iris.joblib", "zlib.joblib", "xz.joblib", "protocol0.pkl", "protocol4.pkl", "classifier.ubj", "classifier.json",
    "booster.txt", "script.pt", "one.pt2", "add.onnx",
)  # fmt: skip


def refusal(path: Path, method: str | None = None) -> str:
    with pytest.raises(ModelError) as refused:
        read_model(path, method)
    return str(refused.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("name", WHOLE)
def test_a_file_that_was_cut_is_refused(name: str, share: float, files: Path, tmp_path: Path) -> None:
    data = (files / name).read_bytes()
    cut = tmp_path / name
    cut.write_bytes(data[: int(len(data) * share)])
    assert "save" in refusal(cut) or "no model that is known" in refusal(cut)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hostile.pkl", ["posix.system", "do not load it"]),
        ("dict.joblib", ["a dict that holds a LogisticRegression", "save the estimator alone"]),
        ("dbscan.joblib", ["DBSCAN", "cannot predict for new rows"]),
        ("unfitted.joblib", ["was not fitted", "fit it"]),
        ("lz4.joblib", ["lz4", "compress='zlib'"]),
        ("weights.pth", ["weights without a network", "torch.export"]),
        ("pickled.pt", ["torch.nn.modules.container.Sequential", "needs the code"]),
    ],
)
def test_a_file_that_cannot_be_served_says_why_and_what_to_do(name: str, words: list[str], files: Path) -> None:
    said = refusal(files / name)
    assert all(word in said for word in [name, *words]), said


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.onnx", b"", "empty"),
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "ONNX"),
        ("model.gguf", b"GGUF" + bytes(100), "llama-cpp-python"),
        ("model.cbm", b"CBM1" + bytes(100), "CatBoost"),
        ("model.tflite", b"\x1c\0\0\0TFL3" + bytes(100), "TensorFlow Lite"),
        ("model.bin", b"binf" + bytes(100), "model.ubj"),
        ("old.pt", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + bytes(10), "torch.jit.script"),
        ("model.safetensors", (2).to_bytes(8, "little") + b"{}", "config.json"),
        ("model.txt", b"just some words\n", "no model that is known"),
        ("model.onnx", b"just some words\n", "though its name says so"),
        ("model.json", b'{"name": "not a model"}', "no model that is known"),
        ("app.py", b"print('hello')\n", "clip init"),
        ("clip.toml", b'name = "x"\n', "name its directory"),
        ("short.vw", b"\x07\0\0\x009.11.9\0\x01\0", "its header ends too early"),
        ("future.vw", b"\x08\0\0\x00999.0.0\0" + bytes(64), "not known"),
        ("future.txt", b"tree\nversion=v9\nmax_feature_idx=3\n\nTree=0\n\nend of trees\n", "v9"),
        ("bomb.json", b'{"learner": ' + b"[" * 100_000, "XGBoost"),
        ("net.prototxt", b"layer { name: ", "needs the weights beside it"),
    ],
)
def test_what_is_no_model_says_what_it_is_or_what_is_known(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert words in refusal(path)


def test_a_path_to_nothing_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "model.onnx")


def test_a_file_larger_than_a_bundle_is_refused_with_its_size(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(Limits().uncompressed_bytes + 2**20)  # sparse: it takes no room
    assert "513 MiB" in refusal(path)


def test_a_directory_larger_than_a_bundle_is_refused_with_its_size(files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "tracked", tmp_path / "tracked")
    with (tmp_path / "tracked" / "more.bin").open("wb") as file:
        file.truncate(Limits().uncompressed_bytes + 2**20)
    assert "513 MiB" in refusal(tmp_path / "tracked")


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("notes")
    assert "holds no model" in refusal(tmp_path)


def test_a_directory_with_two_models_names_them(files: Path, tmp_path: Path) -> None:
    for name in ("iris.joblib", "add.onnx"):
        shutil.copy(files / name, tmp_path / name)
    assert "add.onnx, iris.joblib; name one" in refusal(tmp_path)


@pytest.mark.parametrize("left_out", ["model.safetensors", "tokenizer.json"])
def test_a_directory_of_hugging_face_needs_weights_and_a_tokenizer(left_out: str, files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "sentiment", tmp_path / "sentiment")
    (tmp_path / "sentiment" / left_out).unlink()
    assert "save_pretrained" in refusal(tmp_path / "sentiment") or "holds no model" in refusal(tmp_path / "sentiment")


def test_safetensors_that_were_cut_are_refused(files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "sentiment", tmp_path / "sentiment")
    weights = tmp_path / "sentiment" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "tensors end elsewhere" in refusal(tmp_path / "sentiment")


def test_an_architecture_that_is_not_known_is_named(files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "sentiment", tmp_path / "sentiment")
    config = tmp_path / "sentiment" / "config.json"
    config.write_text(config.read_text().replace("BertForSequenceClassification", "BertForMultipleChoice"))
    assert "BertForMultipleChoice" in refusal(tmp_path / "sentiment")


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "no YAML"), ("[1]", "does not describe"), ("flavors: {sklearn: {}}", "python_function")],
)
def test_a_description_of_mlflow_that_cannot_be_read_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text(text)
    assert words in refusal(tmp_path)


@pytest.mark.parametrize("method", ["transform", "decision_function"])
def test_a_method_that_a_model_lacks_is_refused(method: str, files: Path) -> None:
    assert f"no {method}" in refusal(files / "add.onnx", method)


def test_an_unknown_method_names_those_that_are_known(files: Path) -> None:
    assert "predict_proba" in refusal(files / "iris.joblib", "guess")


def test_weights_of_an_onnx_graph_must_lie_beside_it(tmp_path: Path) -> None:
    def field(number: int, value: bytes) -> bytes:
        tag = number << 3 | 2
        return bytes([tag & 127 | 128, tag >> 7, len(value)] if tag > 127 else [tag, len(value)]) + value

    entry = field(1, b"location") + field(2, b"../secret.bin")
    tensor = field(8, b"w") + field(13, entry)
    shaped = field(1, b"x") + field(2, field(1, b"\x08\x01" + field(2, field(1, field(2, b"n")))))
    path = tmp_path / "model.onnx"
    graph = field(7, field(5, tensor) + field(11, shaped) + field(12, shaped))
    path.write_bytes(b"\x08\x08" + graph + field(8, b"\x10\x12"))
    assert "secret.bin" in refusal(path)


# Hostile pickles


def test_a_hostile_pickle_is_named_and_not_run(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = read_model(files / "hostile_inside.pkl")
    assert "posix.system" in model.warnings[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    ["builtins eval", "builtins getattr", "subprocess Popen", "numpy.f2py os.system", "numpy.testing runstring",
     "runpy run_path", "operator attrgetter", "pandas read_pickle", "ctypes CDLL"],
)  # fmt: skip
def test_functions_that_no_model_needs_are_warned_of(name: str, files: Path, tmp_path: Path) -> None:
    module, _, function = name.partition(" ")
    data = (files / "protocol2.pkl").read_bytes()
    # Before the end: the name is fetched, and taken off the stack again.
    path = tmp_path / "model.pkl"
    path.write_bytes(data[:-1] + f"c{module}\n{function}\n0.".encode())
    assert f"{module}.{function}" in " ".join(read_model(path).warnings)


def test_code_that_is_not_in_the_file_is_warned_of(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes((files / "protocol2.pkl").read_bytes()[:-1] + b"c__main__\nMyScaler\n0.")
    warning = " ".join(read_model(path).warnings)
    assert "__main__.MyScaler" in warning
    assert "clip init --from" in warning


class Nothing:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.getcwd, ()


@pytest.mark.parametrize("value", [None, 3, "text", [1, 2], {"a": 1}, Nothing()])
def test_a_pickle_of_something_else_is_refused(value: object, tmp_path: Path) -> None:
    path = tmp_path / "value.pkl"
    path.write_bytes(pickle.dumps(value))
    assert "is a pickle" in refusal(path)


def test_a_pickle_nested_a_hundred_thousand_times_is_no_danger(tmp_path: Path) -> None:
    path = tmp_path / "deep.pkl"
    path.write_bytes(b"\x80\x04}" + b")" + b"\x85" * 100_000 + b"K\x01s.")  # {((((…)))): 1}
    assert "is a pickle of a dict" in refusal(path)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_stream, "MAX_UNPACKED_BYTES", 4 * 2**20)
    path = tmp_path / "bomb.joblib"
    promise = b"\x80\x04\x8e" + (2**40).to_bytes(8, "little")
    path.write_bytes(zlib.compress(promise + bytes(8 * 2**20)))
    assert "unpacks to more than" in refusal(path)


def test_a_member_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipper.models import files as reading_files

    monkeypatch.setattr(reading_files.member, "__defaults__", (2**20,))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/constants.pkl", b"")
        archive.writestr("net/code/__torch__.py", b"")
        archive.writestr("net/data.pkl", bytes(4 * 2**20))
    path = tmp_path / "bomb.pt"
    path.write_bytes(buffer.getvalue())
    assert "unpacks to more than" in refusal(path)
