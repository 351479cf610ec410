"""From samples to padded batches, and the Grain graph that makes them ahead of the device.

A batch is a pure function of (seed, step): its frame bucket and its sample numbers follow from
them. So the graph has random access, every host makes only its own rows of the same global batch,
and the iterator's state is one number that a checkpoint holds.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import grain
import jax
import numpy as np
from jaxtyping import Float64, Num

from tgvlm_jax.data import preference
from tgvlm_jax.data.chat import Chat, Encoded
from tgvlm_jax.data.sources import Source
from tgvlm_jax.grounding import spans as span_lib
from tgvlm_jax.schema import DataConfig, PerturbationConfig
from tgvlm_jax.types import (
    Batch,
    Frames,
    InputError,
    PreferenceBatch,
    Prompt,
    Questions,
    Response,
    Sample,
    Sources,
    Text,
)

_Row = TypeVar("_Row", Prompt, Response)
_REJECTED_STREAM = 3  # of random numbers; those before are the samples'
_ATTEMPTS = 16  # other samples to try where no worse answer can be made


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
    sizes = _prompt_sizes(samples, encoded, config)
    response = _response_bucket(encoded, config)
    pairs = list(zip(samples, encoded, strict=True))[rows]
    return Batch(
        prompt=_stack([_prompt_row(*pair, sizes, config, pad_id) for pair in pairs]),
        response=_stack([_response_row(*pair, response, config, pad_id) for pair in pairs]),
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
    sizes = _prompt_sizes(samples, good, config)
    length = _response_bucket([*good, *bad], config)
    mine = list(zip(samples, good, strict=True))[rows]
    other = list(zip(rejected, bad, strict=True))[rows]
    response, worse = (
        _stack([_response_row(*pair, length, config, chat.pad_id) for pair in pairs])
        for pairs in (mine, other)
    )
    return PreferenceBatch(
        prompt=_stack([_prompt_row(*pair, sizes, config, chat.pad_id) for pair in mine]),
        response=response,
        rejected=worse,
        scored=response.mask,
        rejected_scored=worse.mask,
    )


def _prompt_sizes(
    samples: Sequence[Sample], encoded: Sequence[Encoded], config: DataConfig
) -> _Sizes:
    most = max(len(sample.frames) for sample in samples)
    fitting = [bucket for bucket in config.frames if bucket >= most]
    if not fitting:
        raise InputError(
            f"{most} frames, but the largest bucket of data.frames is {max(config.frames)}"
        )
    asked = max(len(one.question) for one in encoded)
    return _Sizes(
        frames=min(fitting),
        prompt=round_up(max(len(one.prompt) for one in encoded), config.prompt_bucket),
        asked=round_up(asked, config.question_bucket),
    )


def _response_bucket(encoded: Sequence[Encoded], config: DataConfig) -> int:
    return round_up(max([1, *(len(one.response) for one in encoded)]), config.response_bucket)


def _stack(rows: Sequence[_Row]) -> _Row:
    """One Prompt or Response of many rows out of many of one row."""
    return jax.tree.map(lambda *values: np.stack(values), *rows)


def _prompt_row(
    sample: Sample, one: Encoded, sizes: _Sizes, config: DataConfig, pad_id: int
) -> Prompt:
    count, pixels = len(sample.frames), sample.frames
    if count < sizes.frames:
        missing = np.zeros((sizes.frames - count, *pixels.shape[1:]), np.uint8)
        pixels = np.concatenate([pixels, missing])
    question = None
    if sizes.asked:
        there = np.arange(sizes.asked) < len(one.question)
        question = Text(ids=_pad(one.question, sizes.asked, 0), mask=there)
    return Prompt(
        visual=Frames(pixels=pixels, mask=np.arange(sizes.frames) < count, question=question),
        tokens=_pad(one.prompt, sizes.prompt, pad_id),
        visual_index=_pad(one.visual_index, sizes.prompt, -1),
        length=np.int32(len(one.prompt)),
        sources=_sources_row(sample, one, sizes.prompt, config),
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


def _response_row(
    sample: Sample, one: Encoded, length: int, config: DataConfig, pad_id: int
) -> Response:
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
        tokens=_pad(one.response, length, pad_id),
        mask=(np.arange(length) < len(one.response)) & sample.readable,
        evidence=evidence,
        spans=spans,
        evidence_mask=mask,
    )


def _pad(values: np.ndarray, length: int, fill: int) -> np.ndarray:
    return np.concatenate([values, np.full(length - len(values), fill, np.int32)])


def without_pixels(sample: Sample) -> Sample:
    """The sample with frames of 0 x 0 pixels, to be kept."""
    return dataclasses.replace(sample, frames=np.zeros((len(sample.frames), 0, 0, 3), np.uint8))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchMaker:
    """Makes this host's rows of global batch number `step`.

    With a `perturbation` every sample gets a second answer, that is worse, and batches are of
    preferences; where `asks`, they are Questions.
    """

    source: Source
    chat: Chat
    config: DataConfig
    seed: int
    host: int = 0
    hosts: int = 1
    perturbation: PerturbationConfig | None = None
    asks: bool = False

    def __call__(self, step: int) -> Batch | PreferenceBatch | Questions:
        """The rows of batch `step`, made from scratch; other hosts' rows without their pixels."""
        each = self.config.batch_size // self.hosts
        mine = range(self.host * each, (self.host + 1) * each)
        rows = slice(mine.start, mine.stop)
        frames = self.source.bucket(step)
        numbers = [(n, row in mine) for row, n in enumerate(self.source.numbers(step))]
        if self.perturbation is not None:
            pairs = [self._pair(*number, frames, self.perturbation) for number in numbers]
            good, bad = zip(*pairs, strict=True)
            return collate_pairs(good, bad, chat=self.chat, config=self.config, rows=rows)
        samples = [self.source.sample(n, frames=frames, pixels=own) for n, own in numbers]
        encoded = [self.chat.encode(sample) for sample in samples]
        pad_id = self.chat.pad_id
        batch = collate(samples, encoded, config=self.config, pad_id=pad_id, rows=rows)
        if self.asks:
            return Questions(prompt=batch.prompt, samples=tuple(map(without_pixels, samples[rows])))
        return batch

    def _pair(
        self, number: int, own: bool, frames: int, perturbation: PerturbationConfig
    ) -> tuple[Sample, Sample]:
        """Sample `number` and the same with a worse answer; another one where none can be made."""
        for attempt in range(_ATTEMPTS):
            place = self.source.another(number, attempt=attempt)
            sample = self.source.sample(place, frames=frames, pixels=False)
            worse = preference.reject(
                preference.Grounded(
                    answer=sample.answer,
                    spans=sample.spans,
                    start=float(sample.seconds[0]),
                    end=sample.duration,
                ),
                perturbation,
                seed=[self.seed, _REJECTED_STREAM, place],
                words=self.source.words,
            )
            if worse is not None and len(worse.spans) <= self.config.max_events:
                good = self.source.sample(place, frames=frames, pixels=own)
                return good, dataclasses.replace(good, answer=worse.answer, spans=worse.spans)
        raise InputError(
            f"no worse answer could be made for {_ATTEMPTS} samples, the last of them "
            f"{sample.video}, {sample.question!r}; allow more objective.perturbation.kinds, or "
            f"for kind 'add' more than data.max_events={self.config.max_events}"
        )


class Batches:
    """Batches 0, 1, ... `steps` - 1, made ahead in threads, resumable to the batch."""

    def __init__(self, maker: BatchMaker, *, steps: int):
        """Raises InputError where the hosts do not divide the batch."""
        config, self.source = maker.config, maker.source
        if config.batch_size % maker.hosts:
            raise InputError(
                f"data.batch_size={config.batch_size} does not divide by {maker.hosts} hosts"
            )
        options = grain.ReadOptions(
            num_threads=config.threads, prefetch_buffer_size=config.prefetch
        )
        self._iterator = iter(grain.MapDataset.range(steps).map(maker).to_iter_dataset(options))

    def __next__(self) -> Batch | PreferenceBatch | Questions:
        """The next batch; raises what its maker raised, and then there is no other."""
        try:
            return next(self._iterator)
        except StopIteration:
            raise
        except Exception:
            self.close()
            raise

    def get_state(self) -> dict[str, Any]:
        """What to checkpoint; JSON."""
        return self._iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues with the batch after the last one that was taken when `state` was."""
        self._iterator.set_state(state)

    def close(self) -> None:
        """Stops the reader threads."""
        self._iterator.close()
