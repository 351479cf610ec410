"""ROUGE-1, ROUGE-2 and ROUGE-L as Google's rouge-score computes them."""

import re
from collections import Counter
from collections.abc import Sequence

from tgvlm_jax.text import porter

_OTHER = re.compile("[^a-z0-9]+")
_LONGEST_UNSTEMMED = 3


def tokens(text: str, *, stem: bool = False) -> list[str]:
    """Runs of letters a to z and digits, in lower case; words of over three letters stemmed."""
    found = _OTHER.sub(" ", text.lower()).split()
    if stem:
        found = [porter.stem(one) if len(one) > _LONGEST_UNSTEMMED else one for one in found]
    return found


def rouge_n(answer: Sequence[str], truth: Sequence[str], *, n: int) -> float:
    """F1 of the n-grams in common, each as often as it occurs in both; 0 where there are none."""
    grams = [
        Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))
        for text in (answer, truth)
    ]
    common = sum((grams[0] & grams[1]).values())
    return _f1(common, *(sum(one.values()) for one in grams))


def rouge_l(answer: Sequence[str], truth: Sequence[str]) -> float:
    """F1 of the longest common subsequence."""
    row = [0] * (len(truth) + 1)
    for word in answer:
        before, row = row, [0]
        for j, other in enumerate(truth):
            row.append(before[j] + 1 if word == other else max(before[j + 1], row[j]))
    return _f1(row[-1], len(answer), len(truth))


def _f1(common: int, answer: int, truth: int) -> float:
    if not common:
        return 0.0
    precision, recall = common / answer, common / truth
    return 2 * precision * recall / (precision + recall)
