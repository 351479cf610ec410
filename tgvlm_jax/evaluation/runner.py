"""Brings a model and questions together: batches of samples in, answers with intervals out."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, overload

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Float64
from tqdm import tqdm

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.data import answers
from tgvlm_jax.data.annotated import AnnotatedVideos, Skipped
from tgvlm_jax.data.chat import Chat
from tgvlm_jax.data.collate import collate
from tgvlm_jax.data.pipeline import without_pixels
from tgvlm_jax.data.sources import Source, open_source
from tgvlm_jax.data.take_views import TakeViews
from tgvlm_jax.evaluation import temporal
from tgvlm_jax.grounding import spans as span_lib
from tgvlm_jax.models import parameters
from tgvlm_jax.rollout.sampler import Generation, generate
from tgvlm_jax.rollout.sampling import GREEDY
from tgvlm_jax.schema import Experiment, SamplingConfig
from tgvlm_jax.types import InputError, Sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answered:
    """One sample with what the model said.

    Attributes:
        raw: the generated text, `<evi>` and `</evi>` kept. text: what a person reads.
        mentions: seconds of every `<evi>`, of the grounding part too.
        spans: those of the spoken part; of the grounding part where it has none.
        probabilities: of every frame, for each of `spans`.
        iou: overlap with the truth; 0 where the model gave no interval, None without a truth.
    """

    sample: Sample
    raw: str
    text: str
    mentions: Float64[np.ndarray, "m 2"]
    spans: Float64[np.ndarray, "e 2"]
    probabilities: Float[np.ndarray, "e f"]
    iou: float | None


def answer(
    params: parameters.Params,
    samples: Sequence[Sample],
    *,
    experiment: Experiment,
    chat: Chat,
    mesh: Mesh | None = None,
    sampling: SamplingConfig = GREEDY,
    key: jax.Array | None = None,
) -> list[Answered]:
    """Answers questions in batches of one size, so that a bucket compiles once.

    `sampling` is how tokens are chosen; with a temperature it needs a `key`.
    """
    settings = {"experiment": experiment, "chat": chat, "mesh": mesh}
    return list(_answers(params, samples, sampling=sampling, key=key, **settings))


def _answers(
    params: parameters.Params,
    samples: Sequence[Sample],
    *,
    experiment: Experiment,
    chat: Chat,
    mesh: Mesh | None,
    sampling: SamplingConfig = GREEDY,
    key: jax.Array | None = None,
) -> Iterator[Answered]:
    size = experiment.evaluation.batch_size
    starts = range(0, len(samples), size)
    for start in tqdm(starts, desc="answering", unit="batch", leave=False, disable=None):
        part = list(samples[start : start + size])
        padded = part + part[-1:] * (size - len(part))
        own = None if key is None else jax.random.fold_in(key, start)
        settings = {"experiment": experiment, "chat": chat, "mesh": mesh}
        found = _generate(params, padded, sampling=sampling, key=own, **settings)
        for row, sample in enumerate(part):
            yield _read(row, sample, found, experiment, chat)


def _generate(
    params: parameters.Params,
    samples: Sequence[Sample],
    *,
    experiment: Experiment,
    chat: Chat,
    mesh: Mesh | None,
    sampling: SamplingConfig,
    key: jax.Array | None,
) -> Generation:
    asked = [dataclasses.replace(sample, answer="", spans=np.zeros((0, 2))) for sample in samples]
    encoded = [chat.encode(sample) for sample in asked]
    batch = collate(asked, encoded, config=experiment.data, pad_id=chat.pad_id)
    with mesh_lib.use(mesh):
        found = generate(
            params,
            mesh_lib.put_batch(batch.prompt, mesh),
            blueprint=parameters.blueprint(experiment.model),
            max_tokens=experiment.evaluation.max_tokens,
            evidence_id=chat.evidence_id,
            end_id=chat.end_id,
            pad_id=chat.pad_id,
            sampling=sampling,
            key=key,
        )
    return jax.device_get(found)


def _read(
    row: int, sample: Sample, found: Generation, experiment: Experiment, chat: Chat
) -> Answered:
    grounding = found.grounding
    frames = None if grounding is None else grounding.spans[row]
    said = answers.read(found.tokens[row], frames, sample=sample, chat=chat, config=experiment.data)
    shown = np.zeros((0, len(sample.seconds)), np.float32)
    if grounding is not None:
        shown = grounding.probabilities[row, said.places, : len(sample.seconds)]
    truth = sample.spans
    return Answered(
        sample=sample,
        raw=said.raw,
        text=said.text,
        mentions=said.mentions,
        spans=said.spans,
        probabilities=shown,
        iou=span_lib.union_iou(said.spans, truth) if len(truth) else None,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Answers on held-out clips, their scores, and what blind answers score on the same clips.

    `skipped` are records of an annotation file that could not be asked about.
    """

    answered: list[Answered]
    scores: temporal.Scores
    kinds: dict[str, temporal.Scores]
    blind: dict[str, temporal.Scores]
    skipped: Skipped = dataclasses.field(default_factory=Skipped)

    @property
    def ious(self) -> Float64[np.ndarray, "b"]:
        """IoU of every answer."""
        return np.array([one.iou for one in self.answered])

    @property
    def best_blind(self) -> float:
        """Mean IoU of the best blind baseline."""
        return max(scores.mean_iou for scores in self.blind.values())

    def to_json(self) -> dict[str, Any]:
        """Every figure."""
        tables = {"kinds": self.kinds, "blind": self.blind}
        named = {
            table: {name: scores.to_json() for name, scores in rows.items()}
            for table, rows in tables.items()
        }
        return {"held_out": self.scores.to_json()} | named


