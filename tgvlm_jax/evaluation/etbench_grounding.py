"""E.T. Bench: the five grounding tasks and event matching, in the four published scorings.

`original` and `strict_rvq` read spans from the whole answer; `new` and `looser` read evidence and
answer apart and score both (`_evi`). All of their quirks are kept: "F1" of tvg and epm is a recall,
`new` takes the best of all spans there, tal loses evidence scores, evs scores the union of answer
and evidence. Overlaps are float32, as the scripts compute them: 0.7 is a little less than 0.7.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64

from tgvlm_jax.evaluation.etbench_answers import (
    DELIMITER,
    Grounded,
    ScriptAborts,
    grounded,
    point,
    spans,
)
from tgvlm_jax.evaluation.etbench_data import EtSample
from tgvlm_jax.evaluation.records import Span

Variant = Literal["original", "strict_rvq", "new", "looser"]
Metrics = dict[str, float]

THRESHOLDS = (0.1, 0.3, 0.5, 0.7)
_SECONDS = 1000  # length of the time line of evs


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupScores:
    """Scores of one (task, source).

    Attributes:
        metrics: by the names of the scripts, rounded to 5 decimals. aborted: the answers on which
            the script itself stops, with its error; here they count as failed.
    """

    metrics: Metrics
    aborted: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Readings:
    """What was read from each answer, None for failures, and where the script aborts."""

    read: list[tuple[EtSample, Grounded | None]]
    aborted: tuple[str, ...]

    @property
    def parsed(self) -> list[tuple[EtSample, Grounded]]:
        """Samples whose answer could be read."""
        return [(sample, found) for sample, found in self.read if found is not None]

    @property
    def counts(self) -> Metrics:
        """Total and Failed."""
        return {"Total": len(self.read), "Failed": len(self.read) - len(self.parsed)}


def two_parts(variant: Variant) -> bool:
    """Whether the answer has evidence before the delimiter."""
    return variant in ("new", "looser")


def answer_of(sample: EtSample) -> str:
    """The answer; "" where there is none."""
    return sample.answer or ""


def read_spans(sample: EtSample, variant: Variant) -> Grounded | None:
    """Answer spans, and evidence, for which the answer stands in where there is none."""
    if not two_parts(variant):
        found = spans(answer_of(sample))
        return None if found is None else Grounded(answer=found, evidence=found)
    both = grounded(answer_of(sample))
    if both.answer is None:
        return None
    return Grounded(answer=both.answer, evidence=both.evidence or both.answer)


def read_all(samples: Sequence[EtSample], read: Callable[[EtSample], Grounded | None]) -> Readings:
    """Reads every answer."""
    found, aborted = [], []
    for sample in samples:
        try:
            found.append((sample, read(sample)))
        except ScriptAborts as error:
            found.append((sample, None))
            aborted.append(f"{sample.task} {sample.source} {sample.index}: {error}")
    return Readings(read=found, aborted=tuple(aborted))


def overlap(
    predicted: Sequence[Span], truth: Sequence[Span]
) -> Float32[np.ndarray, "predicted truth"]:
    """Temporal IoU in float32; NaN for two empty spans, negative lengths for reversed ones."""
    a = np.asarray(predicted, np.float32).reshape(-1, 1, 2)
    b = np.asarray(truth, np.float32).reshape(1, -1, 2)
    inside = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    inside = np.maximum(inside, np.float32(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return inside / ((a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - inside)


def recall_metrics(ious: Sequence[float], count: int, *, name: str, suffix: str = "") -> Metrics:
    """Share of `count` samples at each threshold, in float64, and the mean of the shares."""
    hits = {t: sum(value >= t for value in ious) / count for t in THRESHOLDS}
    mean = sum(hits.values()) / len(hits)
    label = "mRec" if name == "R" else name
    return {
        f"mIoU{suffix}": sum(ious) / count,
        **{f"{name}{suffix}@{t}": value for t, value in hits.items()},
        f"{label}{suffix}": mean,
    }


def rounded(metrics: Metrics) -> Metrics:
    """As the scripts store them."""
    return {name: round(value, 5) for name, value in metrics.items()}


def score_moment(samples: Sequence[EtSample], variant: Variant) -> GroupScores:
    """tvg, epm: the first span, in `new` and `looser` the best of all; tem: the first, any truth.

    Returns Total, Failed, mIoU, F1@t and F1 (tem: R@t and mRec).
    """
    matching = samples[0].task == "tem"
    readings = read_all(samples, lambda sample: read_spans(sample, variant))
    every = two_parts(variant) and not matching

    def best(found: list[Span] | None, sample: EtSample) -> float:
        chosen = found if every else (found or [])[:1]
        return float(np.max(overlap(chosen or [], sample.spans)))

    name = "R" if matching else "F1"
    metrics = readings.counts
    ious = [best(found.answer, sample) for sample, found in readings.parsed]
    metrics |= recall_metrics(ious, len(samples), name=name)
    if two_parts(variant):
        ious = [best(found.evidence, sample) for sample, found in readings.parsed]
        metrics |= recall_metrics(ious, len(samples), name=name, suffix="_evi")
    return GroupScores(metrics=rounded(metrics), aborted=readings.aborted)


def score_localisation(samples: Sequence[EtSample], variant: Variant) -> GroupScores:
    """tal: F1 of covered truths and covered predictions, not one to one, compared in float32.

    In `new` and `looser` evidence is scored where the answer reaches the threshold; evidence that
    does not reach it itself sets the sum so far to 0, as published.
    """
    readings = read_all(samples, lambda sample: read_spans(sample, variant))
    answers = dict.fromkeys(THRESHOLDS, 0.0)
    evidence = dict.fromkeys(THRESHOLDS, 0.0)
    for sample, found in readings.parsed:
        ious = overlap(found.answer or [], sample.spans)
        grounds = overlap(found.evidence or [], sample.spans)
        for t in THRESHOLDS:
            if covered := _coverage(ious, t):
                answers[t] += covered
                grounding = _coverage(grounds, t)
                evidence[t] = evidence[t] + grounding if grounding else 0.0
    metrics = readings.counts | _mean_over(answers, len(samples), "F1")
    if two_parts(variant):
        metrics |= _mean_over(evidence, len(samples), "F1_evi")
    return GroupScores(metrics=rounded(metrics), aborted=readings.aborted)


def _coverage(ious: Float32[np.ndarray, "predicted truth"], threshold: float) -> float:
    hit = ious >= np.float32(threshold)
    if not hit.any():
        return 0.0
    recall, precision = float(hit.any(axis=0).mean()), float(hit.any(axis=1).mean())
    return 2 * precision * recall / (precision + recall)


def _mean_over(sums: dict[float, float], count: int, name: str) -> Metrics:
    shares = {f"{name}@{t}": value / count for t, value in sums.items()}
    return shares | {name: sum(shares.values()) / len(shares)}


def score_summary(samples: Sequence[EtSample], variant: Variant) -> GroupScores:
    """evs: F1 of whole seconds, over answers that could be read only.

    `new` and `looser` score the union of answer and evidence, under both names.
    """
    readings = read_all(samples, lambda sample: _summary(sample, variant))
    values = [_seconds_f1(found.answer or [], sample.spans) for sample, found in readings.parsed]
    metrics = readings.counts | {"F1": sum(values) / len(values) if values else 0.0}
    if two_parts(variant):
        metrics["F1_evi"] = metrics["F1"]
    return GroupScores(metrics=rounded(metrics), aborted=readings.aborted)


def _summary(sample: EtSample, variant: Variant) -> Grounded | None:
    found = read_spans(sample, variant)
    if found is None:
        return None
    chosen = list(found.answer or [])
    if two_parts(variant):
        chosen = _without_infinite(chosen) + _without_infinite(list(found.evidence or []))
    if not all(math.isfinite(bound) for span in chosen for bound in span):
        raise ScriptAborts("cannot convert float infinity to integer")
    return Grounded(answer=chosen, evidence=None)


def _without_infinite(found: list[Span]) -> list[Span]:
    """Drops spans without end; the one after a dropped one is not looked at, as published."""
    place = 0
    while place < len(found):
        if math.isinf(found[place][1]):
            del found[place]
        place += 1
    return found


def _seconds_f1(predicted: Sequence[Span], truth: Sequence[Span]) -> float:
    a, b = _time_line(predicted), _time_line(truth)
    both = int(np.sum(a * b))
    if both == 0:
        return 0.0
    precision, recall = both / int(np.sum(a)), both / int(np.sum(b))
    return 2 * precision * recall / (precision + recall)


def _time_line(chosen: Sequence[Span]) -> Int64[np.ndarray, "seconds"]:
    line = np.zeros(_SECONDS, np.int64)
    for start, end in chosen:
        line[max(0, round(start)) : max(0, round(end))] = 1
    return line


def score_highlight(samples: Sequence[EtSample], variant: Variant) -> GroupScores:
    """vhd: whether the first number (`new`, `looser`: the middle of the first span) is in a truth.

    Returns Total, Failed and F1, which is the share of hits.
    """
    readings = read_all(samples, lambda sample: _instants(sample, variant))
    hits = [_inside(found.answer, sample) for sample, found in readings.parsed]
    metrics = readings.counts | {"F1": sum(hits) / len(samples)}
    if two_parts(variant):
        hits = [_inside(found.evidence, sample) for sample, found in readings.parsed]
        metrics["F1_evi"] = sum(hits) / len(samples)
    return GroupScores(metrics=rounded(metrics), aborted=readings.aborted)


def _instants(sample: EtSample, variant: Variant) -> Grounded | None:
    """The first span stands for its middle; a single instant is a span without length."""
    if not two_parts(variant):
        time = point(answer_of(sample))
        return None if time is None else Grounded(answer=[(time, time)], evidence=None)
    parts = answer_of(sample).split(DELIMITER)
    if len(parts) < 2:
        return None
    evidence, answer = spans(parts[0]), spans(parts[-1])
    return None if answer is None else Grounded(answer=answer, evidence=evidence or answer)


def _inside(found: list[Span] | None, sample: EtSample) -> bool:
    start, end = (found or [])[0]
    middle = (start + end) / 2
    return any(first <= middle <= last for first, last in sample.spans)
