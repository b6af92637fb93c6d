"""Wrote samples/: real digits that the model was not trained on, as pictures of dark ink on paper, and one as JSON."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from model import INK, SIDE, held_out

HERE = Path(__file__).parent / "samples"


def main() -> None:
    _, pixels, _, labels = held_out()
    HERE.mkdir(exist_ok=True)
    for digit in range(10):
        row = pixels[np.flatnonzero(labels == digit)[1]]
        grey = (255 - row.reshape(SIDE, SIDE) * (255 / INK)).round().astype(np.uint8)
        picture = Image.fromarray(grey).resize((128, 128), Image.Resampling.BICUBIC)
        framed = Image.new("L", (160, 160), 255)
        framed.paste(picture, (16, 16))
        framed.save(HERE / f"{digit}.png", optimize=True)
    first = pixels[np.flatnonzero(labels == 7)[0]]
    (HERE / "seven.json").write_text(json.dumps({"pixels": first.astype(int).tolist()}) + "\n")


if __name__ == "__main__":
    main()
