"""Serves digits.onnx, an ONNX graph, by ONNX Runtime."""

from pathlib import Path
from typing import Any, Literal

import clipper
import numpy as np
import onnxruntime

HERE = Path(__file__).parent
PROVIDERS = ["CPUExecutionProvider"]
XArray = np.ndarray[tuple[Literal[64]], np.dtype[np.float32]]


@clipper.function(name="predict", max_batch_size=64)
class Predict:
    def __init__(self) -> None:
        self.session = onnxruntime.InferenceSession(HERE / "digits.onnx", providers=PROVIDERS)

    def __call__(self, X: list[XArray]) -> list[Any]:
        outputs = self.session.run(["label", "probabilities"], {"X": np.stack(X)})
        return [dict(zip(["label", "probabilities"], row, strict=True)) for row in zip(*outputs, strict=True)]
