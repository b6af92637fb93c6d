"""Serves wine.joblib: a Pipeline(StandardScaler, RandomForestClassifier) of scikit-learn 1.9.1."""

from pathlib import Path
from typing import Literal

import clipper
import joblib
import numpy as np

HERE = Path(__file__).parent

Features = np.ndarray[tuple[Literal[13]], np.dtype[np.float64]]


@clipper.function(name="predict", max_batch_size=64)
class Predict:
    def __init__(self) -> None:
        self.model = joblib.load(HERE / "wine.joblib")

    def __call__(self, features: list[Features]) -> list[int]:
        return self.model.predict(np.stack(features)).tolist()
