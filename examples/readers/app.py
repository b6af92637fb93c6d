"""Three models that read handwritten digits, one better than the others: what an application chooses from."""

import clipper
import numpy as np
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.tree import DecisionTreeClassifier

from data import training


@clipper.function(name="tree", max_batch_size=64)
class Tree:
    """Right seven times of ten: a tree of few levels."""

    def __init__(self) -> None:
        self.model = DecisionTreeClassifier(max_depth=6, random_state=0).fit(*training())

    def __call__(self, pixels: list[np.ndarray]) -> list[int]:
        return self.model.predict(np.stack(pixels)).tolist()


@clipper.function(name="centroid", max_batch_size=64)
class Centroid:
    """Right nine times of ten: the digit whose mean picture is nearest."""

    def __init__(self) -> None:
        self.model = NearestCentroid().fit(*training())

    def __call__(self, pixels: list[np.ndarray]) -> list[int]:
        return self.model.predict(np.stack(pixels)).tolist()


@clipper.function(name="neighbours", max_batch_size=64)
class Neighbours:
    """Right 98 times of 100: the digits that look most alike decide."""

    def __init__(self) -> None:
        self.model = KNeighborsClassifier(3).fit(*training())

    def __call__(self, pixels: list[np.ndarray]) -> list[int]:
        return self.model.predict(np.stack(pixels)).tolist()
