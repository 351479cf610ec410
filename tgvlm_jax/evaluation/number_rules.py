"""How benchmarks compare numbers: Video-R1, VSI-Bench, VideoMMMU, VCR-Bench."""

import dataclasses
import json
import re
from typing import Literal

from tgvlm_jax.evaluation.choice_rules import tagged_answer
from tgvlm_jax.evaluation.relative_accuracy import mean_relative_accuracy, vsibench_accuracy

_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def vsibench_number(text: str, gold: str) -> float:
    """VSI-Bench: accuracy of the number before the first blank; 0 where it is none."""
    try:
        return vsibench_accuracy(float(text.split(" ")[0].rstrip(".").strip()), float(gold))
    except (ValueError, ZeroDivisionError):
        return 0.0


def _videor1_number(text: str) -> float | None:
    try:
        return float((tagged_answer(text) or text).strip().replace(",", ""))
    except ValueError:
        return None


def videor1_numerical(text: str, gold: str) -> bool:
    """Video-R1: equal to 2 decimals, and both or neither written with a period or comma."""
    answer = (tagged_answer(text) or text).strip()
    if any(mark in answer for mark in ".,") != any(mark in gold for mark in ".,"):
        return False
    ours, truth = _videor1_number(text), _videor1_number(gold)
    return ours is not None and truth is not None and round(ours, 2) == round(truth, 2)


def videor1_regression(text: str, gold: str) -> float:
    """Video-R1: `mean_relative_accuracy` of the answer; 0 where it is no number."""
    ours, truth = _videor1_number(text), _videor1_number(gold)
    if ours is None or truth is None:
        return 0.0
    return mean_relative_accuracy(ours, truth)


def videommmu_open(text: str) -> set[str | float]:
    """VideoMMMU: all that an open answer may mean: key phrases and numbers, normalised.

    Nothing without a response, which the script leaves out of its averages.
    """
    if not text:
        return set()
    phrases = _key_phrases(text)
    numbers = [hit for phrase in phrases for pattern in _NUMBERS for hit in pattern.findall(phrase)]
    return {form for part in (*phrases, *numbers) for form in _normalised(part)}


def videommmu_open_right(text: str, gold: str) -> bool:
    """VideoMMMU: an answer's phrase contains the gold text, or one of its numbers is the gold."""
    truths = _normalised(gold)
    return any(
        any(isinstance(truth, str) and truth in part for truth in truths)
        if isinstance(part, str)
        else part in truths
        for part in videommmu_open(text)
    )


def _key_phrases(text: str) -> list[str]:
    text = text.strip().strip(".").lower()
    parts = re.split(r"\.\s(?=[A-Z])|\n", text)
    found = []
    for place, part in enumerate(parts):
        indicators = (*_INDICATORS, "=") if place == len(parts) - 1 else _INDICATORS
        tails = [part.split(word)[-1].strip() for word in indicators if word in part]
        shortest = ""
        for tail in tails:
            shortest = tail if not shortest or len(tail) < len(shortest) else shortest
        if shortest and shortest not in (":", ",", ".", "!", "?", ";", "'"):
            found.append(shortest)
    return found or [text]


def _normalised(text: str) -> list[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListComparison:
    """VCR-Bench's rule for lists; `iou` and `right` are None where a judge would have to say."""

    kind: Literal["time", "space", "llm_judge"]
    iou: float | None = None
    right: bool | None = None


def vcrbench_lists(text: str, gold: str) -> ListComparison:
    """VCR-Bench: two pairs of numbers by IoU > 0.7, two boxes of whole numbers by IoU > 0.5."""
    a, b = _numbers(text), _numbers(gold)
    if a is None or b is None or len(a) != len(b) or len(a) not in (2, 4):
        return ListComparison(kind="llm_judge")
    if len(a) == 2:
        inside = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
        hull = max(a[1], b[1]) - min(a[0], b[0])
        iou = inside / hull if hull else 0.0
        return ListComparison(kind="time", iou=iou, right=iou > 0.7)
    if not all(isinstance(value, int) for value in (*a, *b)):
        return ListComparison(kind="llm_judge")
    width, height = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = sum(areas) - width * height
    iou = width * height / union if union else 0.0
    return ListComparison(kind="space", iou=iou, right=iou > 0.5)


def _numbers(text: str) -> list[int | float] | None:
    if not re.fullmatch(r"\[[^\[\]]*\]", text.strip()):
        return None
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        return None
    plain = all(isinstance(value, int | float) for value in values)
    return values if plain else None
