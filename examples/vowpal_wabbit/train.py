"""Trains the model of this example, one against all, which reads handwritten digits."""

from pathlib import Path

import vowpalwabbit
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent


def example(pixels: list[float], label: int | None = None) -> str:
    """A digit in Vowpal Wabbit's text form. Labels begin with 1."""
    features = " ".join(f"p{place}:{value / 16:g}" for place, value in enumerate(pixels) if value)
    return f"{'' if label is None else label + 1} | {features}".lstrip()


def main() -> None:
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(digits.data, digits.target, test_size=0.25, random_state=0)
    model = vowpalwabbit.Workspace("--oaa 10 -b 10 --random_seed 0 --quiet")
    for _ in range(8):
        for pixels, label in zip(train_x, train_y, strict=True):
            model.learn(example(pixels, label))
    right = [model.predict(example(pixels)) == label + 1 for pixels, label in zip(test_x, test_y, strict=True)]
    model.save(str(HERE / "digits.vw"))
    model.finish()
    print(f"accuracy on digits that it has not seen: {sum(right) / len(right):.3f}")


if __name__ == "__main__":
    main()
