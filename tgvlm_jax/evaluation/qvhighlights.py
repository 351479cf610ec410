"""QVHighlights: moment retrieval (R1, mAP) and highlight detection (mAP, Hit@1).

    result = score_qvhighlights(read_truth("val.jsonl").records, read_submission(path).records)
    print(result.table().text())

As moment_detr's `standalone_eval` computes them (arXiv 2107.09609): percent with two decimals.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from tgvlm_jax.evaluation.records import Fields, Loaded, Span, read_json_lines, read_records
from tgvlm_jax.text.tables import Table
from tgvlm_jax.types import InputError

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
CLIP = 2.0  # seconds
_WINDOWS = 10  # submitted windows that count
_RATERS = 3
# Lengths of the true windows, seconds: more than the first, at most the second.
_LENGTHS = {"short": (0.0, 10.0), "middle": (10.0, 30.0), "long": (30.0, 150.0)}
_RATINGS = {"Fair": 2, "Good": 3, "VeryGood": 4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HighlightQuery:
    """One query with its truth.

    Attributes:
        windows: true (start, end) in seconds. ratings: of every clip by three people, 0 to 4, 0
            for clips outside the windows.
    """

    query_id: int
    query: str
    video: str
    duration: float
    windows: tuple[Span, ...]
    ratings: Int64[np.ndarray, "clips 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HighlightAnswer:
    """What is submitted: windows with scores, and one saliency for each clip of 2 seconds."""

    query_id: int
    windows: Float64[np.ndarray, "windows 3"]
    saliency: Float64[np.ndarray, "clips"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MomentScores:
    """Percent by IoU threshold; `mean_ap` is the mean over thresholds, rounded after it."""

    ap: Mapping[float, float]
    mean_ap: float
    recall: Mapping[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HighlightScores:
    """Percent: mAP over raters and queries, and how often the best clip is a highlight."""

    mean_ap: float
    hit: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class QvResult:
    """All scores.

    Attributes:
        moments: by length of the true windows, `full` for all. highlights: by least rating, Fair,
            Good, VeryGood. count: queries that were scored.
    """

    moments: Mapping[str, MomentScores]
    highlights: Mapping[str, HighlightScores]
    count: int

    def brief(self) -> dict[str, float]:
        """The figures that papers report, by their published names."""
        full = self.moments["full"]
        found = {f"MR-full-R1@{t}": full.recall[t] for t in (0.5, 0.7)}
        found |= {"MR-full-mAP": full.mean_ap}
        found |= {f"MR-full-mAP@{t}": full.ap[t] for t in (0.5, 0.75)}
        found |= {f"MR-{name}-mAP": self.moments[name].mean_ap for name in _LENGTHS}
        for name, scores in self.highlights.items():
            found |= {f"HL-min-{name}-mAP": scores.mean_ap, f"HL-min-{name}-Hit1": scores.hit}
        return found

    def table(self) -> Table:
        """One row a figure."""
        rows = tuple(self.brief().items())
        return Table(title="QVHighlights", columns=("metric", "percent"), rows=rows, decimals=2)

    def to_json(self) -> dict[str, Any]:
        """Every figure."""
        return dataclasses.asdict(self) | {"brief": self.brief()}


def read_truth(path: str | os.PathLike[str]) -> Loaded[HighlightQuery]:
    """Reads annotations; problems of single records are in the result.

    Raises:
        InputError: the file cannot be read.
    """

    def read(fields: Fields) -> HighlightQuery:
        duration = fields.number("duration")
        ratings = np.zeros((int(duration / CLIP), _RATERS), np.int64)
        clips, given = fields.items("relevant_clip_ids"), fields.items("saliency_scores")
        if len(clips) != len(given):
            raise fields.problem("'relevant_clip_ids' and 'saliency_scores' differ in length")
        for clip, three in zip(clips, given, strict=True):
            if not isinstance(clip, int) or not 0 <= clip < len(ratings):
                raise fields.problem(f"'relevant_clip_ids' must be in 0..{len(ratings) - 1}")
            if not isinstance(three, list) or len(three) != _RATERS:
                raise fields.problem("'saliency_scores' must hold three ratings a clip")
            ratings[clip] = three
        return HighlightQuery(
            query_id=fields.integer("qid"),
            query=fields.word("query"),
            video=fields.word("vid"),
            duration=duration,
            windows=tuple(fields.spans("relevant_windows")),
            ratings=ratings,
        )

    return read_records(path, read_json_lines(path), read=read)


def read_submission(path: str | os.PathLike[str]) -> Loaded[HighlightAnswer]:
    """Reads a submission; raises what `read_truth` raises."""

    def read(fields: Fields) -> HighlightAnswer:
        try:
            windows = np.array(fields.items("pred_relevant_windows"), np.float64).reshape(-1, 3)
            saliency = np.array(fields.items("pred_saliency_scores"), np.float64).reshape(-1)
        except (ValueError, TypeError) as error:
            raise fields.problem("windows must be [start, end, score], saliency numbers") from error
        return HighlightAnswer(query_id=fields.integer("qid"), windows=windows, saliency=saliency)

    return read_records(path, read_json_lines(path), read=read)


def score_qvhighlights(
    queries: Sequence[HighlightQuery],
    answers: Sequence[HighlightAnswer],
    *,
    shared_only: bool = False,
) -> QvResult:
    """Scores a submission.

    Args:
        queries: the truth. answers: one for each query, in any order. shared_only: score what both
            have, instead of refusing a submission that is not complete.

    Raises:
        InputError: queries and answers are not the same, or there are none.
    """
    given = {answer.query_id: answer for answer in answers}
    known = {query.query_id for query in queries}
    if not shared_only and known != set(given):
        odd = sorted(known ^ set(given))
        raise InputError(
            f"the submission and the truth differ in {len(odd)} queries, first {odd[0]}; score "
            "what they share with shared_only"
        )
    pairs = [(query, given[query.query_id]) for query in queries if query.query_id in given]
    if not pairs:
        raise InputError("the submission and the truth share no query")
    moments = {"full": _moments(pairs)}
    for name, (least, most) in _LENGTHS.items():
        moments[name] = _moments([
            (dataclasses.replace(query, windows=kept), answer)
            for query, answer in pairs
            if (kept := tuple(w for w in query.windows if least < w[1] - w[0] <= most))
        ])  # fmt: skip
    return QvResult(
        moments=moments,
        highlights={name: _highlights(pairs, least) for name, least in _RATINGS.items()},
        count=len(pairs),
    )


def _moments(pairs: Sequence[tuple[HighlightQuery, HighlightAnswer]]) -> MomentScores:
    ious = np.array([top_iou(query, answer) for query, answer in pairs])
    aps = [average_precision(query, answer) for query, answer in pairs if len(answer.windows)]
    mean = np.mean(aps, axis=0) if aps else np.zeros(len(THRESHOLDS))
    hits = [float(np.mean(ious >= t)) if pairs else 0.0 for t in THRESHOLDS]
    return MomentScores(
        ap=dict(zip(THRESHOLDS, map(_percent, mean), strict=True)),
        mean_ap=_percent(float(np.mean(mean))),
        recall=dict(zip(THRESHOLDS, map(_percent, hits), strict=True)),
    )


def _percent(share: float) -> float:
    return float(f"{100 * share:.2f}")


def _ious(window: Float64[np.ndarray, "3"], truth: Sequence[Span]) -> Float64[np.ndarray, "truth"]:
    spans = np.array(truth, np.float64)
    inside = np.minimum(window[1], spans[:, 1]) - np.maximum(window[0], spans[:, 0])
    inside = np.maximum(inside, 0)
    return inside / ((window[1] - window[0]) + (spans[:, 1] - spans[:, 0]) - inside)


def top_iou(query: HighlightQuery, answer: HighlightAnswer) -> float:
    """IoU of the first submitted window with the true window it overlaps most; 0 without any.

    The script divides by the hull of the two here.
    """
    if not len(answer.windows):
        return 0.0
    first = answer.windows[0]
    start, end = query.windows[int(np.argmax(_ious(first, query.windows)))]
    inside = max(0.0, min(first[1], end) - max(first[0], start))
    return float(inside / (max(first[1], end) - min(first[0], start)))


def average_precision(
    query: HighlightQuery, answer: HighlightAnswer
) -> Float64[np.ndarray, "thresholds"]:
    """Interpolated AP at each threshold; a truth is taken by one window, the most certain first."""
    windows = answer.windows[:_WINDOWS]
    windows = windows[np.argsort(-windows[:, 2], kind="stable")]
    right = np.zeros((len(THRESHOLDS), len(windows)), bool)
    taken = np.zeros((len(THRESHOLDS), len(query.windows)), bool)
    for place, window in enumerate(windows):
        ious = _ious(window, query.windows)
        for level, threshold in enumerate(THRESHOLDS):
            free = [j for j in ious.argsort()[::-1] if not taken[level, j]]
            if free and ious[free[0]] >= threshold:
                right[level, place] = taken[level, free[0]] = True
    return np.array([_interpolated(row, len(query.windows)) for row in right])


def _interpolated(right: Bool[np.ndarray, "windows"], truths: int) -> float:
    found = np.cumsum(right)
    precision = np.concatenate([[0], found / np.arange(1, len(right) + 1), [0]])
    recall = np.concatenate([[0], found / truths, [1]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(np.diff(recall)) + 1
    return float(np.sum((recall[steps] - recall[steps - 1]) * precision[steps]))


def _highlights(
    pairs: Sequence[tuple[HighlightQuery, HighlightAnswer]], least: int
) -> HighlightScores:
    hits, aps = [], []
    for query, answer in pairs:
        positive = query.ratings >= least
        best = int(np.argmax(answer.saliency)) if len(answer.saliency) else len(positive)
        hits.append(best < len(positive) and bool(positive[best].any()))
        scores = np.zeros(len(positive))
        shown = answer.saliency[: len(positive)]
        scores[: len(shown)] = shown
        aps += [highlight_precision(positive[:, rater], scores) for rater in range(_RATERS)]
    return HighlightScores(
        mean_ap=_percent(float(np.mean(aps))), hit=_percent(float(np.mean(hits)))
    )


def highlight_precision(
    positive: Bool[np.ndarray, "clips"], scores: Float[np.ndarray, "clips"]
) -> float:
    """AP of one rater: mean of the best precision wherever recall changes.

    Recall is float32, as published. Without positives 0, with nothing else 1.
    """
    if not positive.any() or positive.all():
        return float(positive.any())
    order = np.argsort(-scores, kind="stable")
    last_of_score = np.append(np.diff(scores[order]) != 0, True)
    found = np.cumsum(positive[order])[last_of_score]
    seen = np.flatnonzero(last_of_score) + 1
    precision = np.append((found / seen)[::-1], 1.0)
    recall = np.append((found / found[-1])[::-1], 0.0).astype(np.float32)
    precision = np.maximum.accumulate(precision)
    return float(np.mean(precision[np.flatnonzero(np.diff(recall))]))
