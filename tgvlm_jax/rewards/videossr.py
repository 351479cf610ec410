"""Rewards of the three pretext tasks of VideoSSR, and what answers earn that never saw the video.

An answer and its truth are the texts that the task's question asks for: "3.3-6.7" seconds, counts
"4,2,7" of circles, squares and triangles, an order "312465" of clips. Every reward is a dictionary:

    smooth    from 0 to 1, partial credit (VideoSSR 3); the reward of the paper
    strict    1 for the very answer, else 0; the paper's ablation, which it does not define closer
    readable  1 if the answer has the form that was asked for

An unreadable answer earns 0. So does a truth that cannot be read.
"""

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from tgvlm_jax.grounding import baselines
from tgvlm_jax.types import Sample

Reward = dict[str, float]

MOST = {"easy": 9, "hard": 16}
"""The highest count of each level (VideoSSR 3.1.2)."""

_INTERVAL = re.compile(r"([\d.]+)\s*-\s*([\d.]+)")
_SOMEWHERE = re.compile(r"(\d+\.?\d*)\s*-\s*(\d+\.?\d*)")
_NUMBER = re.compile(r"\d+")
_LEAST = 1e-9  # a union, or a count, is not divided by less


def grounding(answer: str, truth: str) -> Reward:
    """Intersection over union of two intervals; 0 where neither has a length."""
    found, wanted = read_interval(answer), read_interval(truth)
    if found is None or wanted is None:
        return _reward(0.0, strict=False, readable=found is not None)
    return _reward(_iou(found, wanted), strict=found == wanted)


def counting(answer: str, truth: str) -> Reward:
    """Mean over the counted kinds of 1 - |error| / truth, none below 0."""
    wanted = _read_truths(truth)
    found = read_counts(answer, kinds=truth.count(",") + 1)
    if found is None or not wanted:
        return _reward(0.0, strict=False, readable=found is not None)
    credits = [_count_credit(p, y) for p, y in zip(found, wanted, strict=True)]
    return _reward(sum(credits) / len(credits), strict=found == wanted)


def jigsaw(answer: str, truth: str) -> Reward:
    """1 - the summed distance of every clip from its place, over that of a reversed order."""
    truth = truth.strip()
    found = read_order(answer, clips=truth)
    if found is None:
        return _reward(0.0, strict=False, readable=False)
    worst = len(truth) ** 2 // 2
    error = sum(abs(found.find(clip) - truth.find(clip)) for clip in truth)
    smooth = 1 - error / worst if worst else 1.0
    return _reward(smooth, strict=found == truth)


TASKS: dict[str, Callable[[str, str], Reward]] = {
    "grounding": grounding,
    "counting": counting,
    "jigsaw": jigsaw,
}


def read_interval(text: str) -> tuple[float, float] | None:
    """Start and end in seconds where the whole text is "start-end", start <= end."""
    found = _INTERVAL.fullmatch(text.strip())
    if found is None:
        return None
    try:
        start, end = (float(part) for part in found.groups())
    except ValueError:  # 4.6.3
        return None
    return (start, end) if start <= end else None


def find_interval(text: str) -> tuple[float, float] | None:
    """The first "number - number" anywhere in a text, in order.

    How the released evaluation reads grounding answers of models that were not trained on the form.
    """
    found = _SOMEWHERE.search(text)
    if found is None:
        return None
    start, end = sorted(float(part) for part in found.groups())
    return start, end


def read_counts(text: str, *, kinds: int) -> tuple[float, ...] | None:
    """Every run of digits in the text, where there are as many as kinds."""
    found = tuple(float(run) for run in _NUMBER.findall(text))
    return found if len(found) == kinds else None


def read_order(text: str, *, clips: str) -> str | None:
    """The text, blanks around it removed, where it has exactly the characters of `clips`."""
    found = text.strip()
    return found if found and sorted(found) == sorted(clips) else None


