"""BERTScore: how much of a text's meaning another one has, token by token (arXiv 1904.09675).

The encoder is a BERT in the layout of `similarity.MiniLM`; published figures use roberta-large.
They sit near 0.85 whatever the texts say, so report those of shuffled references beside them.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

from tgvlm_jax.evaluation.similarity import Encoded, MiniLM
from tgvlm_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertScores:
    """One score a pair; 0 where a text has no words."""

    precision: Float64[np.ndarray, "pairs"]
    recall: Float64[np.ndarray, "pairs"]
    f1: Float64[np.ndarray, "pairs"]


def bertscore(
    tests: Sequence[str],
    references: Sequence[str],
    *,
    encoder: MiniLM,
    layers: int | None = None,
    idf: bool = False,
) -> BertScores:
    """Scores tests[i] against references[i].

    Args:
        tests: what was said. references: what should have been said. encoder: of both.
        layers: the states after so many layers are compared, by default after all.
        idf: weigh tokens by their rarity in the references; else all words count the same.

    Raises:
        InputError: not as many references as tests.
    """
    if len(tests) != len(references):
        raise InputError(f"one reference a text is needed: {len(references)} for {len(tests)}")
    known = {text: encoder.encode(text, layers=layers) for text in {*tests, *references}}
    rarity = _rarity([known[text] for text in references]) if idf else None
    pairs = zip(tests, references, strict=True)
    rows = np.array([_pair(known[test], known[truth], rarity) for test, truth in pairs])
    return BertScores(precision=rows[:, 0], recall=rows[:, 1], f1=rows[:, 2])


def _rarity(references: Sequence[Encoded]) -> tuple[Counter[int], int]:
    return Counter(token for one in references for token in set(one.ids)), len(references)


def _weights(one: Encoded, rarity: tuple[Counter[int], int] | None) -> Float64[np.ndarray, "t"]:
    """Of every token, summing to 1; the first and the last are marks and count nothing."""
    found = np.ones(len(one.ids))
    if rarity:
        counts, total = rarity
        found = np.array([math.log((total + 1) / (counts[token] + 1)) for token in one.ids])
    found[[0, -1]] = 0
    return found / found.sum() if found.sum() else found


def _pair(test: Encoded, truth: Encoded, rarity: tuple[Counter[int], int] | None) -> list[float]:
    alike = _normed(test.states) @ _normed(truth.states).T
    precision = float(_weights(test, rarity) @ alike.max(axis=1))
    recall = float(_weights(truth, rarity) @ alike.max(axis=0))
    if len(test.ids) <= 2 or len(truth.ids) <= 2:
        return [0.0, 0.0, 0.0]
    return [precision, recall, 2 * precision * recall / (precision + recall)]


def _normed(states: Float[np.ndarray, "t d"]) -> Float[np.ndarray, "t d"]:
    return states / np.linalg.norm(states, axis=-1, keepdims=True)
