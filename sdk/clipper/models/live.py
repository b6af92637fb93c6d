"""Live models of a library, saved in its own format: from there they are model files like any other.

The libraries are those that made the objects, hence loaded already: nothing is imported here.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any, Final

from clipper.models.description import ModelError

__all__ = ["is_live_model", "save_model"]

# A class of each library that its models are, by the module that defines it; the first match counts.
_KINDS: Final = {
    ("xgboost.sklearn", "XGBModel"): "xgboost",
    ("xgboost.core", "Booster"): "xgboost",
    ("lightgbm.basic", "Booster"): "lightgbm",
    ("sklearn.base", "BaseEstimator"): "sklearn",
    ("torch.nn.modules.module", "Module"): "torch",
    ("torch.export.exported_program", "ExportedProgram"): "exported",
    ("onnx.onnx_ml_pb2", "ModelProto"): "onnx",
}


def _kind(value: object) -> str | None:
    names = [(cls.__module__, cls.__qualname__) for cls in type(value).__mro__]
    return next((kind for name, kind in _KINDS.items() if name in names), None)


def is_live_model(value: object) -> bool:
    """Whether it is a model of scikit-learn, XGBoost, LightGBM, PyTorch or ONNX."""
    return _kind(value) is not None


def save_model(model: Any, directory: Path, *, example: Any = None) -> Path:
    """Write the model into `directory`; the file. `example`: inputs of a torch.nn.Module, a tensor or a tuple of them
    with the batch as first axis, by which it is exported instead of compiled.

    Raises ModelError for a model that its library cannot save, an estimator that was not fitted for instance.
    """
    kind = _kind(model) or ""
    save = {
        "xgboost": _save_xgboost,
        "lightgbm": _save_lightgbm,
        "sklearn": _save_estimator,
        "exported": _save_exported,
        "onnx": _save_onnx,
    }.get(kind)
    try:
        return _save_module(model, directory, example) if save is None else save(model, directory)
    except ModelError:
        raise
    except Exception as error:
        problem = f"{type(model).__name__} cannot be saved ({type(error).__name__}: {error})"
        raise ModelError(problem, where="clipper.deploy") from error


def _save_xgboost(model: Any, directory: Path) -> Path:
    path = directory / "model.ubj"
    model.save_model(path)
    return path


def _save_lightgbm(model: Any, directory: Path) -> Path:
    path = directory / "model.txt"
    model.save_model(path)
    return path


def _save_onnx(model: Any, directory: Path) -> Path:
    path = directory / "model.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def _save_estimator(model: Any, directory: Path) -> Path:
    """By joblib; by value where classes are of this program alone, which a replica does not have."""
    from clipper.closures import dump_value
    from clipper.local_imports import is_installed

    path = directory / "model.joblib"
    sys.modules["joblib"].dump(model, path)
    parts = [model, *(step for _, step in getattr(model, "steps", ()))]
    if any(not is_installed(sys.modules.get(type(part).__module__)) for part in parts):
        path.write_bytes(dump_value(model))
    return path


def _save_exported(model: Any, directory: Path) -> Path:
    path = directory / "model.pt2"
    sys.modules["torch"].export.save(model, path)
    return path


def _save_module(model: Any, directory: Path, example: Any) -> Path:
    torch = sys.modules["torch"]
    model = model.eval()
    if example is not None:
        inputs = example if isinstance(example, tuple) else (example,)
        shapes = tuple({0: torch.export.Dim("batch")} for _ in inputs)
        return _save_exported(torch.export.export(model, inputs, dynamic_shapes=shapes), directory)
    path = directory / "model.pt"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, which needs no example
            torch.jit.script(model).save(path)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be compiled ({type(error).__name__}); give example=, a batch of inputs of "
            "at least two, by which it is exported",
            where="clipper.deploy",
            key="example",
        ) from error
    return path
