"""Spans of time: overlap, matching, averages, and the way between frames and seconds.

A span is (start, end) in seconds, half open, stored as a float array [..., 2]. A frame range is
(first, last), both inclusive, stored as an integer array [..., 2]. Annotations keep the two apart:
functions on spans take floats only. Host code in NumPy; `targets` holds the parts that losses run
on a device.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float64, Int, Int64
from scipy import optimize

from tgvlm_jax.types import InputError


def iou(a: Float[np.ndarray, "... 2"], b: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "..."]:
    """Intersection over union of aligned spans (leading dims broadcast).

    Zero where the union has no length: a span without length covers nothing.
    """
    start = np.maximum(a[..., 0], b[..., 0])
    end = np.minimum(a[..., 1], b[..., 1])
    both = np.maximum(end - start, 0)
    either = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - both
    return np.asarray(both / np.where(either > 0, either, 1))


def pairwise_iou(
    a: Float[np.ndarray, "rows 2"], b: Float[np.ndarray, "columns 2"]
) -> Float[np.ndarray, "rows columns"]:
    """Intersection over union of every span of `a` with every span of `b`."""
    return iou(a[:, None], b[None, :])


def cover_iou(
    a: Float[np.ndarray, "rows 2"], b: Float[np.ndarray, "columns e 2"]
) -> Float[np.ndarray, "rows columns"]:
    """Intersection over union of every span of `a` with every set of disjoint spans in `b`.

    Spans without length may fill up a set.
    """
    start = np.maximum(a[:, None, None, 0], b[..., 0])
    end = np.minimum(a[:, None, None, 1], b[..., 1])
    both = np.maximum(end - start, 0).sum(axis=-1)
    either = (a[:, 1] - a[:, 0])[:, None] + (b[..., 1] - b[..., 0]).sum(axis=-1) - both
    return np.asarray(both / np.where(either > 0, either, 1))


def merge(spans: Float[np.ndarray, "spans 2"]) -> Float[np.ndarray, "merged 2"]:
    """The same stretch of time as sorted spans that neither overlap nor touch."""
    ordered = spans[np.argsort(spans[:, 0], kind="stable")]
    merged: list[np.ndarray] = []
    for span in ordered:
        if merged and span[0] <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], span[1])
        else:
            merged.append(span.copy())
    return np.stack(merged) if merged else ordered


def union_iou(a: Float[np.ndarray, "rows 2"], b: Float[np.ndarray, "columns 2"]) -> float:
    """Intersection over union of the time covered by all of `a` and by all of `b`."""
    a, b = merge(a), merge(b)
    start = np.maximum(a[:, None, 0], b[None, :, 0])
    end = np.minimum(a[:, None, 1], b[None, :, 1])
    both = np.maximum(end - start, 0).sum()
    either = np.sum(a[:, 1] - a[:, 0]) + np.sum(b[:, 1] - b[:, 0]) - both
    return float(both / either) if either > 0 else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matches:
    """Pairs of a prediction and a truth, one to one.

    Attributes:
        predictions, truths: indices of the pairs, aligned, predictions ascending.
        ious: overlap of each pair, all above zero.
    """

    predictions: Int64[np.ndarray, "pairs"]
    truths: Int64[np.ndarray, "pairs"]
    ious: Float[np.ndarray, "pairs"]


def match(
    predictions: Float[np.ndarray, "predictions 2"], truths: Float[np.ndarray, "truths 2"]
) -> Matches:
    """The one-to-one pairing with the largest total IoU (Hungarian, exact); no pair at IoU 0."""
    overlap = pairwise_iou(predictions, truths)
    rows, columns = optimize.linear_sum_assignment(overlap, maximize=True)
    found = overlap[rows, columns]
    keep = found > 0
    return Matches(predictions=rows[keep], truths=columns[keep], ious=found[keep])


def mean_iou(ious: Float[np.ndarray, "..."]) -> float:
    """Mean over all entries; raises InputError when there are none."""
    if ious.size == 0:
        raise InputError("no spans to average: the evaluation set is empty")
    return float(np.mean(ious))


def recall_at(ious: Float[np.ndarray, "..."], threshold: float) -> float:
    """Share of entries with IoU >= threshold; raises InputError when there are none."""
    return mean_iou((ious >= threshold).astype(np.float64))


def frames_to_seconds(
    frames: Int[np.ndarray, "... 2"], seconds: Float[np.ndarray, "f"], *, duration: float
) -> Float64[np.ndarray, "... 2"]:
    """Seconds that inclusive frame ranges cover.

    A frame is on screen from its own second to the next frame's, the last one to the end of the
    video, so (first, last) covers [seconds[first], seconds[last + 1]) with `duration` as the last
    bound.

    Args:
        frames: (first, last), 0 <= first <= last < f.
        seconds: when each sampled frame is shown, strictly increasing.
        duration: seconds, after the last frame.

    Raises:
        InputError: a range is reversed or outside the video, or the times do not increase.
    """
    bounds = _bounds(seconds, duration)
    _check_ranges(frames, seconds.size)
    return np.stack([bounds[frames[..., 0]], bounds[frames[..., 1] + 1]], axis=-1)


def seconds_to_frames(
    spans: Float[np.ndarray, "... 2"], seconds: Float[np.ndarray, "f"], *, duration: float
) -> Int64[np.ndarray, "... 2"]:
    """Inclusive frame ranges whose bounds are nearest to those of the spans.

    The inverse of `frames_to_seconds`, and stable when times were rounded for text. A span too
    short to hold a frame gets the one on screen at its middle; a span outside the video gets the
    first or the last frame.

    Args:
        spans: (start, end) in seconds, start <= end.
        seconds: when each sampled frame is shown, strictly increasing.
        duration: seconds, after the last frame.

    Raises:
        InputError: a span is reversed or not finite, or the times do not increase.
    """
    bounds = _bounds(seconds, duration)
    _check_spans(spans)
    between = (bounds[1:] + bounds[:-1]) / 2
    first = np.searchsorted(between, spans[..., 0])
    last = np.searchsorted(between, spans[..., 1]) - 1
    middle = np.searchsorted(bounds, spans.mean(axis=-1), side="right") - 1
    middle = np.clip(middle, 0, seconds.size - 1)
    empty = first > last
    return np.stack([np.where(empty, middle, first), np.where(empty, middle, last)], axis=-1)


def seconds_to_points(
    spans: Float[np.ndarray, "... 2"], seconds: Float[np.ndarray, "f"], *, duration: float
) -> Float64[np.ndarray, "... 2"]:
    """Where bounds lie on the frames' own axis, in fractions of a frame (D2VLM 1.6, 11.1).

    There second t *is* the frame at t, and a range covers the frames at both of its ends. Before
    the first frame and beyond the last one the axis goes on evenly.

    Args:
        spans: (start, end) in seconds.
        seconds: when each sampled frame is shown, strictly increasing.
        duration: seconds, after the last frame.

    Raises:
        InputError: a span is reversed or not finite, or the times do not increase.
    """
    bounds = _bounds(seconds, duration)
    _check_spans(spans)
    step = (bounds[-2] - bounds[0]) / (seconds.size - 1) if seconds.size > 1 else np.diff(bounds)[0]
    inside = np.interp(spans, bounds[:-1], np.arange(seconds.size, dtype=np.float64))
    before, beyond = np.minimum(spans - bounds[0], 0), np.maximum(spans - bounds[-2], 0)
    return np.asarray(inside + (before + beyond) / step, np.float64)


def points_to_seconds(
    frames: Int[np.ndarray, "... 2"], seconds: Float[np.ndarray, "f"]
) -> Float64[np.ndarray, "... 2"]:
    """Seconds at which the first and the last frame of each range are shown (D2VLM 1.7).

    Raises:
        InputError: a range is reversed or outside the video.
    """
    _check_ranges(frames, seconds.size)
    return seconds.astype(np.float64)[frames]


def _check_ranges(frames: Int[np.ndarray, "... 2"], count: int) -> None:
    first, last = frames[..., 0], frames[..., 1]
    if np.any((first < 0) | (first > last) | (last >= count)):
        raise InputError(
            f"frame ranges must have 0 <= first <= last < {count}, got {frames.tolist()}"
        )


def _check_spans(spans: Float[np.ndarray, "... 2"]) -> None:
    if not np.all(np.isfinite(spans)) or np.any(spans[..., 0] > spans[..., 1]):
        raise InputError(f"spans must be finite with start <= end, got {spans.tolist()}")


def _bounds(seconds: Float[np.ndarray, "f"], duration: float) -> Float64[np.ndarray, "f+1"]:
    bounds = np.append(seconds.astype(np.float64), duration)
    if seconds.size == 0 or not np.all(np.diff(bounds) > 0):
        raise InputError(
            f"frame times must increase strictly up to the duration, got {seconds.size} frames "
            f"and {duration} s; sample the video again"
        )
    return bounds
