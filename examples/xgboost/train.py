"""Trains the model of this example: whether a tumour is benign, by measurements of its cells."""

from pathlib import Path

import numpy as np
import xgboost
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent


def main() -> None:
    cells = load_breast_cancer()
    train_x, test_x, train_y, test_y = train_test_split(
        cells.data.astype(np.float32), cells.target, test_size=0.25, random_state=0
    )
    options = {"objective": "binary:logistic", "max_depth": 3, "seed": 0}
    booster = xgboost.train(options, xgboost.DMatrix(train_x, label=train_y), num_boost_round=40)
    booster.save_model(HERE / "tumour.ubj")
    right = (booster.predict(xgboost.DMatrix(test_x)) > 0.5) == test_y
    print(f"accuracy on cells that it has not seen: {right.mean():.3f}")


if __name__ == "__main__":
    main()
