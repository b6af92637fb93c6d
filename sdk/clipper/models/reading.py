"""From a path to a model: which format it has is found from its bytes, whatever its name says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from clipper.models.caffe import is_caffe, read_caffe
from clipper.models.description import Model, ModelError
from clipper.models.files import check_size, read_head
from clipper.models.huggingface import is_hugging_face, read_hugging_face
from clipper.models.lightgbm import is_lightgbm, read_lightgbm
from clipper.models.mlflow import is_mlflow, read_mlflow
from clipper.models.onnx import is_onnx, read_onnx
from clipper.models.sklearn import METHODS, read_estimator
from clipper.models.torch import read_torch
from clipper.models.vowpal_wabbit import is_vowpal_wabbit, read_vowpal_wabbit
from clipper.models.xgboost import is_xgboost, read_xgboost
from clipper.packaging import Limits

__all__ = ["ENDINGS", "is_model", "read_model"]

ENDINGS: Final = {
    ".onnx": ("onnxruntime",),
    ".joblib": ("scikit-learn", "xgboost", "lightgbm"),
    ".pkl": ("scikit-learn", "xgboost", "lightgbm"),
    ".pickle": ("scikit-learn", "xgboost", "lightgbm"),
    ".ubj": ("xgboost",),
    ".pt": ("torch",),
    ".pt2": ("torch",),
    ".pth": ("torch",),
    ".vw": ("vowpalwabbit",),
    ".caffemodel": ("opencv-python-headless",),
    ".prototxt": ("opencv-python-headless",),
}
"""Endings that say which framework a file is of, and by which one it is served."""

_HEAD_BYTES: Final = 4096
_KNOWN: Final = (
    "ONNX, pickles of scikit-learn, XGBoost and LightGBM, XGBoost's .ubj and .json, LightGBM's .txt, TorchScript, "
    "torch.export, Vowpal Wabbit, Caffe, and directories of MLflow and Hugging Face"
)
# The first bytes of what is not served as it is, and what to do.
_OTHERS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x89HDF\r\n", "is HDF5, as Keras wrote it: save it as ONNX, model.export('model.onnx', format='onnx')"),
    (b"GGUF", "is a language model for llama.cpp: write a function with llama-cpp-python, from `clip init`"),
    (b"CBM1", "is a model of CatBoost: save it as ONNX, save_model('model.onnx', format='onnx')"),
    (b"binf", "is XGBoost's old binary format: save it as model.ubj with the version that wrote it"),
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9", "was pickled by an old torch.save: save it by torch.jit.script(model).save(…)"),
    (b"PAR1", "is a table in Parquet, not a model"),
    (b"\x93NUMPY", "is an array of numpy, not a model"),
)  # fmt: skip
_PICKLES: Final = re.compile(
    rb"\x80[\x02-\x05]|\x1f\x8b|BZh|\xfd7zXZ|\x5d\0\0|\x78[\x01\x5e\x9c\xda]|\x04\x22\x4d\x18|\(?c[\w.]+\n[\w.]+\n|\(i[\w.]+\n"
)


def is_model(path: Path) -> bool:
    """Whether the path names a model's file, or a directory that is one model or holds one, and no project."""
    if path.is_dir():
        return not (path / "clip.toml").exists() and not (path / "app.py").exists() and bool(_inside(path))
    return path.is_file()


def read_model(path: Path, method: str | None = None) -> Model:
    """What a file or directory says of itself. `method`: which one of an estimator is served, "predict_proba" for
    instance; by default the one that predicts, or else transforms.

    Nothing of the model runs here. Raises ModelError, which says what is wrong with it and what to do.
    """
    if not path.exists():
        raise ModelError("there is no such file or directory", where=str(path))
    if method is not None and method not in METHODS:
        raise ModelError(f"{method!r} is not one of {', '.join(METHODS)}", where="--method", key="method")
    try:
        model = _directory(path, method) if path.is_dir() else _file(path, method)
    except ModelError:
        raise
    except Exception as error:
        # A file may hold anything: what its reader did not foresee is a damaged one.
        raise ModelError(
            f"cannot be read as a model ({type(error).__name__}); save it again", where=str(path)
        ) from error
    if method is not None and method != model.outputs[0].name:
        raise ModelError(f"a model of {model.framework} in this format has no {method}", where="--method", key="method")
    _check_total(model, path)
    return model


