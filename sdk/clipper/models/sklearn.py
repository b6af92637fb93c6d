"""Pickles of scikit-learn, of XGBoost's and LightGBM's estimators, and of what is built from them.

The estimator's own attributes say which columns it was fitted with (`n_features_in_`, `feature_names_in_`), which
classes it knows, and by which version it was saved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clipper.models.byte_stream import open_stream
from clipper.models.description import Input, Model, ModelError, Output
from clipper.models.packages import package_of, requirement
from clipper.models.pickle_names import foreign_modules, suspicious_names
from clipper.models.pickled import Pickled, PickleProblem, read_pickle
from clipper.models.pickled_objects import Array, Built, Name
from clipper.models.smoke import MAX_NUMBERS
from clipper.models.sources import Source, array_hint, listed, quoted, row_class

__all__ = ["METHODS", "read_estimator"]

METHODS: Final = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform", "score_samples")
"""What can be served of an estimator."""

# A row of more columns is an array: nobody writes them by name.
_MAX_NAMED_COLUMNS: Final = 60

_FRAMEWORKS: Final = {"sklearn": "scikit-learn", "xgboost": "xgboost", "lightgbm": "lightgbm"}
# Modules of scikit-learn whose estimators have no predict, and those of clustering that have.
_TRANSFORM_ONLY: Final = frozenset(
    {"preprocessing", "decomposition", "feature_extraction", "feature_selection", "impute", "kernel_approximation",
     "random_projection", "compose"}
)  # fmt: skip
_PREDICTS: Final = frozenset(
    {"KMeans", "MiniBatchKMeans", "BisectingKMeans", "MeanShift", "Birch", "AffinityPropagation",
     "TransformedTargetRegressor"}
)  # fmt: skip
_NEITHER: Final = frozenset(
    {"DBSCAN", "HDBSCAN", "OPTICS", "AgglomerativeClustering", "SpectralClustering", "TSNE", "MDS",
     "SpectralEmbedding", "NearestNeighbors"}
)  # fmt: skip
_DEPENDS_ON: Final = ("joblib", "numpy", "scipy", "pandas")


def read_estimator(path: Path, method: str | None = None) -> Model:
    """A model from a pickle. Raises ModelError for what is no estimator, or refers to code that is not in the file."""
    with path.open("rb") as file:
        stream, compression = open_stream(file, path)
        try:
            pickled = read_pickle(stream)
        except PickleProblem as problem:
            raise ModelError(f"is no whole pickle: {problem}; save the model again", where=str(path)) from None
    estimator = _Estimator.of(pickled, path)
    return _model(estimator, path, compression, method)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Estimator:
    root: Built
    first: Built  # the step that the input goes to
    last: Built  # the step that gives the output
    pickled: Pickled

    @classmethod
    def of(cls, pickled: Pickled, path: Path) -> _Estimator:
        root = pickled.root
        if not isinstance(root, Built) or _framework(root.name) is None:
            raise ModelError(_no_estimator(pickled), where=str(path))
        steps = list(_steps(root))
        return cls(root=root, first=steps[0], last=steps[-1], pickled=pickled)

    @property
    def framework(self) -> str:
        return _framework(self.root.name) or ""

    @property
    def version(self) -> str | None:
        found = next((v for one in _objects(self.root) if (v := one.attributes.get("_sklearn_version"))), None)
        return found if isinstance(found, str) else None

    @property
    def is_unfitted(self) -> bool:
        """Whether a predictor lacks every attribute that fitting sets; these end in an underscore."""
        kind, attributes = self.last.name, self.last.attributes
        predictor = kind.name.endswith(("Classifier", "Regressor", "Regression", "SVC", "SVR", "NB", "Lasso", "Ridge"))
        learnt = [name for name in attributes if isinstance(name, str) and name.endswith("_")]
        return predictor and _framework(kind) == "scikit-learn" and bool(attributes) and not learnt

    @property
    def title(self) -> str:
        names = [step.name.name for step in _steps(self.root)]
        outer = self.root.name.name
        return outer if names == [outer] else f"{outer}({', '.join(names)})"


def _framework(name: Name) -> str | None:
    return _FRAMEWORKS.get(name.module.partition(".")[0])


def _no_estimator(pickled: Pickled) -> str:
    root = pickled.root
    hint = "save the estimator alone, or write a project around the file with `clip init`"
    if bad := suspicious_names(pickled.names):
        return f"is a pickle that calls {', '.join(bad)} and holds no model: do not load it"
    if isinstance(root, Built) and root.name.module.startswith("catboost"):
        return "is a model of CatBoost, which is not served as it is: save it as ONNX (save_model(…, format='onnx'))"
    if isinstance(root, Built) and root.name.module:
        return f"is a pickle of {root.name}, of which it is not known how to call it: {hint}"
    if isinstance(root, dict | list | tuple):
        inside = [one for one in _objects(root) if _framework(one.name)]
        held = f" that holds a {inside[0].name.name}" if inside else ""
        return f"is a pickle of a {type(root).__name__}{held}, not of a model: {hint}"
    return f"is a pickle of a {type(root).__name__}, not of a model: {hint}"


def _steps(estimator: Built) -> Iterator[Built]:
    """The estimators that a row passes through, searches and pipelines unpacked."""
    inner = estimator.attributes.get("best_estimator_")
    if isinstance(inner, Built):
        yield from _steps(inner)
        return
    steps = estimator.attributes.get("steps")
    found = [
        step[1] for step in steps if isinstance(step, tuple) and len(step) == 2 and isinstance(step[1], Built)
    ] if estimator.name.name == "Pipeline" and isinstance(steps, list) else []  # fmt: skip
    if not found:
        yield estimator
    for step in found:
        yield from _steps(step)


def _objects(value: Any, limit: int = 200_000) -> Iterator[Built]:
    """Every object in `value`, the outermost first; of arrays none."""
    waiting, seen = [value], set()
    while waiting and limit:
        one = waiting.pop()
        limit -= 1
        if isinstance(one, Built):
            if id(one) in seen:
                continue
            seen.add(id(one))
            yield one
            waiting += [*one.attributes.values(), *(one.arguments if isinstance(one.arguments, tuple) else ())]
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one


# The model


def _model(estimator: _Estimator, path: Path, compression: str, method: str | None) -> Model:
    method = method or _method(estimator, path)
    if estimator.is_unfitted:
        raise ModelError(f"holds a {estimator.title} that was not fitted: fit it, then save it again", where=str(path))
    one = _input(estimator)
    returns = _returns(estimator, method)
    warnings = _warnings(estimator, path)
    format = "joblib" if any(n.module.startswith("joblib") for n in estimator.pickled.names) else "pickle"
    return Model(
        framework=estimator.framework,
        kind=estimator.title,
        format=f"{format}, {compression}" if compression else format,
        function=method if method in ("predict", "transform") else "predict",
        inputs=(one,),
        outputs=(Output(name=method, type=returns),),
        files=((path.name, path),),
        app=_source(estimator, path, one, method, returns).text(),
        requirements=_requirements(estimator, one),
        version=estimator.version if estimator.framework == "scikit-learn" else None,
        python=_python(estimator.version),
        smoke=_smoke(estimator, one),
        warnings=warnings,
    )


def _method(estimator: _Estimator, path: Path) -> str:
    last = estimator.last
    kind, module = last.name.name, last.name.module.split(".")
    if kind in _NEITHER:
        raise ModelError(
            f"holds a {kind}, which cannot predict for new rows: write a project around it with `clip init`",
            where=str(path),
        )
    if kind in _PREDICTS or not (module[0] == "sklearn" and len(module) > 1 and module[1] in _TRANSFORM_ONLY):
        return "predict"
    return "transform"


def _classes(estimator: _Estimator) -> Array | None:
    for name in ("classes_", "_classes"):
        found = estimator.last.attributes.get(name)
        if isinstance(found, Array):
            return found
    return None


def _returns(estimator: _Estimator, method: str) -> str:
    """The type of one invocation's value."""
    if method != "predict":
        return "np.ndarray" if method == "transform" else "list[float]"
    classes = _classes(estimator)
    if classes is not None and len(classes.shape) == 1:
        return {"i": "int", "u": "int", "b": "bool", "f": "float", "U": "str"}.get(classes.dtype[:1], "Any")
    kind = estimator.last.name.name
    if kind.endswith(("KMeans", "MeanShift", "Birch", "AffinityPropagation")):
        return "int"
    coefficients = estimator.last.attributes.get("coef_")
    several = isinstance(coefficients, Array) and len(coefficients.shape) > 1
    return "float" if kind.endswith("Regressor") and "MultiOutput" not in kind and not several else "Any"


