"""Scores of temporal grounding: mean IoU and recall, by kind, beside what blind answers score."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from tgvlm_jax.grounding import baselines, spans

THRESHOLDS = (0.3, 0.5, 0.7)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one set of answers.

    Attributes:
        mean_iou: mean over all questions, unanswered ones count 0.
        recall: share of questions with IoU >= threshold, by threshold.
        count: number of questions.
    """

    mean_iou: float
    recall: Mapping[float, float]
    count: int

    def to_json(self) -> dict[str, float]:
        """One flat record."""
        recalls = {f"recall@{threshold}": value for threshold, value in self.recall.items()}
        return {"mean_iou": self.mean_iou, **recalls, "count": self.count}


def score(ious: Float[np.ndarray, "..."]) -> Scores:
    """Scores of the IoUs of one answer a question (or of many: blind draws)."""
    recall = {threshold: spans.recall_at(ious, threshold) for threshold in THRESHOLDS}
    return Scores(mean_iou=spans.mean_iou(ious), recall=recall, count=len(ious))


def score_kinds(ious: Float[np.ndarray, "b"], kinds: Sequence[str]) -> dict[str, Scores]:
    """Scores of each kind of question, the easiest first."""
    named = np.asarray(kinds)
    scored = {str(kind): score(ious[named == kind]) for kind in np.unique(named)}
    return dict(sorted(scored.items(), key=lambda item: -item[1].mean_iou))


def blind(
    truths: Float[np.ndarray, "b e 2"], durations: Float[np.ndarray, "b"]
) -> dict[str, Scores]:
    """What answers score that never look at the video; a truth is a set of disjoint spans.

    The constant interval is the best there is for these very questions, chosen with the truth at
    hand: an upper bound of what a model can reach by always giving the same answer.
    """
    span = baselines.best_constant_span(truths, durations)
    return {
        "best constant interval": score(baselines.constant_ious(truths, durations, span=span)),
        "whole clip": score(baselines.whole_video_ious(truths, durations)),
        "random interval": score(baselines.random_ious(truths, durations)),
    }
