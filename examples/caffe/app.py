"""Serves digits.caffemodel, a network of Caffe, by OpenCV."""

from pathlib import Path
from typing import Literal

import clipper
import cv2
import numpy as np

HERE = Path(__file__).parent

DataArray = np.ndarray[tuple[Literal[1], Literal[8], Literal[8]], np.dtype[np.float32]]


@clipper.function(name="predict", max_batch_size=64)
class Predict:
    def __init__(self) -> None:
        network, weights = HERE / "digits.prototxt", HERE / "digits.caffemodel"
        self.net = cv2.dnn.readNetFromCaffe(str(network), str(weights))

    def __call__(self, data: list[DataArray]) -> list[np.ndarray]:
        self.net.setInput(np.stack(data))
        return list(self.net.forward())