def _input(estimator: _Estimator) -> Input:
    first = estimator.first
    if first.name.module == "sklearn.feature_extraction.text":
        return Input(name="text", dtype="text", shape=())
    if first.name.name == "DictVectorizer":
        return Input(name="features", dtype="dict")
    names = _texts(_attribute(estimator, "feature_names_in_"))
    width = _attribute(estimator, "n_features_in_", "_n_features_in", "n_features_")
    if names and len(names) <= _MAX_NAMED_COLUMNS:
        examples = _categories(estimator, names)
        kinds = [(name, "str | float | None" if isinstance(examples.get(name), str) else "float") for name in names]
        return Input(name="row", dtype="table", columns=tuple(kinds))
    if any(_texts(values) for values in _category_arrays(estimator)):
        return Input(name="features", dtype="mixed", shape=(width if isinstance(width, int) else None,))
    dtype = "float32" if estimator.framework == "xgboost" else "float64"
    return Input(name="features", dtype=dtype, shape=(width if isinstance(width, int) else None,))


def _attribute(estimator: _Estimator, *names: str) -> Any:
    for one in (estimator.first, estimator.root, *_inside(estimator.first)):
        for name in names:
            if (found := one.attributes.get(name)) is not None:
                return found
    return None


# Of ensembles and unions, some of which keep what they were fitted with in their parts only.
_PARTS: Final = ("estimator_", "regressor_", "estimators_", "transformer_list")


