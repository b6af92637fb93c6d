"""Trains the model of this example: which of three growers a wine comes from, by its chemistry."""

from pathlib import Path

import joblib
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent


def main() -> None:
    wine = load_wine()
    train_x, test_x, train_y, test_y = train_test_split(wine.data, wine.target, test_size=0.25, random_state=0)
    model = make_pipeline(StandardScaler(), RandomForestClassifier(n_estimators=25, max_depth=4, random_state=0))
    model.fit(train_x, train_y)
    joblib.dump(model, HERE / "wine.joblib", compress=3)
    print(f"accuracy on wines that it has not seen: {model.score(test_x, test_y):.3f}")


if __name__ == "__main__":
    main()
