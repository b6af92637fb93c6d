"""What is read from files that the libraries themselves wrote."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from clipper.models.reading import read_model

ROOT = Path(__file__).parents[3]
LOGISTIC, BOOSTED = "LogisticRegression", "XGBClassifier (multi:softprob)"
EXPORTED = "exported program"
FOUR = {"features": [1.0] * 4}

FOUND = {
    # file: (framework, version, kind, inputs, outputs, smoke)
    "iris.joblib": ("scikit-learn", "1.9.1", LOGISTIC, "features: float64 [4]", "predict: int", FOUR),
    "named.joblib": ("scikit-learn", "1.9.1", LOGISTIC, "features: float64 [4]", "predict: str", FOUR),
    "table.joblib": (
        "scikit-learn",
        "1.9.1",
        "LogisticRegression",
        "row: a row of 4 columns",
        "predict: int",
        {"row": dict.fromkeys(("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"), 1.0)},
    ),
    "mixed.joblib": (
        "scikit-learn",
        "1.9.1",
        "Pipeline(ColumnTransformer, LogisticRegression)",
        "row: a row of 2 columns",
        "predict: int",
        {"row": {"age": 1.0, "city": "Bergen"}},  # a city that the encoder was fitted with
    ),
    "text.joblib": (
        "scikit-learn",
        "1.9.1",
        "Pipeline(TfidfVectorizer, LogisticRegression)",
        "text: text",
        "predict: str",
        {"text": "some words"},
    ),
    "search.joblib": (
        "scikit-learn",
        "1.9.1",
        "GridSearchCV(LogisticRegression)",
        "features: float64 [4]",
        "predict: int",
        FOUR,
    ),
    "kmeans.joblib": ("scikit-learn", "1.9.1", "KMeans", "features: float64 [4]", "predict: int", FOUR),
    "pca.joblib": ("scikit-learn", "1.9.1", "PCA", "features: float64 [4]", "transform: np.ndarray", FOUR),
    "several.joblib": ("scikit-learn", "1.9.1", "LinearRegression", "features: float64 [4]", "predict: Any", FOUR),
    "voting.joblib": ("scikit-learn", "1.9.1", "VotingClassifier", "features: float64 [4]", "predict: int", FOUR),
    "sparse.joblib": (
        "scikit-learn",
        "1.9.1",
        "OneHotEncoder",
        "features: mixed [2]",
        "transform: np.ndarray",
        {"features": ["a", 7]},
    ),
    "codes.joblib": (
        "scikit-learn",
        "1.9.1",
        "Pipeline(OneHotEncoder, LogisticRegression)",
        "features: float64 [2]",
        "predict: bool",
        {"features": [7, 5]},
    ),
    "logarithm.joblib": (
        "scikit-learn",
        "1.9.1",
        "Pipeline(FunctionTransformer, LinearRegression)",
        "features: float64 [4]",
        "predict: Any",
        FOUR,
    ),
    "hostile_inside.pkl": (
        "scikit-learn",
        "1.9.1",
        "LogisticRegression",
        "features: float64 [4]",
        "predict: int",
        FOUR,
    ),
    "classifier.ubj": (
        "xgboost",
        "3.2.0",
        "XGBClassifier (multi:softprob)",
        "features: float32 [4]",
        "predict: int",
        FOUR,
    ),
    "classifier.json": (
        "xgboost",
        "3.2.0",
        "XGBClassifier (multi:softprob)",
        "features: float32 [4]",
        "predict: int",
        FOUR,
    ),
    "booster.json": (
        "xgboost",
        "3.2.0",
        "Booster (multi:softprob)",
        "features: float32 [4]",
        "predict: list[float]",
        FOUR,
    ),
    "xgboost.joblib": ("xgboost", None, "XGBClassifier", "features: float32 [any]", "predict: Any", None),
    "booster.txt": ("lightgbm", None, "Booster (multiclass)", "features: float64 [4]", "predict: list[float]", FOUR),
    "lightgbm.joblib": ("lightgbm", None, "LGBMClassifier", "features: float64 [4]", "predict: int", FOUR),
    "script.pt": ("torch", None, "Net", "rows: float32 [4]", "forward: np.ndarray", {"rows": [1.0] * 4}),
    "pair.pt": ("torch", None, "Pair", "a: float32, b: float32", "forward: Any", None),
    "one.pt2": (
        "torch",
        "2.13.0+cpu",
        "exported program",
        "rows: float32 [4]",
        "forward: np.ndarray",
        {"rows": [1.0] * 4},
    ),
    "pair.pt2": (
        "torch",
        "2.13.0+cpu",
        "exported program",
        "a: float32 [3], b: float32 [3]",
        "forward: Any",
        {"a": [1.0] * 3, "b": [1.0] * 3},
    ),
    "add.onnx": (
        "onnxruntime",
        None,
        "ONNX graph",
        "left: float32 [3], right: float32 [3]",
        "sum: float32",
        {"left": [1.0] * 3, "right": [1.0] * 3},
    ),
    "one.onnx": (
        "onnxruntime",
        None,
        "ONNX graph",
        "left: float32 [3], right: float32 [3]",
        "sum: float32",
        {"left": [1.0] * 3, "right": [1.0] * 3},
    ),
    "whole.onnx": (
        "onnxruntime",
        None,
        "ONNX graph",
        "left: float32 [2, 3], right: float32 [2, 3]",
        "sum: float32",
        {"left": [[1.0] * 3] * 2, "right": [[1.0] * 3] * 2},
    ),
    "any.onnx": ("onnxruntime", None, "ONNX graph", "input_1: float32 [any]", "class: float32", None),
    "text.onnx": ("onnxruntime", None, "ONNX graph", "words: text", "same: text", {"words": "text"}),
    "sentiment": (
        "transformers",
        "5.24.0",
        "BertForSequenceClassification",
        "text: text",
        "text-classification: Any",
        {"text": "hello"},
    ),
    "tracked": (
        "mlflow",
        "3.17.2",
        "sklearn",
        "row: a row of 4 columns",
        "predict: Any",
        {"row": dict.fromkeys(("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"), 1.0)},
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_file_says_its_framework_version_inputs_and_outputs(name: str, files: Path) -> None:
    model = read_model(files / name)
    inputs = ", ".join(f"{one.name}: {one.words()}" for one in model.inputs)
    outputs = ", ".join(f"{one.name}: {one.type}" for one in model.outputs)
    assert (model.framework, model.version, model.kind, inputs, outputs, model.smoke) == FOUND[name]


@pytest.mark.parametrize("name", ["zlib", "gzip", "bz2", "lzma", "xz"])
def test_a_compressed_pickle_says_the_same_as_a_plain_one(name: str, files: Path) -> None:
    plain, packed = read_model(files / "iris.joblib"), read_model(files / f"{name}.joblib")
    assert packed.format == f"joblib, {name}"
    assert (packed.inputs, packed.requirements, packed.smoke) == (plain.inputs, plain.requirements, plain.smoke)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_each_protocol_of_pickle_is_read(protocol: int, files: Path) -> None:
    model = read_model(files / f"protocol{protocol}.pkl")
    assert (model.version, model.inputs, model.outputs[0].type) == (
        "1.9.1",
        read_model(files / "iris.joblib").inputs,
        "int",
    )


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("iris.joblib", ["scikit-learn==1.9.1"]),
        ("protocol4.pkl", ["scikit-learn==1.9.1", "numpy>=2"]),  # pickled by numpy 2, which numpy 1 cannot read
        ("booster.json", ["xgboost-cpu==3.2.0", "numpy>=1.26"]),
        ("one.pt2", ["torch==2.13.0", "numpy>=1.26"]),  # without the part of a local build
    ],
)
def test_the_environment_has_the_versions_that_the_file_names(name: str, lines: list[str], files: Path) -> None:
    assert list(read_model(files / name).requirements) == lines


def test_a_directory_of_mlflow_brings_its_requirements_and_its_python(files: Path) -> None:
    model = read_model(files / "tracked")
    assert model.python == "3.11"
    assert {"mlflow==3.17.2", "scikit-learn==1.9.1", "pandas==3.1.1"} <= set(model.requirements)


def test_the_method_chooses_what_an_estimator_gives(files: Path) -> None:
    model = read_model(files / "iris.joblib", "predict_proba")
    assert (model.outputs[0].name, model.outputs[0].type) == ("predict_proba", "list[float]")
    assert "self.model.predict_proba(" in model.app
    assert read_model(files / "classifier.ubj", "predict_proba").outputs[0].type == "list[float]"


def test_columns_are_named_where_the_model_knows_them(files: Path) -> None:
    assert read_model(files / "classifier.json").facts["columns"].startswith("sepal length (cm), ")
    assert "# The columns, in this order: sepal length (cm)" in read_model(files / "classifier.json").app


def test_examples_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    for number, path in enumerate(sorted((ROOT / "examples").glob("*/*.*"))):
        if path.suffix in (".onnx", ".ubj", ".pt2", ".vw"):
            renamed = tmp_path / f"model{number}.bin"
            renamed.write_bytes(path.read_bytes())
            assert read_model(renamed).framework == read_model(path).framework


def test_what_is_of_another_framework_than_its_name_says_is_told(files: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "model.onnx"
    renamed.write_bytes((files / "classifier.ubj").read_bytes())
    model = read_model(renamed)
    assert model.framework == "xgboost"
    assert model.warnings == ("model.onnx ends in .onnx, but is UBJSON of xgboost",)


def test_an_open_axis_runs_what_has_the_same_shape_together(files: Path) -> None:
    assert "for places in alike(input_1):" in read_model(files / "any.onnx").app
    assert "alike" not in read_model(files / "add.onnx").app


def test_a_graph_of_one_at_a_time_is_called_for_each(files: Path) -> None:
    app = read_model(files / "one.onnx").app
    assert "for left, right in zip(left, right, strict=True)" in app
    assert "max_batch_size=64" in app


def test_a_graph_of_a_fixed_batch_takes_the_arrays_as_they_are(files: Path) -> None:
    assert "max_batch_size" not in read_model(files / "whole.onnx").app


def test_either_of_the_files_of_caffe_names_both(tmp_path: Path) -> None:
    example = ROOT / "examples" / "caffe"
    weights, network = read_model(example / "digits.caffemodel"), read_model(example / "digits.prototxt")
    assert weights == network
    assert [name for name, _ in weights.files] == ["digits.caffemodel", "digits.prototxt"]
    assert [one.words() for one in weights.inputs] == ["float32 [1, 8, 8]"]
    assert [one.name for one in weights.outputs] == ["prob"]


def test_a_directory_with_one_model_is_that_model(files: Path, tmp_path: Path) -> None:
    (tmp_path / "iris.joblib").write_bytes((files / "iris.joblib").read_bytes())
    (tmp_path / "notes.md").write_text("notes")
    assert read_model(tmp_path).files == (("iris.joblib", tmp_path / "iris.joblib"),)


def test_a_module_may_call_itself_as_it_likes(files: Path, tmp_path: Path) -> None:
    """TorchScript keeps the name of the first parameter of `forward`."""
    renamed = tmp_path / "script.pt"
    with zipfile.ZipFile(files / "script.pt") as given, zipfile.ZipFile(renamed, "w") as written:
        for name in given.namelist():
            data = given.read(name)
            written.writestr(name, data.replace(b"forward(self:", b"forward(this:") if name.endswith(".py") else data)
    assert read_model(renamed).inputs == read_model(files / "script.pt").inputs
