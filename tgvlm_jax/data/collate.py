"""From encoded samples to one padded batch: which shape it has, and what stands where in it."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Float64, Num, UInt8

from tgvlm_jax.data import qwen_prompt, qwen_rows
from tgvlm_jax.data.chat import Chat, Encoded
from tgvlm_jax.data.patch_videos import bucket_of
from tgvlm_jax.grounding import spans as span_lib
from tgvlm_jax.schema import DataConfig
from tgvlm_jax.types import (
    Batch,
    Frames,
    InputError,
    PreferenceBatch,
    Prompt,
    Response,
    Sample,
    Sources,
    Text,
)

_Row = TypeVar("_Row", Prompt, Response)


def round_up(length: int, multiple: int) -> int:
    """The bucket a length falls into."""
    return -(-length // multiple) * multiple


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sizes:
    """What a prompt is padded to; `asked` is 0 where no tower reads the question."""

    frames: int
    prompt: int
    asked: int


def collate(
    samples: Sequence[Sample],
    encoded: Sequence[Encoded],
    *,
    config: DataConfig,
    pad_id: int,
    rows: slice = slice(None),
) -> Batch:
    """Pads samples to one batch; the longest of it picks the text buckets, frames their own.

    Hosts that each make some `rows` of a batch see the encoding of all of it, so that their
    shapes agree.

    Raises:
        InputError: a sample has more frames than the largest bucket, or more spans than
            `data.max_events` and `data.max_sources` allow.
    """
    response = _response_bucket(encoded, config)
    pairs = list(zip(samples, encoded, strict=True))[rows]
    return Batch(
        prompt=_prompts(samples, encoded, config, pad_id, rows),
        response=stack([response_row(*pair, response, config, pad_id) for pair in pairs]),
    )


def collate_pairs(
    samples: Sequence[Sample],
    rejected: Sequence[Sample],
    *,
    chat: Chat,
    config: DataConfig,
    rows: slice = slice(None),
) -> PreferenceBatch:
    """As `collate`, with two answers to each question, which share a bucket; all tokens count.

    `rejected` are the same samples with other answers and spans.
    """
    good = [chat.encode(sample) for sample in samples]
    bad = [chat.encode(sample) for sample in rejected]
    length = _response_bucket([*good, *bad], config)
    mine = list(zip(samples, good, strict=True))[rows]
    other = list(zip(rejected, bad, strict=True))[rows]
    response, worse = (
        stack([response_row(*pair, length, config, chat.pad_id) for pair in pairs])
        for pairs in (mine, other)
    )
    return PreferenceBatch(
        prompt=_prompts(samples, good, config, chat.pad_id, rows),
        response=response,
        rejected=worse,
        scored=response.mask,
        rejected_scored=worse.mask,
    )


def _prompts(
    samples: Sequence[Sample],
    encoded: Sequence[Encoded],
    config: DataConfig,
    pad_id: int,
    rows: slice,
) -> Prompt:
    """The one place where it counts whether a tower takes frames, patches or views."""
    mine = list(zip(samples, encoded, strict=True))[rows]
    if all(one.videos is not None for _, one in mine):
        return stack([_patches_row(*pair, config, pad_id) for pair in mine])
    if all(sample.views is not None for sample, _ in mine):
        length = round_up(max(len(one.prompt) for one in encoded), config.prompt_bucket)
        return stack([_views_row(*pair, length, pad_id) for pair in mine])
    sizes = _prompt_sizes(samples, encoded, config)
    return stack([_frames_row(*pair, sizes, config, pad_id) for pair in mine])


def _prompt_sizes(
    samples: Sequence[Sample], encoded: Sequence[Encoded], config: DataConfig
) -> _Sizes:
    most = max(len(sample.frames) for sample in samples)
    asked = max(len(one.question) for one in encoded)
    return _Sizes(
        frames=frames_bucket(most, config),
        prompt=round_up(max(len(one.prompt) for one in encoded), config.prompt_bucket),
        asked=round_up(asked, config.question_bucket),
    )


def frames_bucket(most: int, config: DataConfig) -> int:
    """The bucket of `data.frames` for so many frames; InputError where there is none."""
    fitting = [bucket for bucket in config.frames if bucket >= most]
    if not fitting:
        raise InputError(
            f"{most} frames, but the largest bucket of data.frames is {max(config.frames)}"
        )
    return min(fitting)


def _response_bucket(encoded: Sequence[Encoded], config: DataConfig) -> int:
    return round_up(max([1, *(len(one.response) for one in encoded)]), config.response_bucket)


def stack(rows: Sequence[_Row]) -> _Row:
    """One Prompt or Response of many rows out of many of one row."""
    return jax.tree.map(lambda *values: np.stack(values), *rows)


def _frames_row(
    sample: Sample, one: Encoded, sizes: _Sizes, config: DataConfig, pad_id: int
) -> Prompt:
    question = None
    if sizes.asked:
        there = np.arange(sizes.asked) < len(one.question)
        question = Text(ids=padded(one.question, sizes.asked, 0), mask=there)
    return Prompt(
        visual=padded_frames(sample.frames, sizes.frames, question=question),
        tokens=padded(one.prompt, sizes.prompt, pad_id),
        visual_index=padded(one.visual_index, sizes.prompt, -1),
        length=np.int32(len(one.prompt)),
        sources=_sources_row(sample, one, sizes.prompt, config),
    )


def padded_frames(
    pixels: UInt8[np.ndarray, "f y x 3"], whole: int, *, question: Text | None = None
) -> Frames:
    """Frames of a row, without the batch axis, filled up to so many."""
    count = len(pixels)
    if count < whole:
        missing = np.zeros((whole - count, *pixels.shape[1:]), np.uint8)
        pixels = np.concatenate([pixels, missing])
    return Frames(pixels=pixels, mask=np.arange(whole) < count, question=question)


def _views_row(sample: Sample, one: Encoded, length: int, pad_id: int) -> Prompt:
    return Prompt(
        visual=sample.views,
        tokens=padded(one.prompt, length, pad_id),
        visual_index=padded(one.visual_index, length, -1),
        length=np.int32(len(one.prompt)),
    )


def _patches_row(sample: Sample, one: Encoded, config: DataConfig, pad_id: int) -> Prompt:
    """Of one shape for all of a run."""
    videos = one.videos
    assert videos is not None
    bucket = bucket_of(videos.by.tower, config)
    check_patches(f"{sample.video}, {sample.question!r}", one, bucket)
    return qwen_prompt.prompt_row(
        one.prompt,
        one.visual_index >= 0,
        seen=videos.seen,
        rule=videos.by.rule,
        bucket=bucket,
        pad_id=pad_id,
        tokens_per_second=videos.by.tower.tokens_per_second,
    )


def check_patches(where: str, one: Encoded, bucket: qwen_prompt.Bucket) -> None:
    """Raises InputError that names the setting which has no room for a sample."""
    grids = [] if one.videos is None else [each.patched.grid for each in one.videos.seen]
    _, tall, wide = max(grids, key=lambda grid: grid[1] * grid[2], default=(0, 0, 0))
    less, slots = "; raise it, or lower data.max_pixels", bucket.slots
    if tall * wide > slots:
        raise InputError(
            f"{where}: a frame of {tall} x {wide} patches, but data.patch_slots={slots}{less}"
        )
    if (needed := qwen_rows.rows_needed(grids, slots=slots)) > bucket.rows:
        raise InputError(
            f"{where}: {needed} rows of {slots} patches, but data.patch_rows={bucket.rows}"
            f"{less} or data.frames"
        )
    if len(one.prompt) > bucket.length:
        raise InputError(
            f"{where}: a prompt of {len(one.prompt)} tokens, but data.prompt_tokens="
            f"{bucket.length}{less} or data.frames"
        )


def _sources_row(sample: Sample, one: Encoded, length: int, config: DataConfig) -> Sources | None:
    """Spans of the question; there in every batch or in none, so that nothing compiles twice."""
    count, most = len(sample.sources), config.max_sources
    if count > most:
        raise InputError(
            f"{sample.video}, {sample.question!r}: {count} spans, but data.max_sources={most}"
        )
    if not most:
        return None
    slots = np.full(length, -1, np.int32)
    slots[one.sources] = np.arange(count)
    spans = np.zeros((most, 2), np.float32)
    spans[:count] = frame_ranges(sample.sources, sample, config)
    return Sources(slots=slots, spans=spans)


def frame_ranges(
    spans: Float64[np.ndarray, "e 2"], sample: Sample, config: DataConfig
) -> Num[np.ndarray, "e 2"]:
    """(first, last) frame of spans in seconds, by the convention of `data.times`."""
    points = config.times == "points"
    convert = span_lib.seconds_to_points if points else span_lib.seconds_to_frames
    return convert(spans, sample.seconds, duration=sample.duration)


def response_row(
    sample: Sample, one: Encoded, length: int, config: DataConfig, pad_id: int
) -> Response:
    """The answer of a sample, without the batch axis, padded to a length.

    Raises InputError where it has more spans than `data.max_events`.
    """
    count, most = len(sample.spans), config.max_events
    if count > most:
        raise InputError(
            f"{sample.video}, {sample.question!r}: {count} spans, but data.max_events={most}"
        )
    evidence = np.full(length, -1, np.int32)
    spans = np.zeros((2 * most, 2), np.float32)
    mask = np.zeros(2 * most, bool)
    if len(one.evidence):
        slots = np.concatenate([np.arange(count), most + np.arange(count)])
        evidence[one.evidence] = slots
        frames = frame_ranges(sample.spans, sample, config)
        spans[slots] = np.concatenate([frames, frames])
        mask[slots] = sample.readable
    return Response(
        tokens=padded(one.response, length, pad_id),
        mask=(np.arange(length) < len(one.response)) & sample.readable,
        evidence=evidence,
        spans=spans,
        evidence_mask=mask,
    )


def padded(values: np.ndarray, length: int, fill: int) -> np.ndarray:
    """Filled up behind its end."""
    return np.concatenate([values, np.full(length - len(values), fill, np.int32)])