class Clips(Sequence[Sample]):
    """Held-out samples, each made when it is asked for, so that long videos fit in memory."""

    def __init__(self, source: Source, numbers: Sequence[int]):
        """`numbers` are those of the samples in `source`."""
        self._source, self._numbers = source, numbers
        self._frames = max(source.config.frames)
        listed = isinstance(source, AnnotatedVideos | TakeViews)
        self.skipped = source.skipped if listed else Skipped()

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return self._source.sample(self._numbers[index], frames=self._frames)


def held_out_samples(experiment: Experiment, *, size: tuple[int, int] | None = None) -> Clips:
    """The evaluation clips, the same whatever the seed of training.

    Of annotated records those count that ground something, of takes all; `evaluation.samples` of
    them, evenly spread over the file.

    Args:
        experiment: names shards, and kinds and the held-out part or the file of annotations.
        size: (height, width) of the frames; by default what the model takes.

    Raises:
        InputError: shards or annotations cannot be read, or nothing there is grounded.
    """
    config, count = experiment.data, experiment.evaluation.samples
    if config.annotations and not config.eval_annotations:
        raise InputError("data.eval_annotations='': name a file of records to be asked about")
    size = size or experiment.model.frame_size
    source = open_source(config, "eval", size=size, seed=experiment.evaluation.seed)
    if isinstance(source, TakeViews):
        chosen = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)
        return Clips(source, chosen.tolist())
    if not isinstance(source, AnnotatedVideos):
        return Clips(source, range(count))
    grounded = [n for n, record in enumerate(source.records) if len(record.spans)]
    if not grounded:
        raise InputError(f"{source.path}: no record has intervals to be found")
    chosen = np.linspace(0, len(grounded) - 1, min(count, len(grounded))).round().astype(int)
    return Clips(source, [grounded[n] for n in chosen])


def evaluate(
    params: parameters.Params, *, experiment: Experiment, chat: Chat, mesh: Mesh | None = None
) -> HeldOut:
    """Asks about the held-out clips and scores the answers, which keep no pixels."""
    clips = held_out_samples(experiment)
    answered = [
        dataclasses.replace(one, sample=without_pixels(one.sample))
        for one in _answers(params, clips, experiment=experiment, chat=chat, mesh=mesh)
        if one.sample.readable
    ]
    if not answered:
        raise InputError(
            f"none of the {len(clips)} clips could be read; the first: {clips.skipped.first()}"
        )
    samples = [one.sample for one in answered]
    ious = np.array([one.iou for one in answered])
    most = max(len(one.spans) for one in samples)
    truths = np.stack([_padded(one.spans - one.seconds[0], most) for one in samples])
    durations = np.array([one.duration - one.seconds[0] for one in samples])
    return HeldOut(
        answered=answered,
        scores=temporal.score(ious),
        kinds=temporal.score_kinds(ious, [one.kind for one in samples]),
        blind=temporal.blind(truths, durations),
        skipped=clips.skipped,
    )


def _padded(spans: Float64[np.ndarray, "e 2"], count: int) -> Float64[np.ndarray, "count 2"]:
    """The same stretch of time, in disjoint spans and then some that last for no time."""
    merged = span_lib.merge(spans)
    return np.concatenate([merged, np.zeros((count - len(merged), 2))])