def _inside(estimator: Built, depth: int = 0) -> Iterator[Built]:
    """The parts of an estimator that get the same columns."""
    for name in _PARTS if depth < 5 else ():
        found = estimator.attributes.get(name)
        parts = found if isinstance(found, list) else [found]
        for part in parts:
            part = part[1] if isinstance(part, tuple) and len(part) == 2 else part
            if isinstance(part, Built):
                yield part
                yield from _inside(part, depth + 1)


def _texts(value: Any) -> list[str]:
    values = value.values if isinstance(value, Array) else None
    return list(values) if values and all(isinstance(one, str) for one in values) else []


# Columns of categories, and the first value that each was fitted with


def _category_arrays(estimator: _Estimator) -> Iterator[Any]:
    for one in _objects(estimator.first):
        found = one.attributes.get("categories_")
        if isinstance(found, list):
            yield from found


def _categories(estimator: _Estimator, names: list[str]) -> dict[str, Any]:
    """Column -> a value that an encoder of the first step knows."""
    found: dict[str, Any] = {}
    transformers = estimator.first.attributes.get("transformers_")
    pairs = [(one[1], one[2]) for one in transformers or () if isinstance(one, tuple) and len(one) == 3]
    for transformer, columns in pairs or [(estimator.first, names)]:
        labels = _texts(columns) if isinstance(columns, Array) else columns
        labels = [labels] if isinstance(labels, str) else labels
        if not isinstance(labels, list) or not isinstance(transformer, Built):
            continue
        labels = [names[one] if isinstance(one, int) and one < len(names) else one for one in labels]
        for one in _objects(transformer):
            known = one.attributes.get("categories_")
            if isinstance(known, list) and len(known) == len(labels):
                values = [v.values[0] if isinstance(v, Array) and v.values else None for v in known]
                found |= {label: v for label, v in zip(labels, values, strict=True) if isinstance(label, str)}
    return found


def _smoke(estimator: _Estimator, one: Input) -> dict[str, Any] | None:
    """A row of ones, but in columns of categories of one that is known."""
    if one.dtype == "text":
        return {"text": "some words"}
    if one.columns:
        names = [name for name, _ in one.columns]
        row = _row(estimator, names)
        return None if row is None else {one.name: dict(zip(names, row, strict=True))}
    width = one.shape[0] if one.shape else None
    if width is None or width > MAX_NUMBERS:
        return None
    row = _row(estimator, [str(place) for place in range(width)])
    return None if row is None else {one.name: row}


