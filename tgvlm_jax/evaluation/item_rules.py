"""Rules that mark an answer whatever the benchmark: Video-R1's (VideoP2R's), Video-MTR's,
lmms-eval's; and what readers of annotation files share.
"""

import re
from collections.abc import Sequence

from tgvlm_jax.evaluation import choice_rules, number_rules, prompts
from tgvlm_jax.evaluation.items import LETTERS, Item, Scoring
from tgvlm_jax.evaluation.records import Fields


def videor1(item: Item, text: str) -> float | None:
    """Video-R1, whose benchmarks VideoP2R takes over: what stands in the answer tags is compared.

    Choices must be the very letter, numbers are marked by mean relative accuracy or compared to two
    decimals, other texts score 0. There is no rule for lists.
    """
    if item.kind == "list":
        return None
    if item.kind == "number":
        return number_rules.videor1_regression(text, item.answer)
    if item.kind == "numerical":
        return float(number_rules.videor1_numerical(text, item.answer))
    return float(item.kind == "choice" and choice_rules.videor1_right(text, item.answer))


def videomtr(item: Item, text: str) -> float | None:
    """Video-MTR: the share of trajectories that end in the right letter, in the right form."""
    return float(item.kind == "choice" and choice_rules.videomtr_right(text, item.answer))


def lmms_eval(item: Item, text: str) -> float | None:
    """lmms-eval: the letter in the most trusted form; an answer without one is wrong."""
    letters = "".join(item.constants)
    return float(choice_rules.lmms_eval_letter(text, letters) == item.answer)


VIDEOR1 = Scoring(rule=videor1)
VIDEOMTR = Scoring(rule=videomtr, form="<think></think><answer>{}</answer>")
LMMS_EVAL = Scoring(rule=lmms_eval)


def lettered(options: Sequence[str]) -> list[str]:
    """Lines "A. text"; options that have their letters already stay as they are."""
    pairs = list(zip(LETTERS, options, strict=False))
    if all(option.startswith(f"{letter}.") for letter, option in pairs):
        return list(options)
    return prompts.letters(options)


def letters_of(fields: Fields, options: Sequence[str]) -> str:
    """The letters of so many options; raises InputError where there are too few or too many."""
    if not 2 <= len(options) <= len(LETTERS):
        raise fields.problem(f"needs 2 to {len(LETTERS)} options, found {len(options)}")
    return LETTERS[: len(options)]


def is_number(text: str) -> bool:
    """Whether it is digits with signs, points and commas only: no words, no "nan"."""
    return bool(re.fullmatch(r"[+-]?[\d,]*\.?\d+(?:[eE][+-]?\d+)?", text.strip()))
