"""Sentence embeddings, and how near two sentences are in meaning."""

import clipper
import numpy as np

from minilm import MiniLM


@clipper.function(name="embed", max_batch_size=32, cache_ttl_s=3600)
class Embed:
    """The text's vector: 384 float32 of length 1. The product of two vectors is their similarity."""

    def __init__(self) -> None:
        self.model = MiniLM()

    def __call__(self, text: list[str]) -> list[np.ndarray]:
        return list(self.model.encode(text))


@clipper.function(name="similarity")
class Similarity:
    """From -1 to 1: 1 for the same meaning, near 0 for texts that have nothing to do with each other."""

    def __init__(self) -> None:
        self.model = MiniLM()

    def __call__(self, a: str, b: str) -> float:
        one, other = self.model.encode([a, b])
        return round(float(one @ other), 4)
