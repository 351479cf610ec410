"""Scores where every event of a film is known: grounding, captions with times, referred events.

Unlike the metrics of the published benchmarks, which have to compare free text, an answer here is
right or wrong: an event counts if it is said in the words of the truth, at the time of the truth.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tgvlm_jax.grounding import spans as span_lib
from tgvlm_jax.types import InputError

_EVIDENCE, _EVIDENCE_END = "<evi>", "</evi>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventAnswer:
    """One answer and the truth.

    Attributes:
        text, truth: raw, with `<evi>` and `</evi>`.
        spans, true_spans: seconds of every `<evi>` of the spoken part.
    """

    text: str
    truth: str
    spans: Float[np.ndarray, "e 2"]
    true_spans: Float[np.ndarray, "e_true 2"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventScores:
    """Scores of answers to one kind of question.

    Attributes:
        mean_iou: of each true event with the one that is paired with it, 0 where there is none.
        f1: events whose times overlap by 0.5 or more, pooled over all answers.
        f1_said: the same where the words agree, too.
        said: share of the answers all of whose words agree, whatever the times.
    """

    mean_iou: float
    f1: float
    f1_said: float
    said: float
    count: int


def score(answers: Sequence[EventAnswer], *, threshold: float = 0.5) -> EventScores:
    """Scores the answers to one kind of question.

    Raises:
        InputError: there are none.
    """
    if not answers:
        raise InputError("no answers to score")
    overlap, hits, said_hits, predicted, true = 0.0, 0, 0, 0, 0
    for one in answers:
        found = span_lib.match(one.spans, one.true_spans)
        ours, theirs = captions(one.text), captions(one.truth)
        overlap += float(found.ious.sum())
        predicted, true = predicted + len(one.spans), true + len(one.true_spans)
        for i, j, iou in zip(found.predictions, found.truths, found.ious, strict=True):
            hits += int(iou >= threshold)
            said_hits += int(iou >= threshold and i < len(ours) and ours[i] == theirs[j])
    events = max(1, predicted + true)
    return EventScores(
        mean_iou=overlap / max(1, true),
        f1=2 * hits / events,
        f1_said=2 * said_hits / events,
        said=float(np.mean([_spoken(one.text) == _spoken(one.truth) for one in answers])),
        count=len(answers),
    )


def captions(text: str) -> list[str]:
    """What is said of each event: what follows its `<evi>`, or what precedes it if nothing does."""
    head, *tails = _spoken(text).split(_EVIDENCE)
    words = [tail.strip(" .") for tail in tails]
    return words if any(words) else [head.strip(" .")] * len(words)


def _spoken(text: str) -> str:
    before, end, after = text.partition(_EVIDENCE_END)
    return " ".join((after if end else before).split())
