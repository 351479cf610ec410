"""YouCook2 dense captioning as TimeChat and D2VLM score it: F1, CIDEr, METEOR and SODA_c.

    truth = read_youcook2("val.caption_coco_format.json").records
    with CaptionMetrics() as metrics:
        print(score_youcook2(truth, submission, metrics=metrics).table().text())

The scripts' quirks are kept: SODA_c swaps prediction and reference in METEOR and, with more than
ten predictions, pairs overlaps and METEOR scores in different orders; one video without predictions
shifts all later pairs of the paragraph metrics.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from tgvlm_jax.evaluation.captioning import CaptionMetrics, missing
from tgvlm_jax.evaluation.etbench_answers import DELIMITER, ScriptAborts, grounded_events
from tgvlm_jax.evaluation.etbench_captioning import FILLER, Pair, capped_overlap
from tgvlm_jax.evaluation.records import Fields, Loaded, Span, read_json, read_records
from tgvlm_jax.text.tables import Table
from tgvlm_jax.types import InputError

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caption:
    """One event in words; `span` in seconds."""

    span: Span
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseVideo:
    """A video with its true events. `duration` in seconds."""

    video: str
    duration: float
    events: tuple[Caption, ...]


Submission = Mapping[str, Sequence[Caption]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class YoucookResult:
    """Scores, fractions but for CIDEr, which goes to 10.

    Attributes:
        videos: metrics of each video, by the scripts' names (SODA_c is their SODA_c_2).
        mean: over all true videos, those without predictions count 0. paragraph: Para_CIDER and
            Para_METEOR. captions: whether captions were compared; else there is F1 alone.
    """

    videos: Mapping[str, Mapping[str, float]]
    mean: Mapping[str, float]
    paragraph: Mapping[str, float]
    captions: bool

    def table(self) -> Table:
        """One row a metric, times 100 as the scripts print it."""
        figures = {**self.mean, **self.paragraph}
        rows = tuple((name, 100 * value) for name, value in figures.items())
        note = "" if self.captions else f" (captions not scored: {missing() or 'not asked for'})"
        columns = ("metric", "x100")
        return Table(title=f"YouCook2{note}", columns=columns, rows=rows, decimals=1)

    def to_json(self) -> dict[str, Any]:
        """Every figure."""
        return dataclasses.asdict(self)


def read_youcook2(path: str | os.PathLike[str]) -> Loaded[DenseVideo]:
    """Reads TimeIT's `val.caption_coco_format.json`; problems of records are in the result.

    Raises:
        InputError: the file cannot be read.
    """

    def read(fields: Fields) -> DenseVideo:
        if "pure_cap" in fields.row:
            texts = [f"{text}." for text in fields.word("pure_cap").split(". ")]
        else:
            texts = [text for text in fields.word("caption").split(".") if len(text) > 5]
        spans = fields.spans("segments")
        if len(texts) != len(spans):
            raise fields.problem(f"{len(texts)} captions for {len(spans)} 'segments'")
        events = zip(spans, texts, strict=True)
        return DenseVideo(
            video=fields.word("image_id"),
            duration=fields.number("duration"),
            events=tuple(Caption(span=span, text=text) for span, text in events),
        )

    rows = Fields(read_json(path), where=str(path)).items("annotations")
    return read_records(path, rows, read=read)


def d2vlm_captions(answer: str) -> list[Caption]:
    """Events of an answer as D2VLM's converter reads them; none without a delimiter.

    Raises:
        ScriptAborts: there is a delimiter but no event, at which the script stops.
    """
    found = grounded_events(answer)
    if found is None:
        if DELIMITER in answer.lower():
            raise ScriptAborts("not enough values to unpack (expected 3, got 2)")
        return []
    pairs = zip(found.spans, found.captions, strict=True)
    return [Caption(span=span, text=text) for span, text in pairs]


def score_youcook2(
    truth: Sequence[DenseVideo], submission: Submission, *, metrics: CaptionMetrics | None
) -> YoucookResult:
    """Scores a submission over all videos of `truth`.

    Args:
        truth: true events. submission: predictions by video. metrics: of captions; without them
            precision, recall and F1 alone are scored.

    Raises:
        InputError: there are no true videos.
    """
    if not truth:
        raise InputError("no videos of YouCook2 to score")
    given = {video.video: tuple(submission.get(video.video, ())) for video in truth}
    if metrics:
        events = [event for video in truth for event in (*video.events, *given[video.video])]
        metrics.learn([FILLER, *(event.text for event in events)])
    videos = {video.video: _video(video, given[video.video], metrics) for video in truth}
    names = next(iter(videos.values()))
    return YoucookResult(
        videos=videos,
        mean={name: float(np.mean([one[name] for one in videos.values()])) for name in names},
        paragraph=_paragraph(truth, submission, metrics) if metrics else {},
        captions=metrics is not None,
    )


def _video(
    video: DenseVideo, predicted: Sequence[Caption], metrics: CaptionMetrics | None
) -> dict[str, float]:
    overlaps = np.array(
        [
            [capped_overlap(_sorted(event.span), _sorted(true.span)) for true in video.events]
            for event in predicted
        ]
    ).reshape(len(predicted), len(video.events))
    found = _captions(video, predicted, overlaps, metrics) if metrics else {}
    hits = [overlaps > t for t in THRESHOLDS]
    precisions = [float(np.sum(hit.any(axis=1))) / max(len(predicted), 1) for hit in hits]
    recalls = [float(np.mean(hit.any(axis=0))) for hit in hits]
    for t, precision, recall in zip(THRESHOLDS, precisions, recalls, strict=True):
        found |= {f"Precision@{t}": precision, f"Recall@{t}": recall}
    precision, recall = float(np.mean(precisions)), float(np.mean(recalls))
    both = precision + recall
    found |= {"Precision_Mean": precision, "Recall_Mean": recall}
    found["F1_Score"] = 2 * precision * recall / both if both else 0.0
    if metrics:
        found["SODA_c"] = soda(video.events, predicted, overlaps=overlaps, metrics=metrics)
    return found | {"n_preds": float(len(predicted))}


def _sorted(span: Span) -> Span:
    return min(span), max(span)


def _captions(
    video: DenseVideo,
    predicted: Sequence[Caption],
    overlaps: Float64[np.ndarray, "predicted truth"],
    metrics: CaptionMetrics,
) -> dict[str, float]:
    """CIDEr and METEOR of overlapping captions, means over thresholds."""
    if not predicted:
        return {"CIDER": 0.0, "METEOR": 0.0}
    cider, meteor = [], []
    for threshold in THRESHOLDS:
        pairs: list[Pair] = []
        for event, row in zip(predicted, overlaps, strict=True):
            chosen = zip(video.events, row, strict=True)
            texts = [true.text for true, overlap in chosen if overlap >= threshold]
            pairs += [(event.text, text) for text in texts or [FILLER]]
        tests, references = ([metrics.tokenised(pair[i]) for pair in pairs] for i in (0, 1))
        cider.append(metrics.cider(tests, references).together)
        meteor.append(metrics.meteor(tests, references).together)
    return {"CIDER": float(np.mean(cider)), "METEOR": float(np.mean(meteor))}


def soda(
    events: Sequence[Caption],
    predicted: Sequence[Caption],
    *,
    overlaps: Float64[np.ndarray, "predicted truth"],
    metrics: CaptionMetrics,
) -> float:
    """SODA_c: F of the best alignment in time order, weights IoU x METEOR (Fujita et al., 2020)."""
    if not predicted:
        return 0.0
    tests = [metrics.tokenised(true.text) for true in events for _ in predicted]
    references = [metrics.tokenised(event.text) for _ in events for event in predicted]
    scores = metrics.meteor(tests, references).texts.reshape(len(events), len(predicted))
    # The script hands predictions to METEOR in the order of their indices as text: 0, 1, 10, 2.
    order = sorted(range(len(predicted)), key=str)
    best = _best_path(overlaps.T * scores[:, order])
    precision, recall = best / len(predicted), best / len(events)
    return 2 * precision * recall / (precision + recall) if best else 0.0


def _best_path(weights: Float64[np.ndarray, "truth predicted"]) -> float:
    rows, columns = weights.shape
    best = np.zeros((rows + 1, columns + 1))
    for i in range(rows):
        for j in range(columns):
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], best[i, j] + weights[i, j])
    return float(best[-1, -1])


def _letters(text: str) -> str:
    return " ".join(re.sub("[^a-z]", " ", text.lower()).split())


def _paragraph(
    truth: Sequence[DenseVideo], given: Submission, metrics: CaptionMetrics
) -> dict[str, float]:
    """Metrics of all captions of a video joined; videos not submitted shift the pairing."""
    references = [" ".join(_letters(event.text) for event in video.events) for video in truth]
    tests = [
        " ".join(_letters(event.text) for event in given[video.video])
        for video in truth
        if video.video in given
    ]
    references = references[: len(tests)]
    if not tests:
        return {"Para_CIDER": 0.0, "Para_METEOR": 0.0}
    return {
        "Para_CIDER": metrics.cider(tests, references).together,
        "Para_METEOR": metrics.meteor(tests, references).together,
    }
