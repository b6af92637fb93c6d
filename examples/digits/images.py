"""Any picture of one digit to the 8x8 form that the model was trained on."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from model import INK, SIDE

MAX_SIDE = 4096  # a small file can decode to a picture that fills the memory: refused before it is decoded
BOX = SIDE * 4  # the data set's digits were cut out to 32x32 dots, and each 4x4 cell was counted


def to_pixels(data: bytes) -> np.ndarray:
    """64 values from 0 (paper) to 16 (ink). Raises ValueError if `data` is not a picture."""
    try:
        picture = Image.open(io.BytesIO(data))
        if max(picture.size) > MAX_SIDE:
            raise ValueError(f"the picture has {picture.width}x{picture.height} pixels, at most {MAX_SIDE} a side")
        grey = _on_white(picture).convert("L")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"this is not a picture: {error}") from None
    if np.median(_edge(np.asarray(grey))) > 127:
        grey = ImageOps.invert(grey)
    grey = ImageOps.autocontrast(grey)
    box = grey.point(lambda value: 255 if value > 64 else 0).getbbox()
    if box is None:
        raise ValueError("the picture is blank")
    # The height fills the square, the width keeps its proportion: that is how the data set's digits were cut out.
    digit = ImageOps.pad(grey.crop(box), (BOX, BOX), method=Image.Resampling.BOX, color=0)
    small = digit.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64).reshape(-1) * (INK / 255)


def _on_white(picture: Image.Image) -> Image.Image:
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)


def _edge(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
