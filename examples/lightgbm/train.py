"""Trains the model of this example: how far diabetes has advanced after a year."""

from pathlib import Path

import lightgbm
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent


def main() -> None:
    patients = load_diabetes()
    train_x, test_x, train_y, test_y = train_test_split(patients.data, patients.target, test_size=0.25, random_state=0)
    data = lightgbm.Dataset(train_x, label=train_y, feature_name=list(patients.feature_names))
    options = {"objective": "regression", "num_leaves": 7, "learning_rate": 0.1, "verbose": -1, "seed": 0}
    booster = lightgbm.train(options, data, num_boost_round=40)
    booster.save_model(HERE / "diabetes.txt")
    error = np.abs(booster.predict(test_x) - test_y).mean()
    guess = np.abs(train_y.mean() - test_y).mean()
    print(f"mean error on patients that it has not seen: {error:.1f}; of guessing the mean: {guess:.1f}")


if __name__ == "__main__":
    main()
