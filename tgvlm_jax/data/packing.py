"""Several samples to a row of a batch, so that little of it is padding.

A step's samples are dealt out to its rows so that the fullest row is short: of prompt tokens, of
answer tokens, and of what the tower sees. Each of these is padded to a bucket of its own, for all
rows alike (`row_length`). All of that follows from the samples of the step alone: hosts that make
some of its rows agree without a word, and a batch stays a pure function of (seed, step).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32

from tgvlm_jax.data import mrope, qwen_rows
from tgvlm_jax.data.chat import Encoded
from tgvlm_jax.data.collate import (
    check_patches,
    frames_bucket,
    padded,
    padded_frames,
    response_row,
    round_up,
    stack,
)
from tgvlm_jax.data.patch_videos import bucket_of
from tgvlm_jax.schema import MOST_PACKED, DataConfig
from tgvlm_jax.types import Batch, Frames, Packed, PatchRows, Prompt, Response, Sample

Pair = tuple[Sample, Encoded]
_FINENESS = 8  # of what rows are padded to, see `row_length`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Who shares a row, and what all rows are padded to.

    Attributes:
        rows: for each, its samples by their place in the step, in that order.
        prompt, response: tokens. visual: rows of patches, or frames; 0 where nothing is shown.
    """

    rows: tuple[tuple[int, ...], ...]
    prompt: int
    response: int
    visual: int