def _row(estimator: _Estimator, names: list[str]) -> list[Any] | None:
    known = _categories(estimator, names)
    row = [known.get(name, 1.0) for name in names]
    return row if all(isinstance(value, str | int | float) for value in row) else None


# Requirements and warnings


def _requirements(estimator: _Estimator, one: Input) -> tuple[str, ...]:
    names = estimator.pickled.names
    lines = [requirement("scikit-learn", estimator.version)]
    if any(name.module.startswith(("numpy._core", "numpy.core")) for name in names):
        new = any(name.module.startswith("numpy._core") for name in names)
        lines.append("numpy>=2" if new else "numpy<2")
    if one.columns:
        lines.append(requirement("pandas", otherwise=">=2.2"))
    packages = map(package_of, sorted(foreign_modules(names) - {"pandas"}))
    lines += [requirement(package) for package in packages if package is not None]
    return tuple(dict.fromkeys(lines))


def _python(version: str | None) -> str | None:
    """The newest Python that an old scikit-learn has wheels for; None where any that is supported will do."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})", version or "")
    found = (int(match[1]), int(match[2])) if match else None
    if found is None or found >= (1, 1):
        return None
    return "3.10" if found == (1, 0) else "3.9"


def _warnings(estimator: _Estimator, path: Path) -> tuple[str, ...]:
    names, found = estimator.pickled.names, []
    if bad := suspicious_names(names):
        found.append(
            f"{path.name} loads {', '.join(bad)}, which is no part of a model: it may be hostile. It is loaded in a "
            "replica only"
        )
    unknown = [one for one in sorted(foreign_modules(names)) if package_of(one) is None]
    for module in unknown:
        named = sorted(str(name) for name in names if name.module.partition(".")[0] == module)
        found.append(
            f"{path.name} refers to {', '.join(named[:3])}, which is neither in the file nor in a known package: "
            f"write a project by `clip init --from {path.name}`, and add the code or the requirement"
        )
    if not estimator.pickled.whole:
        found.append(
            f"{path.name} is too large to be looked through; what it loads beside {estimator.title} is unknown"
        )
    return tuple(found)


# The source


def _source(estimator: _Estimator, path: Path, one: Input, method: str, returns: str) -> Source:
    version = f" {estimator.version}" if estimator.version and estimator.framework == "scikit-learn" else ""
    hint, definitions, rows, libraries = _rows(one)
    body = [f"return self.model.{method}({rows}).tolist()"]
    if method == "transform":
        libraries = [*libraries, "from scipy.sparse import issparse"]
        body = [
            f"rows = self.model.transform({rows})",
            "return list(rows.toarray() if issparse(rows) else np.asarray(rows))",
        ]
    return Source(
        doc=f"Serves {path.name}: a {estimator.title} of {estimator.framework}{version}.",
        libraries=["import joblib", *libraries],
        definitions=definitions,
        name=method if method in ("predict", "transform") else "predict",
        init=[f"self.model = joblib.load(HERE / {quoted(path.name)})"],
        parameters=[(one.name, f"list[{hint}]")],
        returns=f"list[{returns}]",
        body=body,
    )


def _rows(one: Input) -> tuple[str, list[str], str, list[str]]:
    """The hint of an entry, definitions before the class, the expression for the batch, and more imports."""
    if one.dtype == "text":
        return "str", [], one.name, []
    if one.dtype == "dict":
        return "dict[str, str | float]", [], one.name, []
    if one.columns:
        table = f"pd.DataFrame(msgspec.to_builtins({one.name}), columns=COLUMNS)"
        columns = f"COLUMNS = {listed(name for name, _ in one.columns)}"
        return "Row", ["", columns, *row_class(one)], table, ["import msgspec", "import pandas as pd"]
    if one.dtype == "mixed":
        return "list[str | float]", [], f"np.array({one.name}, dtype=object)", []
    return "Features", ["", f"Features = {array_hint(one)}"], f"np.stack({one.name})", []
