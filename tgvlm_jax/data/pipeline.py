"""Batches by number, and the Grain graph that makes them ahead of the device.

A batch is a pure function of (seed, step): its frame bucket and its sample numbers follow from
them. So the graph has random access, every host makes only its own rows of the same global batch,
and the iterator's state is one number that a checkpoint holds.
"""

import dataclasses
from typing import Any

import grain
import numpy as np

from tgvlm_jax.data import packing, preference
from tgvlm_jax.data.annotated import AnnotatedVideos
from tgvlm_jax.data.chat import Chat
from tgvlm_jax.data.collate import collate, collate_pairs
from tgvlm_jax.data.sources import Source
from tgvlm_jax.data.windows import ClipSource
from tgvlm_jax.schema import DataConfig, PerturbationConfig
from tgvlm_jax.types import Batch, InputError, Pools, PreferenceBatch, Questions, Sample

_REJECTED_STREAM = 3  # of random numbers; those before are the samples'
_ATTEMPTS = 16  # other samples to try where no worse answer can be made


def without_pixels(sample: Sample) -> Sample:
    """The sample with frames of 0 x 0 pixels and no views, to be kept."""
    frames = np.zeros((len(sample.frames), 0, 0, 3), np.uint8)
    return dataclasses.replace(sample, frames=frames, views=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchMaker:
    """Makes this host's rows of global batch number `step`.

    `rows` are this host's, None for all of them. With a `perturbation` every sample gets a second
    answer, that is worse, and batches are of preferences; where `asks`, they are Questions; with
    `data.turns`, they are Pools. With `data.pack` a row has several samples.
    """

    source: Source
    chat: Chat
    config: DataConfig
    seed: int
    rows: tuple[int, ...] | None = None
    perturbation: PerturbationConfig | None = None
    asks: bool = False

    def __call__(self, step: int) -> Batch | PreferenceBatch | Questions | Pools:
        """The rows of batch `step`, made from scratch; other hosts' rows without their pixels."""
        frames = self.source.bucket(step)
        if self.config.pack > 1:
            return self._packed(step, frames)
        numbers = self._numbers(step)
        rows = slice(sum(own for _, own in numbers))
        if self.config.turns is not None:
            own = [n for n, is_own in numbers if is_own]
            return Pools(samples=tuple(self.source.sample(n, frames=frames) for n in own))
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

    def _packed(self, step: int, frames: int) -> Batch:
        """Rows of several samples, planned from all of the step's without their pixels."""
        numbers = list(self.source.numbers(step))
        planned = packing.plan([self._measured(n, frames) for n in numbers], self.config)
        mine = range(len(planned.rows)) if self.rows is None else self.rows
        rows = [[numbers[i] for i in planned.rows[row]] for row in mine]
        samples = [[self.source.sample(n, frames=frames) for n in row] for row in rows]
        read = [[(one, self.chat.encode(one)) for one in row] for row in samples]
        return packing.collate(read, planned, config=self.config, pad_id=self.chat.pad_id)

    def _measured(self, number: int, frames: int) -> packing.Pair:
        """A sample without its pixels, and its ids, which for some towers follow from its size."""
        sample = self.source.sample(number, frames=frames, pixels=False)
        if self.chat.videos is not None:
            assert isinstance(self.source, AnnotatedVideos | ClipSource), "others are not packed"
            shape = (len(sample.frames), *self.source.stored_size(sample.video), 3)
            sample = dataclasses.replace(sample, frames=np.broadcast_to(np.uint8(0), shape))
        return sample, self.chat.encode(sample, pixels=False)

    def _numbers(self, step: int) -> list[tuple[int, bool]]:
        """Samples of the whole batch, and whether they are this host's: those come first."""
        numbers = self.source.numbers(step)
        mine = range(len(numbers)) if self.rows is None else self.rows
        others = sorted(set(range(len(numbers))) - set(mine))
        return [(numbers[row], True) for row in mine] + [(numbers[row], False) for row in others]

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
        config, self.source = maker.config, maker.source
        options = grain.ReadOptions(
            num_threads=config.threads, prefetch_buffer_size=config.prefetch
        )
        self._iterator = iter(grain.MapDataset.range(steps).map(maker).to_iter_dataset(options))

    def __next__(self) -> Batch | PreferenceBatch | Questions | Pools:
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
