"""Serves digits.pt2 by PyTorch, on the CPU."""

from pathlib import Path
from typing import Literal

import clipper
import numpy as np
import torch

HERE = Path(__file__).parent

ImageArray = np.ndarray[tuple[Literal[1], Literal[8], Literal[8]], np.dtype[np.float32]]


@clipper.function(name="predict", max_batch_size=64)
class Predict:
    def __init__(self) -> None:
        self.model = torch.export.load(HERE / "digits.pt2").module()

    def __call__(self, image: list[ImageArray]) -> list[np.ndarray]:
        with torch.inference_mode():
            return list(self.model(torch.from_numpy(np.stack(image))).numpy())
