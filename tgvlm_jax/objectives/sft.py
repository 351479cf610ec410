"""Supervised fine-tuning of a grounded model: language + grounding + consistency (D2VLM 2.3)."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tgvlm_jax.grounding import targets
from tgvlm_jax.models.vlm import Predicted, VideoLanguageModel
from tgvlm_jax.ops.cross_entropy import token_log_probs
from tgvlm_jax.schema import Experiment, ObjectiveConfig
from tgvlm_jax.types import Batch, pytree


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
    return {"language": 1.0, "grounding": config.grounding, "consistency": config.consistency}


def weights(batch: Batch) -> dict[str, Float[Array, ""]]:
    """What each sum is divided by: answer tokens, and samples that have evidence."""
    grounded = jnp.any(batch.response.evidence_mask, axis=-1)
    count = jnp.sum(grounded.astype(jnp.float32))
    return {
        "language": jnp.sum(batch.response.mask.astype(jnp.float32)),
        "grounding": count,
        "consistency": count,
    }


def sums(
    model: VideoLanguageModel, batch: Batch, *, config: ObjectiveConfig
) -> dict[str, Float[Array, ""]]:
    """The loss terms of a (micro-)batch, summed.

    language: negative log-likelihood of the answer's tokens.
    grounding: BCE of frame scores against alpha^-distance targets, a mean over each sample's own
        slots and frames.
    consistency: L1 between the two mentions of each span, likewise.
    """
    response = batch.response
    predicted = model.extend(model.prefill(batch.prompt), response)
    log_probs = token_log_probs(
        model.decoder.norm(predicted.final), model.decoder.head(), response.tokens
    )
    language = -jnp.sum(jnp.where(response.mask, log_probs, 0.0))
    if predicted.scores is None:
        return {"language": language}
    return {
        "language": language,
        "grounding": jnp.sum(_grounding(predicted, batch, config)),
        "consistency": jnp.sum(_consistency(predicted, batch)),
    }


def _grounding(predicted: Predicted, batch: Batch, config: ObjectiveConfig) -> Float[Array, "b"]:
    frames = batch.prompt.visual.mask
    if config.alpha:
        wanted = targets.soft_targets(batch.response.spans, frames.shape[1], alpha=config.alpha)
    else:
        wanted = targets.hard_targets(batch.response.spans, frames.shape[1])
    scores = predicted.scores
    # log(1 + e^-|s|) + max(s, 0) - s y: binary cross-entropy that never overflows.
    bce = jnp.log1p(jnp.exp(-jnp.abs(scores))) + jax.nn.relu(scores) - scores * wanted
    counted = batch.response.evidence_mask[:, :, None] & frames[:, None, :]
    return _mean(bce, counted)


def _consistency(predicted: Predicted, batch: Batch) -> Float[Array, "b"]:
    first, second = jnp.split(predicted.queries.astype(jnp.float32), 2, axis=1)
    both = jnp.logical_and(*jnp.split(batch.response.evidence_mask, 2, axis=1))
    difference = jnp.abs(first - second)
    return _mean(difference, jnp.broadcast_to(both[..., None], difference.shape))


def _mean(values: Float[Array, "b e x"], counted: Bool[Array, "b e x"]) -> Float[Array, "b"]:
    """Mean of each sample over what counts; 0 where nothing does."""
    total = jnp.sum(jnp.where(counted, values, 0.0), axis=(1, 2))
    return total / jnp.maximum(jnp.sum(counted, axis=(1, 2)).astype(jnp.float32), 1.0)