def row_length(length: int, bucket: int) -> int:
    """What packed rows are padded to: few values, so that few programs are compiled.

    A multiple of the bucket, and about of an eighth of the power of two that `length` fits into:
    four lengths an octave, and a twelfth of a row is padding in the mean.
    """
    octave = 1 << max(length - 1, 0).bit_length()
    return round_up(length, round_up(max(1, octave // _FINENESS), bucket))


def deal(costs: Int[np.ndarray, "n m"], rows: int) -> list[list[int]]:
    """Deals samples out to rows: the longest first, each where the fullest rows grow least.

    With one kind of cost that is the rule of the longest processing time (Graham, Bounds on
    Multiprocessing Timing Anomalies, 1969), which is within a third of the best. Rows are padded to
    the fullest one for every kind of its own, so it is their sum that is kept small.

    Args:
        costs: of each sample, `m` kinds in one unit. rows: at least 1.

    Returns:
        For each row the numbers of its samples, increasing; at most `MOST_PACKED`. No row is empty
        where there are as many samples, and every sample costs something.
    """
    dealt: list[list[int]] = [[] for _ in range(rows)]
    loads = np.zeros((rows, costs.shape[1]), np.int64)
    counts = np.zeros(rows, np.int64)
    for one in np.argsort(-costs.sum(axis=1), kind="stable").tolist():
        peaks = np.maximum(loads + costs[one], loads.max(axis=0)).sum(axis=1)
        full = counts >= MOST_PACKED
        row = int(np.lexsort((loads.sum(axis=1), peaks, full))[0])  # the last key counts most
        dealt[row].append(one)
        loads[row] += costs[one]
        counts[row] += 1
    return [sorted(row) for row in dealt]


def plan(pairs: Sequence[Pair], config: DataConfig) -> Plan:
    """Plans the rows of a step, from all its samples; their pixels are not needed.

    Raises:
        InputError: a sample alone has more frames, patches or tokens than the config allows.
    """
    patches = pairs[0][1].videos
    if patches is None:
        frames_bucket(max(len(sample.frames) for sample, _ in pairs), config)
        seen, unit = [len(sample.frames) for sample, _ in pairs], 1
    else:
        bucket = bucket_of(patches.by.tower, config)
        for sample, one in pairs:
            check_patches(f"{sample.video}, {sample.question!r}", one, bucket)
        unit = bucket.slots // patches.by.rule.merge**2
        seen = [_patch_rows([pair], bucket.slots) for pair in pairs]
    lengths = [(len(one.prompt), len(one.response)) for _, one in pairs]
    costs = np.asarray([(*each, unit * rows) for each, rows in zip(lengths, seen, strict=True)])
    rows = deal(costs, config.batch_size)
    sums = [costs[row].sum(axis=0).tolist() for row in rows]
    if patches is None:
        shown = max(most for *_, most in sums)
    else:  # frames of several samples may share a row of patches
        shown = max(1, *(_patch_rows([pairs[i] for i in row], bucket.slots) for row in rows))
    return Plan(
        rows=tuple(map(tuple, rows)),
        prompt=row_length(max(prompt for prompt, *_ in sums), config.prompt_bucket),
        response=row_length(max(1, *(answer for _, answer, _ in sums)), config.response_bucket),
        visual=row_length(shown, config.visual_bucket),
    )


def _patch_rows(pairs: Sequence[Pair], slots: int) -> int:
    videos = [one.videos for _, one in pairs]
    grids = [seen.patched.grid for each in videos if each is not None for seen in each.seen]
    return qwen_rows.rows_needed(grids, slots=slots)


def collate(
    rows: Sequence[Sequence[Pair]], planned: Plan, *, config: DataConfig, pad_id: int
) -> Batch:
    """Some rows of a planned step, each of its samples in the order of the plan."""
    patches = rows[0][0][1].videos is not None
    prompts = [_prompt(row, planned, config, pad_id, patches=patches) for row in rows]
    answers = [_response(row, planned, config, pad_id) for row in rows]
    return Batch(
        prompt=stack(prompts),
        response=stack(answers),
    )


def _together(lengths: Sequence[int], whole: int) -> Packed:
    """What stands in each slot of a row; its padding is with the last sample."""
    segments = np.repeat(np.arange(len(lengths)), lengths)
    places = [np.arange(length) for length in lengths]
    return Packed(
        segments=padded(segments.astype(np.int32), whole, len(lengths) - 1),
        places=padded(np.concatenate(places).astype(np.int32), whole, 0),
    )


def _prompt(
    row: Sequence[Pair], planned: Plan, config: DataConfig, pad_id: int, *, patches: bool
) -> Prompt:
    """The prompts of a row, one after another, and all that they are shown."""
    tokens = np.concatenate([one.prompt for _, one in row])
    lengths, length = [len(one.prompt) for _, one in row], planned.prompt
    if patches:
        shown = _patches(row, planned, config)
    else:
        shown = _frames(row, planned)
    positions = shown.positions
    if positions is not None:
        positions = np.pad(positions, ((0, 0), (0, length - len(tokens))))
    return Prompt(
        visual=shown.visual,
        tokens=padded(tokens, length, pad_id),
        visual_index=padded(shown.index, length, -1),
        length=np.int32(len(tokens)),
        positions=positions,
        packed=_together(lengths, length),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shown:
    """What a row's samples are shown, which token of it stands in a slot, and M-RoPE positions."""

    visual: PatchRows | Frames | None
    index: Int32[np.ndarray, "p"]
    positions: Int32[np.ndarray, "3 p"] | None = None


def _frames(row: Sequence[Pair], planned: Plan) -> _Shown:
    before = np.cumsum([0, *(len(sample.frames) for sample, _ in row)])
    index = [
        np.where(one.visual_index >= 0, one.visual_index + start, -1)
        for start, (_, one) in zip(before[:-1], row, strict=True)
    ]
    index, visual = np.concatenate(index).astype(np.int32), None
    if planned.visual:
        pixels = np.concatenate([sample.frames for sample, _ in row])
        visual = padded_frames(pixels, planned.visual)
    return _Shown(visual=visual, index=index)


def _patches(row: Sequence[Pair], planned: Plan, config: DataConfig) -> _Shown:
    """Frames of all samples lie in the first row of patches that has room, whosever they are."""
    videos = [one.videos for _, one in row if one.videos is not None]
    by = videos[0].by
    laid = qwen_rows.to_rows(
        [seen.patched for each in videos for seen in each.seen],
        rule=by.rule,
        rows=planned.visual,
        slots=bucket_of(by.tower, config).slots,
    )
    visual = [one.visual_index >= 0 for _, one in row]
    placed = [
        mrope.positions(
            each,
            [item for seen in own.seen for item in seen.items],
            merge=by.rule.merge,
            tokens_per_second=by.tower.tokens_per_second,
        )
        for each, own in zip(visual, videos, strict=True)
    ]
    return _Shown(
        visual=laid.rows,
        index=qwen_rows.token_index(np.concatenate(visual), laid.tokens),
        positions=np.concatenate([one.ids for one in placed], axis=1),
    )


def _response(row: Sequence[Pair], planned: Plan, config: DataConfig, pad_id: int) -> Response:
    """The answers of a row; without evidence, which packed samples do not have."""
    length, lengths = planned.response, [len(one.response) for _, one in row]
    each = [response_row(*pair, len(pair[1].response), config, pad_id) for pair in row]
    ends = np.cumsum([len(one.prompt) for _, one in row]) - 1
    slots = 2 * config.max_events
    return Response(
        tokens=padded(np.concatenate([one.tokens for one in each]), length, pad_id),
        mask=np.pad(np.concatenate([one.mask for one in each]), (0, length - sum(lengths))),
        evidence=np.full(length, -1, np.int32),
        spans=np.zeros((slots, 2), np.float32),
        evidence_mask=np.zeros(slots, bool),
        packed=dataclasses.replace(
            _together(lengths, length),
            ends=padded(np.repeat(ends, lengths).astype(np.int32), length, int(ends[-1])),
        ),
    )
