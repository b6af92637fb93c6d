"""A program that deploys live models and compares what they answer with what the libraries do, as a notebook would.

Runs in an environment that has the libraries and the SDK; CLIP_HOME names the platform. Prints a line for each model.
"""

from __future__ import annotations

import warnings
from typing import Any

import lightgbm
import numpy as np
import torch
import xgboost
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn

import clipper

IRIS = load_iris()
ROWS = IRIS.data
NARROW = ROWS.astype(np.float32)


class Ratio(TransformerMixin, BaseEstimator):
    """A step of this program's own, which no package has."""

    def fit(self, rows: np.ndarray, _: Any = None) -> Ratio:
        self.scale_ = rows.max(axis=0)
        return self

    def transform(self, rows: np.ndarray) -> np.ndarray:
        return rows / self.scale_


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.layer(rows), dim=1)


def check(name: str, function: Any, rows: np.ndarray, wanted: np.ndarray) -> None:
    found = np.asarray(list(function.map(list(rows))))
    equal = np.array_equal(found.astype(wanted.dtype), wanted)
    print(name, "equal" if equal else f"different: {found[:3]} {wanted[:3]}", flush=True)


def main() -> None:
    warnings.simplefilter("ignore")
    names = IRIS.target_names[IRIS.target]
    own = make_pipeline(Ratio(), LogisticRegression(max_iter=500)).fit(ROWS, names)
    check("estimator", clipper.deploy(own, name="live-estimator"), ROWS, own.predict(ROWS))

    trees = xgboost.XGBClassifier(n_estimators=3).fit(NARROW, IRIS.target)
    function = clipper.deploy(trees, name="live-trees/classify", max_batch_size=32)
    check("xgboost", function, NARROW, trees.predict(NARROW))

    data = lightgbm.Dataset(ROWS, label=IRIS.target)
    booster = lightgbm.train({"objective": "multiclass", "num_class": 3, "verbose": -1}, data, 3)
    check("lightgbm", clipper.deploy(booster, name="live-booster"), ROWS, booster.predict(ROWS))

    torch.manual_seed(0)
    net = Net().eval()
    # One at a time, as PyTorch rounds otherwise for several at once.
    with torch.inference_mode():
        wanted = np.concatenate([net(torch.from_numpy(row[None])).numpy() for row in NARROW[:20]])
    function = clipper.deploy(net, name="live-net", example=torch.from_numpy(NARROW[:2]))
    found = np.stack([function.remote(rows=row) for row in NARROW[:20]])
    print("torch", "equal" if np.array_equal(found, wanted) else "different", flush=True)

    try:
        clipper.deploy(LogisticRegression(), name="live-unfitted")
    except clipper.SpecError as refused:
        print("unfitted", "refused" if "was not fitted" in str(refused) else refused)


if __name__ == "__main__":
    main()