def _file(path: Path, method: str | None) -> Model:
    check_size(path)
    read = _reader(path, read_head(path, _HEAD_BYTES), method)
    model = read()
    expected = ENDINGS.get(path.suffix.lower())
    if expected and model.framework not in expected:
        warning = f"{path.name} ends in {path.suffix}, but is {model.format} of {model.framework}"
        model = replace(model, warnings=(warning, *model.warnings))
    return model


def _reader(path: Path, head: bytes, method: str | None) -> Callable[[], Model]:
    """The reader of the format that the file has."""
    for magic, problem in _OTHERS:
        if head.startswith(magic):
            raise ModelError(problem, where=str(path))
    if head[4:8] == b"TFL3":
        raise ModelError("is a model of TensorFlow Lite: convert the original to ONNX (tf2onnx)", where=str(path))
    if head.startswith(b"PK"):
        return lambda: read_torch(path)
    if is_lightgbm(head):
        return lambda: read_lightgbm(path)
    if is_xgboost(head):
        return lambda: read_xgboost(path, method)
    if is_vowpal_wabbit(head):
        return lambda: read_vowpal_wabbit(path)
    if _PICKLES.match(head):
        return lambda: read_estimator(path, method)
    if head[8:9] == b"{" and path.suffix == ".safetensors":
        raise ModelError("holds weights without a network: name the directory with its config.json", where=str(path))
    if path.suffix == ".prototxt":
        return lambda: read_caffe(path)
    if is_onnx(path):
        return lambda: read_onnx(path)
    if is_caffe(path):
        return lambda: read_caffe(path)
    raise ModelError(_unknown(path), where=str(path))


def _unknown(path: Path) -> str:
    if path.suffix == ".toml":
        return "is a project's configuration: name its directory"
    if path.suffix == ".py":
        return "is Python: a function of one's own is deployed as a project, which `clip init` makes"
    expected = ENDINGS.get(path.suffix.lower())
    damaged = f"it is damaged, or no model of {' or '.join(expected)} though its name says so; " if expected else ""
    return f"is no model that is known: {damaged}known are {_KNOWN}"


def _directory(path: Path, method: str | None) -> Model:
    if is_mlflow(path):
        return read_mlflow(path)
    if is_hugging_face(path):
        return read_hugging_face(path)
    found = _inside(path)
    if (path / "saved_model.pb").exists():
        raise ModelError("is a SavedModel of TensorFlow: convert it to ONNX (tf2onnx)", where=str(path))
    if not found:
        raise ModelError(f"holds no model; known are {_KNOWN}", where=str(path))
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise ModelError(f"holds several models: {names}; name one of them", where=str(path))
    return read_model(found[0], method)


def _inside(path: Path) -> list[Path]:
    """Files of a directory whose ending is a model's, and the directory itself where it is one."""
    if is_mlflow(path) or (is_hugging_face(path) and any(path.glob("*.safetensors"))):
        return [path]
    found = sorted(one for one in path.iterdir() if one.suffix.lower() in ENDINGS and one.is_file())
    weights = {one.suffix for one in found}
    # Caffe's two files are one model.
    return [one for one in found if not (one.suffix == ".prototxt" and ".caffemodel" in weights)]


def _check_total(model: Model, path: Path) -> None:
    """Raises ModelError for more than a bundle carries: said before anything is sent."""
    total = 0
    for _, source in model.files:
        files = source.rglob("*") if source.is_dir() else [source]
        total += sum(file.stat().st_size for file in files if file.is_file())
    limit = Limits().uncompressed_bytes
    if total > limit:
        raise ModelError(
            f"the model has {total / 2**20:,.0f} MiB, and a deploy carries at most {limit / 2**20:,.0f} MiB; put it "
            "where replicas can read it, and load it in a function's __init__",
            where=str(path),
        )
