"""Serves diabetes.txt, a model of LightGBM. A missing value is NaN, which MessagePack and .npy can carry."""

from pathlib import Path
from typing import Literal

import clipper
import lightgbm
import numpy as np

HERE = Path(__file__).parent

# The columns, in this order: age, sex, bmi, bp, s1, s2, s3, s4, s5, s6
Features = np.ndarray[tuple[Literal[10]], np.dtype[np.float64]]


@clipper.function(name="predict", max_batch_size=64)
class Predict:
    def __init__(self) -> None:
        self.model = lightgbm.Booster(model_file=HERE / "diabetes.txt")

    def __call__(self, features: list[Features]) -> list[float]:
        return self.model.predict(np.stack(features)).tolist()
