"""Supervised fine-tuning of a grounded model: language + grounding + consistency (D2VLM 2.3)."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tgvlm_jax.grounding import targets
from tgvlm_jax.models import context, packing
from tgvlm_jax.models.vlm import Predicted, VideoLanguageModel
from tgvlm_jax.ops.cross_entropy import token_log_probs
from tgvlm_jax.schema import Experiment, FpoConfig, SftConfig
from tgvlm_jax.types import Batch, PreferenceBatch, Response, pytree


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """A loss as a sum and what it is to be divided by."""

    sum: Annotated[Any, "float32"]
    weight: Annotated[Any, "float32"]


def coefficients(experiment: Experiment) -> dict[str, float]:
    """What each term counts in the total; a model without evidence heads has language alone."""
    config = experiment.objective
    if experiment.model.evidence is None:
        return {"language": 1.0}
    assert isinstance(config, SftConfig | FpoConfig)
    return {"language": 1.0, "grounding": config.grounding, "consistency": config.consistency}


def weights(
    batch: Batch | PreferenceBatch, *, on_prompt: bool = False
) -> dict[str, Float[Array, ""]]:
    """What each sum is divided by: learned tokens, and samples that have evidence."""
    grounded = jnp.any(batch.response.evidence_mask, axis=-1)
    count = jnp.sum(grounded.astype(jnp.float32))
    tokens = jnp.sum(batch.response.mask.astype(jnp.float32))
    if on_prompt:
        tokens += jnp.sum(_prompt_mask(batch).astype(jnp.float32))
    return {
        "language": tokens,
        "grounding": count,
        "consistency": count,
    }


def sums(
    model: VideoLanguageModel, batch: Batch, *, config: SftConfig
) -> dict[str, Float[Array, ""]]:
    """The loss terms of a (micro-)batch, summed.

    language: negative log-likelihood of the answer's tokens, and with `config.loss_on_prompt` of
        the prompt's text behind its first token.
    grounding: BCE of frame scores against alpha^-distance targets, a mean over each sample's own
        slots and frames.
    consistency: L1 between the two mentions of each span, likewise.
    """
    states = model.states(batch.prompt, taps=model.taps)
    if batch.prompt.packed is None:
        predicted = model.extend(model.prefill(batch.prompt, states=states), batch.response)
    else:
        predicted = packing.extend(model, batch.prompt, batch.response, states=states)
    found = predicted_sums(model, predicted, batch, config=config)
    if config.loss_on_prompt:
        before = model.decoder.norm(context.collect(states.final)[:, :-1])
        log_probs = token_log_probs(before, model.decoder.head(), batch.prompt.tokens[:, 1:])
        found["language"] -= jnp.sum(jnp.where(_prompt_mask(batch), log_probs, 0.0))
    return found


def _prompt_mask(batch: Batch | PreferenceBatch) -> Bool[Array, "b _p"]:
    """Text of the prompts behind their first token, of samples that are learned from."""
    prompt, learned = batch.prompt, batch.response.mask
    order = jnp.arange(prompt.tokens.shape[1], dtype=prompt.length.dtype)
    text = (prompt.visual_index < 0) & (order < prompt.length[:, None])
    if prompt.packed is None:
        return text[:, 1:] & jnp.any(learned, axis=1, keepdims=True)
    same = prompt.packed.segments[:, :, None] == batch.response.packed.segments[:, None, :]
    text &= (prompt.packed.places > 0) & jnp.any(same & learned[:, None, :], axis=2)
    return text[:, 1:]


def predicted_sums(
    model: VideoLanguageModel,
    predicted: Predicted,
    batch: Batch | PreferenceBatch,
    *,
    config: SftConfig | FpoConfig,
) -> dict[str, Float[Array, ""]]:
    """As `sums`, from what the model predicts for the response of the batch."""
    response = batch.response
    log_probs = response_log_probs(model, predicted, response)
    language = -jnp.sum(jnp.where(response.mask, log_probs, 0.0))
    if predicted.scores is None:
        return {"language": language}
    return {
        "language": language,
        "grounding": jnp.sum(_grounding(predicted, batch, config)),
        "consistency": jnp.sum(_consistency(predicted, batch)),
    }


def _grounding(
    predicted: Predicted, batch: Batch | PreferenceBatch, config: SftConfig | FpoConfig
) -> Float[Array, "b"]:
    frames = batch.prompt.visual.mask
    # Rounded, not clamped: the released code's rule for this term (D2VLM 11).
    wanted = frame_targets(jnp.round(batch.response.spans), frames.shape[1], alpha=config.alpha)
    scores = predicted.scores
    # log(1 + e^-|s|) + max(s, 0) - s y: binary cross-entropy that never overflows.
    bce = jnp.log1p(jnp.exp(-jnp.abs(scores))) + jax.nn.relu(scores) - scores * wanted
    counted = batch.response.evidence_mask[:, :, None] & frames[:, None, :]
    return _mean(bce, counted)


def response_log_probs(
    model: VideoLanguageModel, predicted: Predicted, response: Response
) -> Float[Array, "b t"]:
    """Log-probability of every token of a response; padding is not masked."""
    return token_log_probs(
        model.decoder.norm(predicted.final), model.decoder.head(), response.tokens
    )


def frame_targets(
    spans: Float[Array, "b e 2"], frame_count: int, *, alpha: float
) -> Float[Array, "b e f"]:
    """Soft targets, or with alpha 0 the hard ones of the paper."""
    if alpha:
        return targets.soft_targets(spans, frame_count, alpha=alpha)
    return targets.hard_targets(spans, frame_count)


def _consistency(predicted: Predicted, batch: Batch | PreferenceBatch) -> Float[Array, "b"]:
    first, second = jnp.split(predicted.queries.astype(jnp.float32), 2, axis=1)
    both = jnp.logical_and(*jnp.split(batch.response.evidence_mask, 2, axis=1))
    difference = jnp.abs(first - second)
    return _mean(difference, jnp.broadcast_to(both[..., None], difference.shape))


def _mean(values: Float[Array, "b e x"], counted: Bool[Array, "b e x"]) -> Float[Array, "b"]:
    """Mean of each sample over what counts; 0 where nothing does."""
    total = jnp.sum(jnp.where(counted, values, 0.0), axis=(1, 2))
    return total / jnp.maximum(jnp.sum(counted, axis=(1, 2)).astype(jnp.float32), 1.0)
