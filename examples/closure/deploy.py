"""Deploys a function of this program, with what it refers to: no project, no file, as in a notebook.

`clip up` in another terminal, then `python deploy.py`.
"""

import clipper
import numpy as np

SAMPLES = np.linspace(0.0, 10.0, 50)
# A line through points that were measured with noise: what the closure carries along.
MEASURED = 3.0 * SAMPLES + 1.0 + np.random.default_rng(0).normal(size=SAMPLES.size)
SLOPE, OFFSET = np.polyfit(SAMPLES, MEASURED, deg=1)


def predict(x: list[float]) -> list[float]:
    """The height of the line at x; of a batch, all at once."""
    return (SLOPE * np.asarray(x) + OFFSET).tolist()


def main() -> None:
    line = clipper.deploy(predict, name="line/predict", requirements=["numpy>=2.0"], max_batch_size=256)
    print(line.remote(x=4.0))


if __name__ == "__main__":
    main()
