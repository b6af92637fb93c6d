"""What each library itself answers for the examples' models: inputs and outputs, as JSON to the file that is named.

Runs in an environment that has the libraries: `python framework_answers.py OUT`. Each entry holds a `parameter`, its
`inputs` one by one, and `outputs`, of which `dtype` is the type of the numbers.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import joblib
import lightgbm
import numpy as np
import onnxruntime
import torch
import vowpalwabbit
import xgboost
from sklearn import datasets
from transformers import pipeline

ROOT = Path(__file__).parents[2]
EXAMPLES, FILES = ROOT / "examples", ROOT / "tests" / "support" / "model_files"
DIGITS = datasets.load_digits()
IMAGES = DIGITS.images[:300].astype(np.float32)[:, None]
IRIS = datasets.load_iris(as_frame=True)


def entry(parameter: str, inputs: Any, outputs: Any) -> dict[str, Any]:
    outputs = np.asarray(outputs) if not isinstance(outputs, list) else outputs
    dtype = str(outputs.dtype) if isinstance(outputs, np.ndarray) else ""
    return {
        "parameter": parameter,
        "inputs": inputs.tolist() if isinstance(inputs, np.ndarray) else inputs,
        "outputs": outputs.tolist() if isinstance(outputs, np.ndarray) else outputs,
        "dtype": dtype,
    }


def scikit_learn() -> dict[str, Any]:
    rows = datasets.load_wine().data
    return entry("features", rows, joblib.load(EXAMPLES / "scikit_learn" / "wine.joblib").predict(rows))


def xgboost_booster() -> dict[str, Any]:
    rows = datasets.load_breast_cancer().data.astype(np.float32)
    booster = xgboost.Booster(model_file=EXAMPLES / "xgboost" / "tumour.ubj")
    return entry("features", rows, booster.predict(xgboost.DMatrix(rows)))


def lightgbm_booster() -> dict[str, Any]:
    rows = datasets.load_diabetes().data
    booster = lightgbm.Booster(model_file=EXAMPLES / "lightgbm" / "diabetes.txt")
    return entry("features", rows, booster.predict(rows))


def onnx() -> dict[str, Any]:
    rows = DIGITS.data[:300].astype(np.float32)
    session = onnxruntime.InferenceSession(EXAMPLES / "onnx" / "digits.onnx", providers=["CPUExecutionProvider"])
    labels, chances = session.run(["label", "probabilities"], {"X": rows})
    named = [{"label": int(one), "probabilities": row.tolist()} for one, row in zip(labels, chances, strict=True)]
    return entry("X", rows, named)


def pytorch() -> dict[str, Any]:
    """One at a time: for several at once PyTorch rounds otherwise, depending on how many they are."""
    model = torch.export.load(EXAMPLES / "pytorch" / "digits.pt2").module()
    with torch.inference_mode():
        return entry("image", IMAGES, np.concatenate([model(torch.from_numpy(one[None])).numpy() for one in IMAGES]))


def vowpal_wabbit() -> dict[str, Any]:
    sys.path.insert(0, str(EXAMPLES / "vowpal_wabbit"))
    from train import example

    path = str(EXAMPLES / "vowpal_wabbit" / "digits.vw")
    model = vowpalwabbit.Workspace(initial_regressor=path, testonly=True, quiet=True)
    lines = [example(row) for row in DIGITS.data[:300]]
    return entry("example", lines, [model.predict(line) for line in lines])


def caffe() -> dict[str, Any]:
    files = EXAMPLES / "caffe" / "digits.prototxt", EXAMPLES / "caffe" / "digits.caffemodel"
    net = cv2.dnn.readNetFromCaffe(*map(str, files))
    net.setInput(IMAGES)
    return entry("data", IMAGES, net.forward())


def table() -> dict[str, Any]:
    return entry("row", IRIS.data.to_dict("records"), joblib.load(FILES / "table.joblib").predict(IRIS.data))


def classifier() -> dict[str, Any]:
    model = xgboost.XGBClassifier()
    model.load_model(FILES / "classifier.ubj")
    return entry("features", IRIS.data.to_numpy(np.float32), model.predict(IRIS.data.to_numpy(np.float32)))


def text() -> dict[str, Any]:
    films = ["a great film", "an awful film", "good", "bad", ""]
    return entry("text", films, joblib.load(FILES / "text.joblib").predict(films).tolist())


def sentiment() -> dict[str, Any]:
    classify = pipeline("text-classification", model=str(FILES / "sentiment"))
    texts = ["the film was great", "the film was awful", "very poor", "a fine film"]
    return entry("text", texts, [classify(one)[0] for one in texts])


ANSWERS: dict[str, Callable[[], dict[str, Any]]] = {
    "scikit_learn": scikit_learn,
    "xgboost": xgboost_booster,
    "lightgbm": lightgbm_booster,
    "onnx": onnx,
    "pytorch": pytorch,
    "vowpal_wabbit": vowpal_wabbit,
    "caffe": caffe,
    "table.joblib": table,
    "classifier.ubj": classifier,
    "text.joblib": text,
    "sentiment": sentiment,
}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    Path(sys.argv[1]).write_text(json.dumps({name: answer() for name, answer in ANSWERS.items()}))
