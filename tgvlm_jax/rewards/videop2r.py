"""Rewards of VideoP2R: what was perceived and what was concluded are rewarded apart.

An answer has two segments,

    perception  <observation> ... </observation>
    reasoning   <think> ... </think> <answer> ... </answer>

and each earns named terms: accuracy from 0 to 1, format 0 or 1, length 0 or 0.2. Each token of the
answer belongs to one of the two, so that its advantage is that of the part it wrote.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int32

from tgvlm_jax.rewards import answers
from tgvlm_jax.types import InputError

PERCEPTION, REASONING = 0, 1
LENGTH_REWARD = 0.2

_OBSERVED = re.compile(r"\s*<observation>(.*?)</observation>", re.DOTALL)
_REASONED = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_BOUNDARY, _THOUGHT = b"</observation>", b"<think>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens that a segment should have, both ends included."""

    least: int
    most: int


PERCEPTION_LENGTHS, REASONING_LENGTHS = Lengths(least=128, most=320), Lengths(least=320, most=512)


def observation(text: str) -> str:
    """What the observation block holds, blanks around it removed; "" without one."""
    found = _OBSERVED.search(text)
    return found.group(1).strip() if found else ""


def perception(
    text: str, *, sufficient: bool, tokens: int, lengths: Lengths = PERCEPTION_LENGTHS
) -> dict[str, float]:
    """Terms of the perception segment of an answer.

    Args:
        sufficient: a judge could tell the right answer from `observation(text)` alone. Without an
            observation there is nothing to judge, and this is not looked at.
        tokens: that the segment has.
    """
    accuracy = float(sufficient and bool(observation(text)))
    return _terms(accuracy, form=perception_form(text), tokens=tokens, lengths=lengths)


def reasoning(
    text: str, truth: str, *, kind: str, tokens: int, lengths: Lengths = REASONING_LENGTHS
) -> dict[str, float]:
    """Terms of the reasoning segment of an answer.

    Args:
        truth: inside answer tags or bare. kind: type of the question, one of `answers.SCORES`.
        tokens: that the segment has.

    Raises:
        InputError: a type of question that has no score.
    """
    if kind not in answers.SCORES:
        raise InputError(f"no score for {kind!r} questions; there are {', '.join(answers.SCORES)}")
    wanted = answers.answer_text(truth, default=truth)
    accuracy = answers.SCORES[kind](answers.answer_text(text), wanted)
    return _terms(accuracy, form=reasoning_form(text), tokens=tokens, lengths=lengths)


_FINAL = re.compile(
    r"(?i:answer|choice|option)\s+(?i:is|must be|should be|would be|:)\s*(?i:option\s+)?"
    r"\(?([A-Z])\b"
    r"|\b(?i:choose|pick|select|it is|so)\s+(?i:option\s+)?\(?([A-Z])\)?(?=[.,;!]|\s*$)",
    re.MULTILINE,
)
_THOUGHTS = re.compile(r"<think>(.*?)(?:</think>|$)", re.DOTALL)


def conclusion(text: str, options: Mapping[str, str]) -> str:
    """The option that the thoughts of an answer settle on, its letter; "" where none is clear.

    VideoP2R 7 asks a language model; this reads the last letter that is said to be the answer, or
    else the option whose text comes last.

    Args:
        options: texts by letters.
    """
    found = _THOUGHTS.search(text)
    thought = found.group(1) if found else ""
    said = [first or second for first, second in _FINAL.findall(thought)]
    said = [letter for letter in said if not options or letter in options]
    if said:
        return said[-1]
    lower = thought.lower()
    places = {letter: lower.rfind(option.lower()) for letter, option in options.items() if option}
    best = max(places, key=lambda letter: places[letter], default="")
    return best if best and places[best] >= 0 else ""


def mismatch(text: str, options: Mapping[str, str]) -> float | None:
    """1 where the thoughts settle on another option than the answer, 0 where on the same.

    None where the thoughts settle on none, or the answer is no letter.
    """
    thought, said = conclusion(text, options), answers.answer_text(text)
    if not thought or not re.fullmatch("[A-Z]", said):
        return None
    return float(thought != said)


def _terms(accuracy: float, *, form: bool, tokens: int, lengths: Lengths) -> dict[str, float]:
    """A length counts only where the segment is right and well formed."""
    fits = accuracy > 0 and form and lengths.least <= tokens <= lengths.most
    return {"accuracy": accuracy, "format": float(form), "length": LENGTH_REWARD * fits}


def perception_form(text: str) -> bool:
    """The answer starts with an observation that is not empty, and has no other one."""
    found = _OBSERVED.match(text)
    return found is not None and bool(found.group(1).strip()) and _once(text, "observation")


def reasoning_form(text: str) -> bool:
    """Behind the observation there are a thought and an answer, once each, and nothing else.

    Where the observation is not in form, from the first thought on.
    """
    found = _OBSERVED.match(text) if perception_form(text) else None
    start = found.end() if found else max(0, text.find("<think>"))
    rest = text[start:].strip()
    return bool(_REASONED.fullmatch(rest)) and _once(text, "think") and _once(text, "answer")


def _once(text: str, tag: str) -> bool:
    return text.count(f"<{tag}>") == text.count(f"</{tag}>") == 1


def group_length(
    accuracies: Sequence[float],
    tokens: Sequence[int],
    *,
    lengths: Lengths = REASONING_LENGTHS,
    least_right: int = 2,
) -> list[float]:
    """Length rewards of a group of whole answers as in Video-R1, which VideoP2R descends from.

    An answer is right above an accuracy of 0.1; there is a reward only where enough are.
    """
    right = [accuracy > 0.1 for accuracy in accuracies]
    counts = sum(right) >= least_right
    return [
        LENGTH_REWARD * (counts and one and lengths.least <= count <= lengths.most)
        for one, count in zip(right, tokens, strict=True)
    ]


def segment_of_tokens(pieces: Sequence[bytes]) -> Int32[np.ndarray, "t"]:
    """PERCEPTION or REASONING for each token of an answer (VideoP2R 5).

    A token belongs to perception when it starts before the end of the first `</observation>`, so
    one that straddles it does. Without that tag the answer is cut before the first `<think>`;
    without either, all of it is reasoning. An end token starts behind everything.

    Args:
        pieces: the bytes of each token, none for special ones (`tgvlm_jax.text.byte_level`).
    """
    text = b"".join(pieces)
    found = text.find(_BOUNDARY)
    boundary = found + len(_BOUNDARY) if found >= 0 else max(0, text.find(_THOUGHT))
    starts = np.cumsum([0, *map(len, pieces)])[:-1]
    return np.where(starts < boundary, PERCEPTION, REASONING).astype(np.int32)
