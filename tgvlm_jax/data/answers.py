"""Reads what a model has generated: ids and frame ranges in, text and seconds out."""

import dataclasses

import numpy as np
from jaxtyping import Float64, Int

from tgvlm_jax.data.chat import EVIDENCE, EVIDENCE_END, Chat, render
from tgvlm_jax.grounding import spans as span_lib
from tgvlm_jax.grounding.timecode import parse_spans
from tgvlm_jax.schema import DataConfig
from tgvlm_jax.types import Sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Said:
    """One generated answer.

    Attributes:
        raw: the text, `<evi>` and `</evi>` kept. text: what a person reads.
        mentions: seconds of every `<evi>`, of the grounding part too.
        spans: those of the spoken part; of the grounding part where it has none.
        places: where in the ids the `<evi>` of `spans` stand; none for intervals in words.
    """

    raw: str
    text: str
    mentions: Float64[np.ndarray, "m 2"]
    spans: Float64[np.ndarray, "e 2"]
    places: Int[np.ndarray, "_e"]


def read(
    tokens: Int[np.ndarray, "t"],
    frames: Int[np.ndarray, "t 2"] | None,
    *,
    sample: Sample,
    chat: Chat,
    config: DataConfig,
) -> Said:
    """Reads one answer, up to its end token.

    Args:
        tokens: generated ids. frames: what each would mean if it is `<evi>`, as (first, last)
            frame; None for a model without evidence, whose text is read for intervals.
        sample: what was asked. chat: how. config: has the convention of times.
    """
    ids = tokens.tolist()
    ids = ids[: ids.index(chat.end_id)] if chat.end_id in ids else ids
    raw = chat.decode(ids)
    places = np.flatnonzero(np.asarray(ids) == chat.evidence_id)
    if frames is None:
        told = np.asarray(parse_spans(raw), np.float64).reshape(-1, 2)
        return Said(raw=raw, text=raw.strip(), mentions=told, spans=told, places=places[:0])
    seconds = _seconds(frames[places], sample, config)
    spoken = max(0, len(places) - _mentions(raw))
    return Said(
        raw=raw,
        text=render(raw, seconds),
        mentions=seconds,
        spans=seconds[spoken:],
        places=places[spoken:],
    )


def _seconds(
    frames: Int[np.ndarray, "m 2"], sample: Sample, config: DataConfig
) -> Float64[np.ndarray, "m 2"]:
    if not len(frames):
        return np.zeros((0, 2))
    if config.times == "points":
        return span_lib.points_to_seconds(frames.astype(np.int64), sample.seconds)
    return span_lib.frames_to_seconds(
        frames.astype(np.int64), sample.seconds, duration=sample.duration
    )


def _mentions(raw: str) -> int:
    """How many `<evi>` count: those after `</evi>`, or all where there are none."""
    return raw.partition(EVIDENCE_END)[2].count(EVIDENCE) or raw.count(EVIDENCE)
