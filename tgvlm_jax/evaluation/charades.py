"""Charades-STA: one span for each sentence about a video, as five systems score it.

    queries = read_charades("charades_sta_test.txt").records
    print(score_charades(queries, [spans_of_each_answer, ...]).table().text())

The papers' R1@t is the share of all queries. The published scripts differ from it and from each
other in what they do with answers that they cannot read, so each has its own function here:
`score_d2vlm` leaves them out of the denominator, `score_timechat` and `score_etchat` count them as
misses, `score_videossr` leaves them out of accuracy and mean alike.
"""

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from tgvlm_jax.evaluation.etbench_answers import ScriptAborts, grounded
from tgvlm_jax.evaluation.etbench_grounding import overlap
from tgvlm_jax.evaluation.records import (
    Fields,
    Loaded,
    Span,
    read_json,
    read_records,
    read_text,
)
from tgvlm_jax.text.tables import Table
from tgvlm_jax.types import InputError

THRESHOLDS = (0.3, 0.5, 0.7)

_LINE = re.compile(r"(\S+) (\d+(?:\.\d+)?) (\d+(?:\.\d+)?)##(.*\S)\s*")
_RANGE = re.compile(r"(\d+\.?\d*)\s*-\s*(\d+\.?\d*)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CharadesQuery:
    """A sentence and when it happens.

    Attributes:
        video: file name without folder and ending. span: seconds.
    """

    video: str
    sentence: str
    span: Span


@dataclasses.dataclass(frozen=True, kw_only=True)
class CharadesAnswer:
    """What a model said about query number `index`, as D2VLM stores it (an E.T. Bench record).

    Attributes:
        indexed: the record has a field `index` too, on which D2VLM's converter depends.
    """

    index: int
    video: str
    question: str
    answer: str
    indexed: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class CharadesScores:
    """Scores of one protocol.

    Attributes:
        recall: percent of `count` with IoU >= threshold. mean_iou: fraction; None where the
            protocol has none. count: queries in the denominator. failed: answers without a span.
    """

    protocol: str
    recall: Mapping[float, float]
    mean_iou: float | None
    count: int
    failed: int

    def table(self) -> Table:
        """One row."""
        names = [f"R1@{threshold}" for threshold in self.recall]
        row = (*self.recall.values(), self.mean_iou, self.count, self.failed)
        columns = ("protocol", *names, "mIoU", "queries", "failed")
        return Table(title="Charades-STA", columns=columns, rows=((self.protocol, *row),))

    def to_json(self) -> dict[str, Any]:
        """Every figure."""
        return self.table().to_json()[0]


def read_charades(path: str | os.PathLike[str]) -> Loaded[CharadesQuery]:
    """Reads the annotations: `charades_sta_test.txt` or TimeIT's `test.caption_coco_format.json`.

    Raises:
        InputError: the file cannot be read. What is wrong with single records is in the result.
    """
    if not str(path).endswith(".json"):
        lines = [{"line": line} for line in read_text(path).splitlines() if line.strip()]
        return read_records(path, lines, read=_from_line)
    rows = Fields(read_json(path), where=str(path)).items("annotations")
    return read_records(path, rows, read=_from_caption)


def _from_line(fields: Fields) -> CharadesQuery:
    found = _LINE.fullmatch(fields.text("line"))
    if not found:
        raise fields.problem('must read "VIDEO START END##sentence."')
    span = Fields({"span": [float(found[2]), float(found[3])]}, where=fields.where).span("span")
    return CharadesQuery(video=found[1], sentence=found[4], span=span)


def _from_caption(fields: Fields) -> CharadesQuery:
    return CharadesQuery(
        video=PurePosixPath(fields.word("image_id")).stem,
        sentence=fields.word("caption"),
        span=fields.span("timestamp"),
    )


def read_charades_answers(path: str | os.PathLike[str]) -> Loaded[CharadesAnswer]:
    """Reads D2VLM's predictions; raises what `read_charades` raises."""

    def read(fields: Fields) -> CharadesAnswer:
        return CharadesAnswer(
            index=fields.integer("idx"),
            video=fields.word("video"),
            question=fields.text("q"),
            answer=fields.text("a"),
            indexed="index" in fields.row,
        )

    return read_records(path, read_json(path), read=read)


def score_charades(
    queries: Sequence[CharadesQuery], predictions: Sequence[Span | None]
) -> CharadesScores:
    """The papers' R1@t and mIoU: over all queries, no span is a miss.

    Raises:
        InputError: not one prediction for each query, or none at all.
    """
    _same_number(len(queries), len(predictions))
    ious = [_hull_iou(p, q.span) if p else 0.0 for q, p in zip(queries, predictions, strict=True)]
    failed = sum(prediction is None for prediction in predictions)
    return _scores("all queries", ious, count=len(ious), failed=failed)


def _same_number(queries: int, answers: int) -> None:
    if queries != answers or not queries:
        raise InputError(f"Charades-STA needs one answer a query, got {answers} for {queries}")


def _hull_iou(a: Span, b: Span) -> float:
    inside = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    hull = max(a[1], b[1]) - min(a[0], b[0])
    return inside / hull if hull else 0.0


def _scores(protocol: str, ious: Sequence[float], *, count: int, failed: int) -> CharadesScores:
    return CharadesScores(
        protocol=protocol,
        recall={t: 100 * sum(iou >= t for iou in ious) / count for t in THRESHOLDS},
        mean_iou=sum(ious) / count,
        count=count,
        failed=failed,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class D2vlmSubmission:
    """What D2VLM's converter writes.

    Attributes:
        spans: by query, the first span; None for the empty entries of records with an `index`.
        queries: the quoted sentence of each entry, with ". ". aborted: by query, the error at
            which the script stops; such answers are in neither of the others.
    """

    spans: Mapping[int, Span | None]
    queries: Mapping[int, str]
    aborted: Mapping[int, str]


def d2vlm_submission(answers: Sequence[CharadesAnswer]) -> D2vlmSubmission:
    """Converts answers as D2VLM does: evidence stands in for an answer, never the other way."""
    spans: dict[int, Span | None] = {}
    queries: dict[int, str] = {}
    aborted: dict[int, str] = {}
    for one in answers:
        try:
            found = grounded(one.answer, trailing_periods=False)
        except ScriptAborts as error:
            aborted[one.index] = f"ValueError: {error}"
            continue
        if found.answer and not found.evidence:
            aborted[one.index] = "TypeError: new(): data must be a sequence (got NoneType)"
        elif found.evidence:
            spans[one.index] = (found.answer or found.evidence)[0]
            queries[one.index] = one.question.split("'")[1] + ". "
        elif one.indexed:
            spans[one.index] = None
        else:
            aborted[one.index] = "KeyError: 'index'"
    return D2vlmSubmission(spans=spans, queries=queries, aborted=aborted)


def score_d2vlm(queries: Sequence[CharadesQuery], submission: D2vlmSubmission) -> CharadesScores:
    """D2VLM: over entries that have a span; everything that could not be read is not counted.

    Raises:
        InputError: no entry has a span.
    """
    given = {index: span for index, span in submission.spans.items() if span}
    if not given:
        raise InputError("no answer about Charades-STA has a span: there is nothing to divide by")
    ious = [_hull_iou(span, queries[index].span) for index, span in given.items()]
    failed = len(submission.spans) - len(given) + len(submission.aborted)
    return _scores("D2VLM", ious, count=len(given), failed=failed)


def score_timechat(
    queries: Sequence[CharadesQuery], submission: Sequence[Sequence[Span]]
) -> CharadesScores:
    """TimeChat: the first span of each list against all queries; it reports no mIoU.

    Raises:
        InputError: not one list for each query.
    """
    _same_number(len(queries), len(submission))
    firsts = [spans[0] if spans else None for spans in submission]
    scores = score_charades(queries, firsts)
    return dataclasses.replace(scores, protocol="TimeChat", mean_iou=None)


def etchat_iou(prediction: Sequence[float] | None, truth: Span) -> float | None:
    """E.T. Chat's IoU of one sample, float32; None unless there are exactly two numbers.

    The two numbers are not sorted; what is not finite counts 0.
    """
    if prediction is None or len(prediction) != 2:
        return None
    value = float(overlap([(prediction[0], prediction[1])], [truth])[0, 0])
    return value if math.isfinite(value) else 0.0


def score_etchat(
    truths: Sequence[Span], predictions: Sequence[Sequence[float] | None]
) -> CharadesScores:
    """E.T. Chat: over all samples; the numbers of an answer must be exactly two.

    Raises:
        InputError: not one prediction for each truth.
    """
    _same_number(len(truths), len(predictions))
    ious = [etchat_iou(p, truth) for p, truth in zip(predictions, truths, strict=True)]
    failed = sum(iou is None for iou in ious)
    return _scores("E.T. Chat", [iou or 0.0 for iou in ious], count=len(ious), failed=failed)


def videossr_span(text: str) -> Span | None:
    """The first "a - b" of a text, in ascending order; truths are written that way too."""
    found = _RANGE.search(text)
    if not found:
        return None
    a, b = float(found[1]), float(found[2])
    return min(a, b), max(a, b)


def videossr_iou(answer: str, truth: str) -> float | None:
    """IoU of two texts; None where one of them has no span."""
    a, b = videossr_span(answer), videossr_span(truth)
    if a is None or b is None:
        return None
    inside = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - inside
    return inside / union if union > 0 else 0.0


def score_videossr(answers: Sequence[str], truths: Sequence[str]) -> CharadesScores:
    """VideoSSR: over answers with a span; the others leave both mean and accuracy.

    Raises:
        InputError: not one truth for each answer, or no answer has a span.
    """
    _same_number(len(truths), len(answers))
    ious = [videossr_iou(a, truth) for a, truth in zip(answers, truths, strict=True)]
    read = [iou for iou in ious if iou is not None]
    if not read:
        raise InputError("no answer about Charades-STA has a span: there is nothing to divide by")
    return _scores("VideoSSR", read, count=len(read), failed=len(ious) - len(read))
