"""Trains the model of this example, a linear layer and a softmax, and writes it as Caffe does: digits.caffemodel and
digits.prototxt.

Caffe itself is not needed: its files are protocol buffers, of which a layer with weights takes a few fields.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent

PROTOTXT = """\
name: "digits"
layer {
  name: "data"
  type: "Input"
  top: "data"
  input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } }
}
layer {
  name: "score"
  type: "InnerProduct"
  bottom: "data"
  top: "score"
  inner_product_param { num_output: 10 }
}
layer {
  name: "prob"
  type: "Softmax"
  bottom: "score"
  top: "prob"
}
"""


def fit(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (10 rows of 64) and biases of a softmax regression, by gradient descent."""
    wanted = np.eye(10)[labels]
    weights, biases = np.zeros((10, pixels.shape[1])), np.zeros(10)
    for _ in range(300):
        scores = pixels @ weights.T + biases
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        difference = (chances / chances.sum(axis=1, keepdims=True) - wanted) / len(pixels)
        weights -= 0.05 * difference.T @ pixels
        biases -= 0.05 * difference.sum(axis=0)
    return weights.astype("<f4"), biases.astype("<f4")


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: bytes) -> bytes:
    """A field of protocol buffers that holds bytes: text, packed numbers or another message."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(values: np.ndarray) -> bytes:
    """caffe.BlobProto: its shape (7: dim = 1), its float32 data (5)."""
    return field(7, field(1, b"".join(map(varint, values.shape)))) + field(5, values.tobytes())


def layer(name: str, kind: str, *blobs: np.ndarray) -> bytes:
    """caffe.LayerParameter: name (1), type (2), blobs (7)."""
    return field(1, name.encode()) + field(2, kind.encode()) + b"".join(field(7, blob(one)) for one in blobs)


def main() -> None:
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(digits.data, digits.target, test_size=0.25, random_state=0)
    weights, biases = fit(train_x, train_y)
    # caffe.NetParameter: name (1), layer (100)
    net = field(1, b"digits") + field(100, layer("score", "InnerProduct", weights, biases))
    (HERE / "digits.caffemodel").write_bytes(net)
    (HERE / "digits.prototxt").write_text(PROTOTXT)
    right = (test_x @ weights.T + biases).argmax(axis=1) == test_y
    print(f"accuracy on digits that it has not seen: {right.mean():.3f}")


if __name__ == "__main__":
    main()
