"""Batches without content: what a run feeds its step, as shapes, types and layouts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.data.collate import round_up
from tgvlm_jax.data.packing import row_length
from tgvlm_jax.data.patch_videos import bucket_of
from tgvlm_jax.models import parameters
from tgvlm_jax.objectives.grpo import Drawn, PolicyBatch
from tgvlm_jax.objectives.ppo import TurnBatch
from tgvlm_jax.schema import (
    DataConfig,
    Experiment,
    FpoConfig,
    FrameEncoderConfig,
    GrpoConfig,
    QwenVisionConfig,
    TimesformerConfig,
)
from tgvlm_jax.train import optim
from tgvlm_jax.train.abstract_turns import turn_batch, turn_prompt
from tgvlm_jax.types import (
    Batch,
    Frames,
    InputError,
    Packed,
    PatchRows,
    PreferenceBatch,
    Prompt,
    Response,
    Sources,
    Text,
    ViewFeatures,
    Views,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """The longest batch that is planned for: frames, tokens of the question and of the answer."""

    frames: int
    question: int
    answer: int


_Array = Callable[..., Any]


def abstract_batch(
    experiment: Experiment, sizes: Sizes, *, mesh: Mesh
) -> Batch | PreferenceBatch | PolicyBatch | TurnBatch:
    """What the step of an experiment takes, laid out as `mesh.put_batch` lays it out.

    Packed rows (`data.pack`) have as many samples each, all of them the longest.
    """
    data = experiment.data
    if data.turns is not None:
        return turn_batch(experiment, mesh=mesh)
    array = _rows(mesh, data.batch_size)
    shown = _prompt(experiment, sizes, array)
    if data.pack > 1:
        return _packed(data, shown, sizes, array)
    if isinstance(experiment.objective, GrpoConfig):
        with mesh_lib.use(mesh):
            return _policy_batch(experiment, experiment.objective, _seen(experiment, shown), array)
    answer = round_up(sizes.answer, data.response_bucket)
    response = _response(answer, 2 * data.max_events, array)
    if not isinstance(experiment.objective, FpoConfig):
        return Batch(prompt=shown, response=response)
    scored = array(jnp.bool_, answer)
    return PreferenceBatch(
        prompt=shown,
        response=response,
        rejected=response,
        scored=scored,
        rejected_scored=scored,
    )


def abstract_prompt(experiment: Experiment, sizes: Sizes, *, mesh: Mesh, rows: int) -> Prompt:
    """So many prompts as answers are generated to; where answers are learned from, a frozen tower
    has done its work.
    """
    if experiment.data.turns is not None:
        return turn_prompt(experiment, mesh=mesh, rows=rows)
    shown = _prompt(experiment, sizes, _rows(mesh, rows))
    if not isinstance(experiment.objective, GrpoConfig):
        return shown
    with mesh_lib.use(mesh):
        return _seen(experiment, shown)


def _rows(mesh: Mesh, count: int) -> _Array:
    """What makes an array of `count` rows."""
    spec = PartitionSpec(mesh_lib.RULES["batch"])

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct((count, *shape), dtype, sharding=sharding)

    return array


def _prompt(experiment: Experiment, sizes: Sizes, array: _Array) -> Prompt:
    data, tower = experiment.data, experiment.model.tower
    if isinstance(tower, QwenVisionConfig):
        return _patches(tower, data, sizes, array)
    if isinstance(tower, TimesformerConfig):
        return _views(tower, data, sizes, array)
    text = None
    if isinstance(tower, FrameEncoderConfig) and tower.compressor.qformer.vocab_size:
        asked = round_up(min(sizes.question, data.question_tokens), data.question_bucket)
        text = Text(ids=array(jnp.int32, asked), mask=array(jnp.bool_, asked))
    prompt = round_up(sizes.frames + sizes.question, data.prompt_bucket)
    sources = None
    if data.max_sources:
        spans = array(jnp.float32, data.max_sources, 2)
        sources = Sources(slots=array(jnp.int32, prompt), spans=spans)
    return Prompt(
        visual=Frames(
            pixels=array(jnp.uint8, sizes.frames, *(experiment.model.frame_size or ()), 3),
            mask=array(jnp.bool_, sizes.frames),
            question=text,
        ),
        tokens=array(jnp.int32, prompt),
        visual_index=array(jnp.int32, prompt),
        length=array(jnp.int32),
        sources=sources,
    )


def _patches(tower: QwenVisionConfig, data: DataConfig, sizes: Sizes, array: _Array) -> Prompt:
    """All prompts have one shape; its tokens are `data.prompt_tokens`, whatever the question."""
    bucket = bucket_of(tower, dataclasses.replace(data, frames=(sizes.frames,)))
    place = (bucket.rows, bucket.slots)
    return Prompt(
        visual=PatchRows(
            patches=array(jnp.uint8, *place, 3 * tower.temporal * tower.patch**2),
            coordinates=array(jnp.int32, *place, 2),
            frames=array(jnp.int32, *place),
            windows=array(jnp.int32, *place),
            table=array(jnp.float32, *place, 2),
        ),
        tokens=array(jnp.int32, bucket.length),
        visual_index=array(jnp.int32, bucket.length),
        length=array(jnp.int32),
        positions=array(jnp.int32, 3, bucket.length),
        offset=array(jnp.int32),
    )


def _packed(data: DataConfig, one: Prompt, sizes: Sizes, array: _Array) -> Batch:
    """Rows of `data.pack` samples each, of which `one` has the shapes."""
    answer = row_length(data.pack * sizes.answer, data.response_bucket)
    patches = isinstance(one.visual, PatchRows)
    each = one.tokens.shape[1] if patches else sizes.frames + sizes.question
    length = row_length(data.pack * each, data.prompt_bucket)

    def several(x: Any) -> Any:
        count = row_length(data.pack * x.shape[1], data.visual_bucket)
        return array(x.dtype, count, *x.shape[2:])

    def packed(length: int, **ends: Any) -> Packed:
        numbers = array(jnp.int32, length)
        return Packed(segments=numbers, places=numbers, **ends)

    prompt = Prompt(
        visual=jax.tree.map(several, one.visual),
        tokens=array(jnp.int32, length),
        visual_index=array(jnp.int32, length),
        length=array(jnp.int32),
        positions=array(jnp.int32, 3, length) if patches else None,
        packed=packed(length),
    )
    response = dataclasses.replace(
        _response(answer, 2 * data.max_events, array),
        packed=packed(answer, ends=array(jnp.int32, answer)),
    )
    return Batch(prompt=prompt, response=response)


def _views(tower: TimesformerConfig, data: DataConfig, sizes: Sizes, array: _Array) -> Prompt:
    """A clip of every view, or the vector that was kept of it, in one slot."""
    if data.takes is None:
        raise InputError("data.takes is none: a model of views needs to know how many there are")
    views, prompt = len(data.takes.views), round_up(1 + sizes.question, data.prompt_bucket)
    mask = array(jnp.bool_, views)
    if data.takes.features:
        visual = ViewFeatures(vectors=array(jnp.float32, views, tower.width), mask=mask)
    else:
        size = (sizes.frames, tower.image, tower.image, 3)
        visual = Views(clips=array(jnp.uint8, views, *size), mask=mask)
    return Prompt(
        visual=visual,
        tokens=array(jnp.int32, prompt),
        visual_index=array(jnp.int32, prompt),
        length=array(jnp.int32),
    )


def _response(answer: int, slots: int, array: _Array) -> Response:
    return Response(
        tokens=array(jnp.int32, answer),
        mask=array(jnp.bool_, answer),
        evidence=array(jnp.int32, answer),
        spans=array(jnp.float32, slots, 2),
        evidence_mask=array(jnp.bool_, slots),
    )


def _seen(experiment: Experiment, prompt: Prompt) -> Prompt:
    """A tower in which nothing is trained has done its work when answers are sampled."""
    blueprint = parameters.blueprint(experiment.model)
    trained = optim.trainable(experiment.optim, dict.fromkeys(blueprint.shapes))
    if parameters.reach_tower(trained):
        return prompt

    def see(prompt: Prompt) -> Prompt:
        params = parameters.init(experiment.model, jax.random.key(0))
        return blueprint.build(params).see(prompt)

    return jax.eval_shape(see, prompt)


def _policy_batch(
    experiment: Experiment, config: GrpoConfig, prompt: Prompt, array: _Array
) -> PolicyBatch:
    """A group of answers to each prompt, all of the greatest length."""
    group, slots = config.num_generations, 2 * experiment.data.max_events

    def grouped(dtype: Any, *shape: int) -> Any:
        return array(dtype, group, *shape)

    each, drawn = grouped(jnp.float32, config.max_tokens), None
    segments = config.process is not None and config.process.segment_norm == "segment"
    if config.spans and experiment.model.evidence is not None:
        frames = (slots, prompt.visual.mask.shape[1])
        drawn = Drawn(
            frames=grouped(jnp.bool_, *frames),
            log_probs=grouped(jnp.float32, *frames),
            mask=grouped(jnp.bool_, *frames),
            advantages=grouped(jnp.float32),
        )
    return PolicyBatch(
        prompt=prompt,
        response=_response(config.max_tokens, slots, grouped),
        advantages=each,
        scale=each if segments else None,
        log_probs=each,
        ref_log_probs=each if config.policy.kl else None,
        drawn=drawn,
    )
