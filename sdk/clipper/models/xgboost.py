"""XGBoost's own formats, JSON and UBJSON: what the learner says of its columns, its objective and its version.

https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import msgspec

from clipper.models.description import Input, Model, ModelError, Output
from clipper.models.files import mapped
from clipper.models.packages import exactly, requirement
from clipper.models.smoke import ones
from clipper.models.sources import Source, array_hint, columns_comment, quoted
from clipper.models.ubjson import UbjsonError, read_ubjson

__all__ = ["is_xgboost", "read_xgboost"]

# Releases before this are in no package without CUDA.
_FIRST_CPU_PACKAGE: Final = (2, 1, 1)


def is_xgboost(head: bytes) -> bool:
    """Whether the file begins as XGBoost writes it: an object with a learner, as JSON or as UBJSON."""
    return bool(re.match(rb'\s*\{\s*"(learner|version|Config)"|\{L\0{7}[\x06-\x07](learner|Config)', head))


class _Learner(msgspec.Struct):
    """The parts of a learner that are looked at; its trees are stepped over."""

    feature_names: list[str] = []
    feature_types: list[str] = []
    learner_model_param: dict[str, Any] = {}
    objective: dict[str, Any] = {}
    attributes: dict[str, Any] = {}


class _File(msgspec.Struct):
    learner: _Learner
    version: list[int] = []


def read_xgboost(path: Path, method: str | None = None) -> Model:
    """Raises ModelError for a file that is damaged."""
    try:
        with mapped(path) as data:
            if data[:1] == b"{" and data[1:2] in (b"L", b"i", b"U"):
                found = msgspec.convert(read_ubjson(data), _File)
            else:
                found = msgspec.json.decode(data, type=_File)
    except (UbjsonError, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ModelError(f"is no whole model of XGBoost: {error}; save it again", where=str(path)) from None
    return _model(path, found, method)


def _model(path: Path, file: _File, method: str | None) -> Model:
    learner = file.learner
    width = _number(learner.learner_model_param.get("num_feature"))
    objective = str(learner.objective.get("name", ""))
    scikit = _scikit_wrapper(learner.attributes)
    if method not in (None, "predict", "predict_proba") or (method == "predict_proba" and scikit != "classifier"):
        raise ModelError(f"has no {method}: it was saved by a {scikit or 'Booster'}", where=str(path), key="method")
    returns = _returns(objective, _number(learner.learner_model_param.get("num_class")) or 0, scikit, method)
    one = Input(name="features", dtype="float32", shape=(width or None,))
    version = ".".join(map(str, file.version)) or None
    package = "xgboost" if file.version and tuple(file.version) < _FIRST_CPU_PACKAGE else "xgboost-cpu"
    lines = [exactly(package, version) or requirement(package), "numpy>=1.26"]
    return Model(
        framework="xgboost",
        kind=f"{'XGB' + scikit.capitalize() if scikit else 'Booster'} ({objective})",
        format="JSON" if path.suffix == ".json" else "UBJSON",
        function="predict",
        inputs=(one,),
        outputs=(Output(name=method or "predict", type=returns),),
        files=((path.name, path),),
        app=_source(path, one, learner.feature_names, scikit, method, returns).text(),
        requirements=(*lines, requirement("scikit-learn")) if scikit else tuple(lines),
        version=version,
        smoke=ones((one,)),
        facts={"columns": ", ".join(learner.feature_names[:20])} if learner.feature_names else {},
        warnings=_categories(learner.feature_types, path),
    )


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else None


def _scikit_wrapper(attributes: dict[str, Any]) -> str:
    """What kind of estimator saved it, "" for a plain Booster: its predictions are labels, not probabilities."""
    try:
        found = msgspec.json.decode(str(attributes.get("scikit_learn", "")))
    except msgspec.DecodeError:
        return ""
    kind = found.get("_estimator_type", "") if isinstance(found, dict) else ""
    return kind if kind in ("classifier", "regressor", "ranker") else ""


def _returns(objective: str, classes: int, scikit: str, method: str | None) -> str:
    if method == "predict_proba" or (objective == "multi:softprob" and scikit != "classifier"):
        return "list[float]"
    if scikit == "classifier":
        return "int"
    return "float" if classes <= 1 or objective == "multi:softmax" else "Any"


def _categories(types: list[str], path: Path) -> tuple[str, ...]:
    if "c" not in types:
        return ()
    return (f"{path.name} has columns of categories: give their codes as numbers, as in the table it was trained on",)


def _source(path: Path, one: Input, names: list[str], scikit: str, method: str | None, returns: str) -> Source:
    if scikit:
        init = [
            f"self.model = xgboost.XGB{scikit.capitalize()}()",
            f"self.model.load_model(HERE / {quoted(path.name)})",
        ]
        body = [f"return self.model.{method or 'predict'}(np.stack(features)).tolist()"]
    else:
        init = [f"self.model = xgboost.Booster(model_file=HERE / {quoted(path.name)})"]
        # What has no names in the batch is compared with none in the model.
        options = ", validate_features=False" if names else ""
        body = [f"return self.model.predict(xgboost.DMatrix(np.stack(features)){options}).tolist()"]
    columns = columns_comment(names)
    return Source(
        doc=f"Serves {path.name}, a model of XGBoost. A missing value is NaN, which MessagePack and .npy can carry.",
        libraries=["import xgboost"],
        definitions=["", *columns, f"Features = {array_hint(one)}"],
        init=init,
        parameters=[("features", "list[Features]")],
        returns=f"list[{returns}]",
        body=body,
    )
