"""E.T. Instruct annotations in their real JSON, both flavours, and what is wrong with a record.

The `evi` flavour of D2VLM has one `<evi>` for every interval and two numbers for each in `src` (the
question's) or `tgt` (the answer's); the `vid` flavour of E.T.Chat has one `<vid>` for every time
and one number for each, an interval being `<vid> - <vid>` (D2VLM 2.1). Both become the same
`Annotation`, and so do VideoP2R's records (`process_records.py`), which ground nothing.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float64

from tgvlm_jax.data import process_records, record_files
from tgvlm_jax.data.process_records import ProcessRecord
from tgvlm_jax.types import InputError

EVIDENCE, EVIDENCE_END, TIME, VIDEO = "<evi>", "</evi>", "<vid>", "<image>"
_GROUNDING = ("tvg", "epm", "tal", "evs", "vhd")
_CAPTIONING = ("dvc", "tvc", "slc")
TASKS = (*_GROUNDING, *_CAPTIONING, "rvc", "gvq", "rar", "eca", "rvq", "tem")
_TIMES = re.compile(rf"{TIME}(?:\s*-\s*{TIME})?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotation:
    """One question about one video.

    Attributes:
        where: file and number of the record. video: path below the folder of videos.
        duration: seconds; not a number where the record does not say.
        question: text with an `<evi>` for every span of `sources`, without the video's place.
        answer: `<evi>`s and one `</evi>`, then text that mentions the same `spans` again.
        sources, spans: (start, end) seconds.
        video_first: whether the video stands before the question; None where the record does not
            say.
        truth: the right answer alone, where `answer` has more.
    """

    where: str
    task: str
    source: str
    video: str
    duration: float
    question: str
    answer: str
    sources: Float64[np.ndarray, "s 2"]
    spans: Float64[np.ndarray, "e 2"]
    video_first: bool | None = True
    truth: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejected:
    """A record that is no annotation, and why."""

    where: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filters:
    """What E.T. Instruct leaves out: long answers, and videos too short or too long (D2VLM 2.1)."""

    words: int = 200
    shortest: float = 5.0
    longest: float = 350.0


RELEASED = Filters()
KEEP_ALL = Filters(words=10**9, shortest=0.0, longest=math.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotations:
    """What a file holds.

    Attributes:
        kept: in the order of the file. rejected: damaged records.
        filtered: how many good records each filter left out.
    """

    kept: list[Annotation]
    rejected: list[Rejected]
    filtered: dict[str, int]


def load(path: Path, *, filters: Filters = RELEASED) -> Annotations:
    """Reads a JSON list, or one record a line; a damaged record is listed and never stops the rest.

    Raises:
        InputError: the file is missing, or no JSON at all, or without a single good record.
    """
    kept, rejected = [], []
    filtered: collections.Counter[str] = collections.Counter()
    for number, record in enumerate(record_files.read(path)):
        where = f"{path.name}, record {number}"
        try:
            found = parse(record, where=where)
        except InputError as error:
            rejected.append(Rejected(where=where, reason=str(error)))
            continue
        reason = _filter(found, filters)
        if reason:
            filtered[reason] += 1
        else:
            kept.append(found)
    if not kept and not filtered:
        first = f"; {rejected[0].where}: {rejected[0].reason}" if rejected else ""
        raise InputError(f"{path}: no usable record among {len(rejected)}{first}")
    return Annotations(kept=kept, rejected=rejected, filtered=dict(filtered))


def wrong_length(duration: float, filters: Filters) -> str:
    """Why a video of so many seconds is left out; "" where it is not."""
    if math.isnan(duration) or filters.shortest <= duration <= filters.longest:
        return ""
    return f"video not of {filters.shortest:g} to {filters.longest:g} seconds"


def _filter(found: Annotation, filters: Filters) -> str:
    if reason := wrong_length(found.duration, filters):
        return reason
    if len(found.answer.split(" ")) > filters.words:
        return f"answer of more than {filters.words} words"
    return ""


def parse(record: Any, *, where: str) -> Annotation:
    """One record of any flavour.

    Raises:
        InputError: what is wrong with it, in words that name the key.
    """
    if not isinstance(record, dict):
        raise InputError(f"is a {type(record).__name__}, not an object")
    if process_records.is_record(record):
        return _processed(process_records.parse(record), where=where)
    task = _text(record, "task")
    if task not in TASKS:
        raise InputError(f"task {task!r} is none of {', '.join(TASKS)}")
    duration = _duration(record)
    video = _video(record)
    question, answer = _turns(record)
    video_first = not question.rstrip().endswith(VIDEO) if VIDEO in question else None
    question = question.replace(VIDEO, "").strip()
    if not question:
        raise InputError("conversations: the question is empty")
    if not answer.strip():
        raise InputError("conversations: the answer is empty")
    source, target = _numbers(record, "src"), _numbers(record, "tgt")
    both = question + answer
    if TIME in both and EVIDENCE in both:
        raise InputError(f"mixes {TIME} and {EVIDENCE}; a file is of one flavour")
    if TIME in both:
        question, sources = _from_times(question, source, key="src")
        spoken, spans = _from_times(answer, target, key="tgt")
        answer = f"{EVIDENCE * len(spans)}{EVIDENCE_END} {spoken}"
    else:
        sources, spans = _pairs(source, key="src"), _pairs(target, key="tgt")
    _check_spans(sources, duration, key="src")
    _check_spans(spans, duration, key="tgt")
    _check_evidence(question, answer, sources, spans)
    return Annotation(
        where=where,
        task=task,
        source=_text(record, "source", default=""),
        video=video,
        duration=duration,
        question=question,
        answer=answer,
        sources=sources,
        spans=spans,
        video_first=video_first,
    )


def _processed(record: ProcessRecord, *, where: str) -> Annotation:
    """A question whose answer is the whole trace; the truth itself where there is no trace."""
    if EVIDENCE in record.question + record.output or EVIDENCE_END in record.output:
        raise InputError(f"{EVIDENCE} in a record that grounds nothing")
    none = np.zeros((0, 2))
    return Annotation(
        where=where,
        task=record.kind,
        source=str(record.rest.get("data_source", "")),
        video=record.path,
        duration=math.nan,
        question=record.question,
        answer=record.output or record.solution,
        sources=none,
        spans=none,
        truth=record.truth,
    )


def _text(record: dict[str, Any], key: str, *, default: str | None = None) -> str:
    value = record.get(key, default)
    if value is None:
        raise InputError(f"{key} is missing")
    if not isinstance(value, str):
        raise InputError(f"{key} is a {type(value).__name__}, not text")
    return value


def _duration(record: dict[str, Any]) -> float:
    value = record.get("duration")
    if value is None:
        raise InputError("duration is missing")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"duration is a {type(value).__name__}, not seconds")
    if not math.isfinite(value) or value <= 0:
        raise InputError(f"duration is {value}, not a time above 0")
    return float(value)


def _video(record: dict[str, Any]) -> str:
    video = _text(record, "video")
    parts = PurePosixPath(video).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise InputError(f"video {video!r} is no path below the folder of videos")
    return video


def _turns(record: dict[str, Any]) -> tuple[str, str]:
    """Question and answer."""
    turns = record.get("conversations")
    if not isinstance(turns, list) or len(turns) != 2:
        count = len(turns) if isinstance(turns, list) else "no list of"
        raise InputError(f"conversations: {count} turns, not a question and an answer")
    values = []
    for turn, who in zip(turns, ("human", "gpt"), strict=True):
        if not isinstance(turn, dict) or turn.get("from") != who:
            said = turn.get("from") if isinstance(turn, dict) else turn
            raise InputError(f"conversations: a turn is from {said!r} where {who!r} speaks")
        values.append(_text(turn, "value"))
    if values[0].count(VIDEO) > 1:
        count = values[0].count(VIDEO)
        raise InputError(f"conversations: {count} {VIDEO} in the question, not one")
    if VIDEO in values[1]:
        raise InputError(f"conversations: {VIDEO} in the answer")
    return values[0], values[1]


def _numbers(record: dict[str, Any], key: str) -> list[float]:
    values = record.get(key)
    if values is None:
        return []
    values = values if isinstance(values, list) else [values]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{key} holds {value!r}, not seconds")
        if not math.isfinite(value) or value < 0:
            raise InputError(f"{key} holds {value}, not a time from 0 on")
    return [float(value) for value in values]


def _pairs(values: Sequence[float], *, key: str) -> Float64[np.ndarray, "e 2"]:
    """A single number is a moment: an interval of no length (as the released code reads it)."""
    if len(values) == 1:
        values = [values[0], values[0]]
    if len(values) % 2:
        raise InputError(f"{key} holds {len(values)} numbers, not two for each interval")
    return np.asarray(values, np.float64).reshape(-1, 2)


def _from_times(
    text: str, values: Sequence[float], *, key: str
) -> tuple[str, Float64[np.ndarray, "e 2"]]:
    """Text with one `<evi>` an interval, and the intervals; a lone `<vid>` is a moment."""
    if text.count(TIME) != len(values):
        raise InputError(f"{text.count(TIME)} {TIME} but {len(values)} numbers in {key}")
    left, spans = list(values), []
    for found in _TIMES.findall(text):
        first = left.pop(0)
        spans.append((first, left.pop(0) if found.count(TIME) == 2 else first))
    return _TIMES.sub(EVIDENCE, text), np.asarray(spans, np.float64).reshape(-1, 2)


def to_times(annotation: Annotation) -> dict[str, Any]:
    """The record of the `vid` flavour that says the same."""
    spoken = annotation.answer.partition(EVIDENCE_END)[2].strip()
    pair, image = f"{TIME} - {TIME}", f"{VIDEO}\n"
    question = annotation.question.replace(EVIDENCE, pair)
    if annotation.video_first is not None:
        question = image + question if annotation.video_first else f"{question}\n{VIDEO}"
    record = {
        "task": annotation.task,
        "source": annotation.source,
        "video": annotation.video,
        "duration": annotation.duration,
        "conversations": [
            {"from": "human", "value": question},
            {"from": "gpt", "value": spoken.replace(EVIDENCE, pair)},
        ],
    }
    for key, spans in (("src", annotation.sources), ("tgt", annotation.spans)):
        if len(spans):
            record[key] = spans.ravel().tolist()
    return record


def _check_spans(spans: Float64[np.ndarray, "e 2"], duration: float, *, key: str) -> None:
    for start, end in spans.tolist():
        if start > end:
            raise InputError(f"{key}: [{start:g}, {end:g}] ends before it starts")
        if start > duration:
            raise InputError(f"{key}: [{start:g}, {end:g}] starts after the video's {duration:g} s")


def _check_evidence(
    question: str,
    answer: str,
    sources: Float64[np.ndarray, "s 2"],
    spans: Float64[np.ndarray, "e 2"],
) -> None:
    if (asked := question.count(EVIDENCE)) != len(sources):
        raise InputError(f"{asked} {EVIDENCE} in the question, but {len(sources)} intervals in src")
    if EVIDENCE_END in question:
        raise InputError(f"{EVIDENCE_END} in the question")
    parts = answer.split(EVIDENCE_END)
    if len(parts) != 2:
        raise InputError(f"{len(parts) - 1} {EVIDENCE_END} in the answer, not one")
    for part, name in zip(parts, ("before", "after"), strict=True):
        if (found := part.count(EVIDENCE)) != len(spans):
            raise InputError(
                f"{found} {EVIDENCE} {name} {EVIDENCE_END}, but {len(spans)} intervals in tgt"
            )
    if parts[0].replace(EVIDENCE, "").strip():
        raise InputError(f"text among the {EVIDENCE} that come first")
    if not parts[1].strip():
        raise InputError(f"nothing is said after {EVIDENCE_END}")
