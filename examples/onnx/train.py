"""Trains the model of this example, a small neural network that reads handwritten digits, and writes it as ONNX."""

from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).parent


def main() -> None:
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.data.astype(np.float32), digits.target, test_size=0.25, random_state=0
    )
    model = MLPClassifier(hidden_layer_sizes=(32,), max_iter=400, random_state=0).fit(train_x, train_y)
    onnx = to_onnx(model, train_x[:1], options={"zipmap": False}, target_opset=18)
    (HERE / "digits.onnx").write_bytes(onnx.SerializeToString())
    print(f"accuracy on digits that it has not seen: {model.score(test_x, test_y):.3f}")


if __name__ == "__main__":
    main()
