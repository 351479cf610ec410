"""Rewards of whole answers, by the names that `GrpoConfig.reward` has."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from tgvlm_jax.grounding import spans as span_lib
from tgvlm_jax.rewards import videossr
from tgvlm_jax.types import Sample

Reward = Callable[[str, Float64[np.ndarray, "e 2"], Sample], float]
"""Of an answer's text, its intervals in seconds, and what was asked."""


def task(sample: Sample) -> str:
    """The pretext task that a sample is of; its kind is "task/kind"."""
    return sample.kind.partition("/")[0]


def smooth(text: str, spans: Float64[np.ndarray, "e 2"], sample: Sample) -> float:
    """Partial credit in the pretext task of the sample (VideoSSR 3)."""
    return videossr.TASKS[task(sample)](text, sample.answer)["smooth"]


def strict(text: str, spans: Float64[np.ndarray, "e 2"], sample: Sample) -> float:
    """1 for the very answer of the pretext task, else 0."""
    return videossr.TASKS[task(sample)](text, sample.answer)["strict"]


def grounding(text: str, spans: Float64[np.ndarray, "e 2"], sample: Sample) -> float:
    """Overlap (IoU) of the evidence with the truth."""
    return span_lib.union_iou(spans, sample.spans)


def worded_grounding(text: str, spans: Float64[np.ndarray, "e 2"], sample: Sample) -> float:
    """The same where the answer has the very words of the truth, else 0: words cannot be shed."""
    return grounding(text, spans, sample) if text.strip() == sample.answer.strip() else 0.0


FUNCTIONS: dict[str, Reward] = {
    "videossr": smooth,
    "videossr_strict": strict,
    "grounding": grounding,
    "worded_grounding": worded_grounding,
}
