"""Serves tumour.ubj, a model of XGBoost. A missing value is NaN, which MessagePack and .npy can carry."""

from pathlib import Path
from typing import Literal

import clipper
import numpy as np
import xgboost

HERE = Path(__file__).parent

Features = np.ndarray[tuple[Literal[30]], np.dtype[np.float32]]


@clipper.function(name="predict", max_batch_size=64)
class Predict:
    def __init__(self) -> None:
        self.model = xgboost.Booster(model_file=HERE / "tumour.ubj")

    def __call__(self, features: list[Features]) -> list[float]:
        return self.model.predict(xgboost.DMatrix(np.stack(features))).tolist()
