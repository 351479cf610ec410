"""Factorised preference optimisation: text and grounding preferred together (D2VLM 3.1).

    log pi(R | prompt) = sum_i log p(token_i) + sum_slots sum_frames log(y q + (1 - y)(1 - q))
    loss = -log sigmoid(beta (log pi(preferred) - log pi(rejected))) + the supervised terms

with q the frame probabilities of a slot and y what its span says of the frames. There is no
reference model in FPO; plain DPO has one, the same weights without their adapters.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tgvlm_jax.grounding.targets import span_log_likelihood
from tgvlm_jax.models.vlm import Predicted, VideoLanguageModel
from tgvlm_jax.objectives import sft
from tgvlm_jax.schema import Experiment, FpoConfig
from tgvlm_jax.types import InputError, PreferenceBatch


def coefficients(experiment: Experiment) -> dict[str, float]:
    """What each term counts in the total; "margin" and "accuracy" are shown, not learned."""
    config = experiment.objective
    assert isinstance(config, FpoConfig)
    supervised = {n: x * config.supervised for n, x in sft.coefficients(experiment).items()}
    return {**supervised, "preference": 1.0, "margin": 0.0, "accuracy": 0.0}


def weights(batch: PreferenceBatch) -> dict[str, Float[Array, ""]]:
    """What each sum is divided by: those of the preferred answers, and pairs."""
    pairs = jnp.asarray(batch.scored.shape[0], jnp.float32)
    return {**sft.weights(batch), "preference": pairs, "margin": pairs, "accuracy": pairs}


def sums(
    model: VideoLanguageModel,
    batch: PreferenceBatch,
    *,
    config: FpoConfig,
    reference: VideoLanguageModel | None = None,
) -> dict[str, Float[Array, ""]]:
    """The supervised terms of the preferred answers, and the preference, summed over pairs.

    The prompt is read once; both answers extend it.

    Args:
        model: the policy. batch: pairs. config: the objective.
        reference: without adapters; needed where `config.reference` is "base".
    """
    prompt = model.prefill(batch.prompt)
    preferred = model.extend(prompt, batch.response)
    margin = _log_prob(model, preferred, batch, config, rejected=False)
    rejected = model.extend(prompt, batch.rejected)
    margin -= _log_prob(model, rejected, batch, config, rejected=True)
    if config.reference == "base":
        if reference is None:
            raise InputError("objective.reference='base' needs adapters: give model.lora a table")
        margin -= jax.lax.stop_gradient(_reference_margin(reference, batch, config))
    supervised = sft.predicted_sums(model, preferred, batch, config=config)
    return {
        **supervised,
        "preference": jnp.sum(preference_loss(margin, config=config)),
        "margin": jnp.sum(margin),
        "accuracy": jnp.sum((margin > 0).astype(jnp.float32)),
    }


def _reference_margin(
    reference: VideoLanguageModel, batch: PreferenceBatch, config: FpoConfig
) -> Float[Array, "b"]:
    prompt = reference.prefill(batch.prompt)
    preferred = reference.extend(prompt, batch.response)
    rejected = reference.extend(prompt, batch.rejected)
    return _log_prob(reference, preferred, batch, config, rejected=False) - _log_prob(
        reference, rejected, batch, config, rejected=True
    )


def preference_loss(margin: Float[Array, "b"], *, config: FpoConfig) -> Float[Array, "b"]:
    """The loss of a pair by its margin in log-probability.

    "sigmoid" is DPO's, "hinge" that of SLiC, "ipo" (margin - 1 / (2 beta))^2.
    """
    beta = jnp.float32(config.beta)
    if config.loss == "sigmoid":
        return -jax.nn.log_sigmoid(beta * margin)
    if config.loss == "hinge":
        return jax.nn.relu(1 - beta * margin)
    return jnp.square(margin - 1 / (2 * beta))


def _log_prob(
    model: VideoLanguageModel,
    predicted: Predicted,
    batch: PreferenceBatch,
    config: FpoConfig,
    *,
    rejected: bool,
) -> Float[Array, "b"]:
    """log pi of one answer of each pair, a plain sum over its tokens and slots."""
    response = batch.rejected if rejected else batch.response
    scored = batch.rejected_scored if rejected else batch.scored
    tokens = sft.response_log_probs(model, predicted, response)
    total = jnp.sum(jnp.where(scored, tokens, 0.0), axis=-1)
    if not config.grounding_in_preference or predicted.scores is None:
        return total
    frames: Bool[Array, "b f"] = batch.prompt.visual.mask
    alpha = config.preference_alpha
    wanted = sft.frame_targets(response.spans, frames.shape[1], alpha=alpha)
    said = span_log_likelihood(predicted.scores, wanted, frames)
    return total + jnp.sum(jnp.where(response.evidence_mask, said, 0.0), axis=-1)
