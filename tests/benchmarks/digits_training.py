"""Trains the classifiers of the selection experiment and prints what they say about every digit of the test half:

    uv run --no-project --python 3.11 --with 'scikit-learn==1.9.*' tests/benchmarks/digits_training.py \
        > tests/support/digits_predictions.json

Seven classifiers on scikit-learn's bundled digits, half of which are trained on and half predicted. One string of
digits for each, in the order of the test half: `label` is right; `svm_degraded` is what `svm` says when its pictures
come shifted by one column; `svm_low` and `svm_high` were trained on the digits 0 to 4 and 5 to 9 alone.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier


def main() -> None:
    pixels, digits = load_digits(return_X_y=True)
    learnt, asked, learnt_digits, right = train_test_split(
        pixels, digits, test_size=0.5, random_state=0, stratify=digits
    )
    models: dict[str, Any] = {
        "tree": DecisionTreeClassifier(max_depth=5, random_state=0),
        "bayes": GaussianNB(),
        "centroid": NearestCentroid(),
        "logistic": LogisticRegression(max_iter=5000),
        "svm": SVC(),
    }
    for model in models.values():
        model.fit(learnt, learnt_digits)
    for name, kept in (("svm_low", learnt_digits < 5), ("svm_high", learnt_digits >= 5)):
        models[name] = SVC().fit(learnt[kept], learnt_digits[kept])
    shifted = numpy.roll(asked.reshape(-1, 8, 8), 1, axis=2).reshape(-1, 64)
    answers = {name: model.predict(asked) for name, model in models.items()}
    answers["svm_degraded"] = models["svm"].predict(shifted)
    table = {"label": right, **answers}
    json.dump({name: "".join(map(str, values)) for name, values in table.items()}, sys.stdout, indent=1)
    print()
    for name, values in answers.items():
        print(f"{name}: {(values != right).mean():.1%} wrong of {len(right)}", file=sys.stderr)


if __name__ == "__main__":
    main()
