"""Handwritten digits: 64 pixels or a picture in, the digit and its probability out."""

from dataclasses import dataclass
from typing import Annotated

import clipper
import numpy as np
from msgspec import Meta

from images import to_pixels
from model import INK, PIXELS, train
from sample import SEVEN, SEVEN_PNG

# What a schema says beyond the type: here an example, which also ends up in the curl line that a deploy prints.
Pixels = Annotated[np.ndarray, Meta(examples=[SEVEN])]
Picture = Annotated[bytes, Meta(extra_json_schema={"examples": [SEVEN_PNG]})]


@dataclass
class Digit:
    digit: int
    confidence: float


class Model:
    def __init__(self) -> None:
        self.model = train()

    def read(self, rows: list[np.ndarray | Exception]) -> list[Digit | Exception]:
        """One answer per row, in one call of the model. A row that is an exception is its own answer."""
        good = [row for row in rows if not isinstance(row, Exception)]
        found = iter(self.model.predict_proba(np.stack(good)) if good else ())
        return [row if isinstance(row, Exception) else best(next(found)) for row in rows]


def best(probabilities: np.ndarray) -> Digit:
    digit = int(probabilities.argmax())
    return Digit(digit, round(float(probabilities[digit]), 4))


@clipper.function(name="classify", max_batch_size=64)
class Classify(Model):
    """Pixels: 64 numbers or 8x8, from 0 (paper) to 16 (ink)."""

    def __call__(self, pixels: list[Pixels]) -> list[Digit | Exception]:
        return self.read([checked(item) for item in pixels])


@clipper.function(name="classify_image", max_batch_size=16)
class ClassifyImage(Model):
    """A picture of one digit, dark on light or light on dark: PNG, JPEG, whatever Pillow opens."""

    def __call__(self, image: list[Picture]) -> list[Digit | Exception]:
        return self.read([pixels_of(item) for item in image])


def checked(pixels: np.ndarray) -> np.ndarray | Exception:
    """The row as the model takes it, or what is wrong with it: returned, so that the rest of the batch goes on."""
    if pixels.size != PIXELS:
        return ValueError(f"pixels must be 64 numbers or 8x8, not of shape {pixels.shape}")
    row = pixels.reshape(PIXELS).astype(np.float64)
    if not (np.isfinite(row).all() and row.min() >= 0 and row.max() <= INK):
        return ValueError("each pixel must be a number from 0 (paper) to 16 (ink)")
    return row


def pixels_of(image: bytes) -> np.ndarray | Exception:
    try:
        return to_pixels(image)
    except ValueError as error:
        return error
