"""Serves digits.vw, a model of Vowpal Wabbit. An example is text in its own format, without a label."""

from pathlib import Path

import clipper
import vowpalwabbit

HERE = Path(__file__).parent


@clipper.function(name="predict", max_batch_size=64)
class Predict:
    def __init__(self) -> None:
        weights = str(HERE / "digits.vw")
        self.model = vowpalwabbit.Workspace(initial_regressor=weights, testonly=True, quiet=True)

    def __call__(self, example: list[str]) -> list[int]:
        return [self.model.predict(line) for line in example]
