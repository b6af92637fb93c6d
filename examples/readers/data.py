"""The digits that scikit-learn brings along, in two halves: one to learn from, one that no model has seen."""

import numpy as np
from sklearn.datasets import load_digits


def training() -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = load_digits(return_X_y=True)
    return pixels[::2], labels[::2]


def unseen() -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = load_digits(return_X_y=True)
    return pixels[1::2], labels[1::2]
