"""What answers score that never look at the video: the floor under every grounding result.

A truth is a set of disjoint spans; those without length fill it up.
"""

import numpy as np
from jaxtyping import Float, Float64

from tgvlm_jax.grounding import spans
from tgvlm_jax.types import InputError


def best_constant_span(
    truths: Float[np.ndarray, "b e 2"], durations: Float[np.ndarray, "b"], *, steps: int = 60
) -> Float64[np.ndarray, "2"]:
    """The one (start, end), in fractions of the duration, with the best mean IoU on `truths`.

    Searched over all pairs of a grid of `steps` equal parts. Chosen on the very truths it is then
    scored on, it bounds every constant answer from above (up to the grid).

    Raises:
        InputError: there are no truths, or a duration is not positive.
    """
    scaled = _fractions(truths, durations)
    grid = np.linspace(0, 1, steps + 1)
    best, best_score = np.array([0.0, 1.0]), -1.0
    for i, start in enumerate(grid[:-1]):
        ends = grid[i + 1 :]
        candidates = np.stack([np.full_like(ends, start), ends], axis=-1)
        scores = spans.cover_iou(candidates, scaled).mean(axis=1)
        if scores.max() > best_score:
            best, best_score = candidates[scores.argmax()], scores.max()
    return best


def constant_ious(
    truths: Float[np.ndarray, "b e 2"],
    durations: Float[np.ndarray, "b"],
    *,
    span: Float[np.ndarray, "2"],
) -> Float[np.ndarray, "b"]:
    """IoU of the answer `span` (fractions of the duration) with every truth."""
    return spans.cover_iou(span[None], _fractions(truths, durations))[0]


def whole_video_ious(
    truths: Float[np.ndarray, "b e 2"], durations: Float[np.ndarray, "b"]
) -> Float[np.ndarray, "b"]:
    """IoU of the answer "all of it" with every truth."""
    return constant_ious(truths, durations, span=np.array([0.0, 1.0]))


def random_ious(
    truths: Float[np.ndarray, "b e 2"], durations: Float[np.ndarray, "b"], *, draws: int = 2048
) -> Float[np.ndarray, "b draws"]:
    """IoU of every truth with spans between two uniform instants; the mean is the expected IoU.

    The instants are an even, deterministic cover of the unit square (a Kronecker sequence), so the
    same truths always give the same baseline, and `recall_at` works on the result as it does on
    answers.
    """
    golden = (np.sqrt(5) - 1) / 2
    index = np.arange(draws)
    instants = np.stack([(index + 0.5) / draws, (index * golden) % 1], axis=-1)
    return spans.cover_iou(np.sort(instants, axis=-1), _fractions(truths, durations)).T


def _fractions(
    truths: Float[np.ndarray, "b e 2"], durations: Float[np.ndarray, "b"]
) -> Float64[np.ndarray, "b e 2"]:
    if len(truths) == 0 or np.any(durations <= 0):
        raise InputError("baselines need at least one truth and positive durations")
    return truths.astype(np.float64) / durations[:, None, None]