def _read_truths(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()


def _reward(smooth: float, *, strict: bool, readable: bool = True) -> Reward:
    # Two times of 400 digits have no difference. The released code lets that poison the batch.
    smooth = smooth if math.isfinite(smooth) else 0.0
    return {"smooth": smooth, "strict": float(strict), "readable": float(readable)}


def _iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    both = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    either = (a[1] - a[0]) + (b[1] - b[0]) - both
    if either < _LEAST:
        return float(both > 0)
    return both / either


def _count_credit(found: float, wanted: float) -> float:
    if found == wanted:
        return 1.0
    return max(0.0, 1 - abs(found - wanted) / (abs(wanted) + _LEAST))


def blind_grounding(truths: Sequence[str], durations: Sequence[float]) -> dict[str, float]:
    """Mean smooth reward of blind intervals, on these very truths.

    Args:
        truths: readable intervals. durations: of the videos, in seconds.

    Returns:
        "constant": the best there is for them, in fractions of the duration; "whole": the whole
        video; "random": between two uniform instants.

    Raises:
        InputError: there are no truths.
    """
    spans = np.asarray([read_interval(truth) for truth in truths], np.float64).reshape(-1, 1, 2)
    seconds = np.asarray(durations, np.float64)
    best = baselines.best_constant_span(spans, seconds)
    scores = {
        "constant": baselines.constant_ious(spans, seconds, span=best),
        "whole": baselines.whole_video_ious(spans, seconds),
        "random": baselines.random_ious(spans, seconds),
    }
    return {name: float(np.mean(values)) for name, values in scores.items()}


def blind_counting(truths: Sequence[str], *, most: int) -> dict[str, float]:
    """Mean smooth reward of blind counts, on these very truths.

    Args:
        most: the highest count a question may have; the lowest is 1.

    Returns:
        "constant": the best there is for them; "random": each count uniform.
    """
    # Kinds add up, so the best constant is the best of each.
    rows = [_read_truths(truth) for truth in truths]
    credit = np.asarray(
        [[[_count_credit(p, y) for y in row] for row in rows] for p in range(1, most + 1)]
    ).mean(axis=1)
    return {"constant": float(credit.max(axis=0).mean()), "random": float(credit.mean())}


def blind_jigsaw(truths: Sequence[str]) -> dict[str, float]:
    """Mean smooth reward of blind orders, on these very truths.

    Returns:
        "constant": the clips as they are shown; "random": every order alike.
    """
    shown = [jigsaw("".join(sorted(truth)), truth)["smooth"] for truth in truths]
    # A clip and its place are both uniform: a distance of (n^2 - 1) / 3n on average, n of them.
    random = [1 - (len(one) ** 2 - 1) / 3 / max(1, len(one) ** 2 // 2) for one in truths]
    return {"constant": float(np.mean(shown)), "random": float(np.mean(random))}


def blind(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Mean smooth reward of answers that never look, task by task, on these very samples.

    Args:
        samples: of any tasks, their `kind` a task of `TASKS`, a stroke and what is asked of it;
            of counting that is a level of `MOST`. Samples of other kinds are left out.

    Returns:
        For each task that there is, what `blind_grounding`, `blind_counting` or `blind_jigsaw`
        says; its greatest value is what a model has to beat.
    """
    found: dict[str, dict[str, float]] = {}
    for task in TASKS:
        mine = [sample for sample in samples if sample.kind.partition("/")[0] == task]
        truths = [sample.answer for sample in mine]
        if not mine:
            continue
        match task:
            case "grounding":
                lengths = [float(sample.duration - sample.seconds[0]) for sample in mine]
                found[task] = blind_grounding(truths, lengths)
            case "counting":
                most = max(MOST[sample.kind.partition("/")[2]] for sample in mine)
                found[task] = blind_counting(truths, most=most)
            case _:
                found[task] = blind_jigsaw(truths)
    return found
