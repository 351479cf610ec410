"""Is an answer right? By the type of its question, as the Video-R1 family of methods scores it.

VideoP2R 4.2 and Video-MTR 2.3. Every score is from 0 to 1; what cannot be read scores 0.
"""

import math
import re
from collections.abc import Callable

from tgvlm_jax.text import rouge

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def answer_text(text: str, *, default: str = "") -> str:
    """What stands in the first answer block, blanks around it removed; `default` without one."""
    found = _ANSWER.search(text)
    return (found.group(1) if found else default).strip()


def multiple_choice(answer: str, truth: str) -> float:
    """1 for the very letter; "b" or "B." is not "B"."""
    return float(answer.strip() == truth.strip())


def numerical(answer: str, truth: str) -> float:
    """1 where both round to the same two decimals, and both or neither are written with a mark."""
    if _marked(answer) != _marked(truth):
        return 0.0
    found, wanted = read_number(answer), read_number(truth)
    if found is None or wanted is None:
        return 0.0
    return float(round(found, 2) == round(wanted, 2))


def regression(answer: str, truth: str) -> float:
    """1 minus the relative error, none below 0."""
    found, wanted = read_number(answer), read_number(truth)
    if found is None or wanted is None:
        return 0.0
    error = (abs(found - wanted) + 1e-9) / (abs(wanted) + 1e-9)
    return 1 - min(1.0, max(0.0, error)) if math.isfinite(error) else 0.0


def ocr(answer: str, truth: str) -> float:
    """1 minus the word error rate, none below 0."""
    wanted = truth.split()
    return max(0.0, 1 - _edits(answer.split(), wanted) / max(1, len(wanted)))


def free_form(answer: str, truth: str) -> float:
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L, words stemmed."""
    found, wanted = (rouge.tokens(text, stem=True) for text in (answer, truth))
    scores = [rouge.rouge_n(found, wanted, n=n) for n in (1, 2)]
    return (sum(scores) + rouge.rouge_l(found, wanted)) / 3


SCORES: dict[str, Callable[[str, str], float]] = {
    "multiple choice": multiple_choice,
    "numerical": numerical,
    "regression": regression,
    "OCR": ocr,
    "free-form": free_form,
}
"""By the names that the data sets give the types."""


def read_number(text: str) -> float | None:
    """A number, commas dropped; None where it is none or not finite."""
    try:
        number = float(text.replace(",", "").strip())
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _marked(text: str) -> bool:
    return "." in text or "," in text


def _edits(found: list[str], wanted: list[str]) -> int:
    """Fewest words to insert, remove or replace (Levenshtein)."""
    row = list(range(len(wanted) + 1))
    for i, word in enumerate(found, 1):
        before, row = row, [i]
        for j, other in enumerate(wanted, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (word != other)))
    return row[-1]
