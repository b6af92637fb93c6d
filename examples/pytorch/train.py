"""Trains the model of this example, a small convolutional network that reads handwritten digits."""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HERE = Path(__file__).parent


class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images of 8x8 in one channel, from 0 to 16; a score for each digit."""
        return self.layers(image / 16)


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)
    train_x, test_x, train_y, test_y = train_test_split(
        images, torch.tensor(digits.target), test_size=0.25, random_state=0
    )
    model = Digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train_x), train_y).backward()
        optimizer.step()
    model.eval()
    # Any number of images at once: the batch is a dimension without a fixed size.
    sample, shapes = test_x[:2].clone(), ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(model, (sample,), dynamic_shapes=shapes)
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # the paths of this machine
    torch.export.save(exported, HERE / "digits.pt2")
    right = (model(test_x).argmax(dim=1) == test_y).float()
    print(f"accuracy on digits that it has not seen: {right.mean():.3f}")


if __name__ == "__main__":
    main()
