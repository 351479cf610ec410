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

from tgvlm_jax.data import preference
from tgvlm_jax.data.chat import Chat, Encoded
from tgvlm_jax.data.pretext import AnomalyGrounding
from tgvlm_jax.grounding import spans as span_lib
from tgvlm_jax.schema import DataConfig, PerturbationConfig
from tgvlm_jax.types import (
    Batch,
    Frames,
    InputError,
    PreferenceBatch,
    Prompt,
    Response,
    Sample,
)

_Row = TypeVar("_Row", Prompt, Response)
_BUCKET_STREAM, _REJECTED_STREAM = 2, 3  # of random numbers; 0 and 1 are those of the samples
_ATTEMPTS, _FAR = 16, 1 << 32  # other samples to try, and how far away they are taken from


def round_up(length: int, multiple: int) -> int:
    """The bucket a length falls into."""
    return -(-length // multiple) * multiple


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
            `data.max_events`.
    """
    frames, prompt = _prompt_bucket(samples, encoded, config)
    response = _response_bucket(encoded, config)
    pairs = list(zip(samples, encoded, strict=True))[rows]
    return Batch(
        prompt=_stack([_prompt_row(*pair, frames, prompt, pad_id) for pair in pairs]),
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
    frames, prompt = _prompt_bucket(samples, good, config)
    length = _response_bucket([*good, *bad], config)
    mine = list(zip(samples, good, strict=True))[rows]
    other = list(zip(rejected, bad, strict=True))[rows]
    response, worse = (
        _stack([_response_row(*pair, length, config, chat.pad_id) for pair in pairs])
        for pairs in (mine, other)
    )
    return PreferenceBatch(
        prompt=_stack([_prompt_row(*pair, frames, prompt, chat.pad_id) for pair in mine]),
        response=response,
        rejected=worse,
        scored=response.mask,
        rejected_scored=worse.mask,
    )


def _prompt_bucket(
    samples: Sequence[Sample], encoded: Sequence[Encoded], config: DataConfig
) -> tuple[int, int]:
    """Frames and tokens that prompts are padded to."""
    most = max(len(sample.frames) for sample in samples)
    fitting = [bucket for bucket in config.frames if bucket >= most]
    if not fitting:
        raise InputError(
            f"{most} frames, but the largest bucket of data.frames is {max(config.frames)}"
        )
    longest = max(len(one.prompt) for one in encoded)
    return min(fitting), round_up(longest, config.prompt_bucket)


def _response_bucket(encoded: Sequence[Encoded], config: DataConfig) -> int:
    return round_up(max([1, *(len(one.response) for one in encoded)]), config.response_bucket)


def _stack(rows: Sequence[_Row]) -> _Row:
    """One Prompt or Response of many rows out of many of one row."""
    return jax.tree.map(lambda *values: np.stack(values), *rows)


def _prompt_row(sample: Sample, one: Encoded, frames: int, length: int, pad_id: int) -> Prompt:
    count, pixels = len(sample.frames), sample.frames
    if count < frames:
        missing = np.zeros((frames - count, *pixels.shape[1:]), np.uint8)
        pixels = np.concatenate([pixels, missing])
    return Prompt(
        visual=Frames(pixels=pixels, mask=np.arange(frames) < count),
        tokens=_pad(one.prompt, length, pad_id),
        visual_index=_pad(one.visual_index, length, -1),
        length=np.int32(len(one.prompt)),
    )


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
        frames = span_lib.seconds_to_frames(sample.spans, sample.seconds, duration=sample.duration)
        spans[slots] = np.concatenate([frames, frames])
        mask[slots] = True
    return Response(
        tokens=_pad(one.response, length, pad_id),
        mask=np.arange(length) < len(one.response),
        evidence=evidence,
        spans=spans,
        evidence_mask=mask,
    )


def _pad(values: np.ndarray, length: int, fill: int) -> np.ndarray:
    return np.concatenate([values, np.full(length - len(values), fill, np.int32)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchMaker:
    """Makes this host's rows of global batch number `step`.

    With a `perturbation` every sample gets a second answer, that is worse, and batches are of
    preferences.
    """

    source: AnomalyGrounding
    chat: Chat
    config: DataConfig
    seed: int
    host: int = 0
    hosts: int = 1
    perturbation: PerturbationConfig | None = None

    def __call__(self, step: int) -> Batch | PreferenceBatch:
        """The rows of batch `step`, made from scratch; other hosts' rows without their pixels."""
        config = self.config
        rng = np.random.default_rng([self.seed, _BUCKET_STREAM, step])
        frames = int(rng.choice(config.frames))
        each = config.batch_size // self.hosts
        mine = range(self.host * each, (self.host + 1) * each)
        rows = slice(mine.start, mine.stop)
        first = step * config.batch_size
        numbers = [(first + row, row in mine) for row in range(config.batch_size)]
        if self.perturbation is not None:
            pairs = [self._pair(*number, frames, self.perturbation) for number in numbers]
            good, bad = zip(*pairs, strict=True)
            return collate_pairs(good, bad, chat=self.chat, config=config, rows=rows)
        samples = [self.source.sample(n, frames=frames, pixels=own) for n, own in numbers]
        encoded = [self.chat.encode(sample) for sample in samples]
        return collate(samples, encoded, config=config, pad_id=self.chat.pad_id, rows=rows)

    def _pair(
        self, number: int, own: bool, frames: int, perturbation: PerturbationConfig
    ) -> tuple[Sample, Sample]:
        """Sample `number` and the same with a worse answer; another one where none can be made."""
        for attempt in range(_ATTEMPTS):
            place = number + attempt * _FAR
            sample = self.source.sample(place, frames=frames, pixels=own)
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
                return sample, dataclasses.replace(sample, answer=worse.answer, spans=worse.spans)
        raise InputError(
            f"no worse answer could be made for {_ATTEMPTS} samples, the last of them "
            f"{sample.video}, {sample.question!r}; allow more objective.perturbation.kinds, or "
            f"for kind 'add' more than data.max_events={self.config.max_events}"
        )


class Batches:
    """Batches 0, 1, ... `steps` - 1, made ahead in threads, resumable to the batch."""

    def __init__(self, maker: BatchMaker, *, steps: int):
        """Raises InputError where the hosts do not divide the batch."""
        config = maker.config
        if config.batch_size % maker.hosts:
            raise InputError(
                f"data.batch_size={config.batch_size} does not divide by {maker.hosts} hosts"
            )
        options = grain.ReadOptions(
            num_threads=config.threads, prefetch_buffer_size=config.prefetch
        )
        self._iterator = iter(grain.MapDataset.range(steps).map(maker).to_iter_dataset(options))

    def __next__(self) -> Batch | PreferenceBatch:
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
