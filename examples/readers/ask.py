"""Asks the application, tells it the right answers, and prints how it did: `python ask.py [QUERIES]`.

Needs clipper and scikit-learn here, and the project deployed.
"""

import sys

import clipper

from data import unseen


def main(queries: int) -> None:
    app = clipper.App.from_name("digit")
    right = 0
    for pixels, label in zip(*(half[:queries] for half in unseen()), strict=True):
        prediction = app.predict(pixels)
        right += prediction.output == label
        app.feedback(prediction, label)
    print(f"{right} of {queries} right")
    for model in app.explain()["models"]:
        print(f"  {model['model']:<20} asked next with a probability of {model['share']:.0%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
