"""Group-relative policy optimisation: the policy loss on sampled answers (VideoSSR 5).

The prompt is read once and all answers of its group extend it, as when they were sampled.

Factorised: where a model with evidence heads has drawn the frames of a span, each frame is an
action of its own, with a ratio and an advantage apart from those of the text.
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from tgvlm_jax import mesh
from tgvlm_jax.grounding.targets import bernoulli_log_probs
from tgvlm_jax.models.vlm import Predicted, VideoLanguageModel
from tgvlm_jax.objectives import policy
from tgvlm_jax.objectives.policy import Sampled
from tgvlm_jax.ops.cross_entropy import token_log_probs
from tgvlm_jax.schema import Experiment, GrpoConfig, PolicyConfig
from tgvlm_jax.types import Prompt, Response, pytree

_SHOWN = ("clip_fraction", "dual_clip_fraction", "old_kl")


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """Frames that were drawn for the evidence of every answer, slot by slot.

    Attributes:
        frames: which. log_probs: of each being drawn or not as it was, when it was.
        mask: frames and slots that count. advantages: of the spans of each answer.
    """

    frames: Annotated[Any, "bool b g e f"]
    log_probs: Annotated[Any, "float32 b g e f"]
    mask: Annotated[Any, "bool b g e f"]
    advantages: Annotated[Any, "float32 b g"]


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyBatch:
    """Prompts with groups of sampled answers; everything starts with (prompt, answer).

    Attributes:
        response: its mask has the tokens that count. advantages: of each token.
        log_probs: of each token by the policy that sampled. ref_log_probs: by the reference, None
            without one.
        drawn: None where spans are not learned from.
        scale: what each token counts in the policy term; None leaves it to the aggregation.
    """

    prompt: Prompt
    response: Annotated[Any, "Response b g ..."]
    advantages: Annotated[Any, "float32 b g t"]
    log_probs: Annotated[Any, "float32 b g t"]
    ref_log_probs: Annotated[Any, "float32 b g t | None"] = None
    drawn: Drawn | None = None
    scale: Annotated[Any, "float32 b g t | None"] = None


def coefficients(experiment: Experiment) -> dict[str, float]:
    """What each term counts in the total; some are shown, not learned."""
    config = _config(experiment)
    spans = {"spans": config.spans} if config.spans else {}
    return {**policy.coefficients(config.policy), **spans, **dict.fromkeys(_SHOWN, 0.0)}


def weights(batch: PolicyBatch, *, config: GrpoConfig) -> dict[str, Float[Array, ""]]:
    """What each sum is divided by, taken from the whole batch."""
    mask = flat(batch.response.mask)
    found = policy.weights(mask, groups(batch.advantages), config=config.policy)
    tokens = jnp.sum(mask).astype(jnp.float32)
    found |= dict.fromkeys(_SHOWN, tokens)
    if config.spans and batch.drawn is not None:
        actions = _actions(batch.drawn.mask)
        setting = _of_spans(config.policy)
        found["spans"] = policy.weights(actions, groups(batch.advantages), config=setting)["policy"]
    return found


def sums(
    model: VideoLanguageModel, batch: PolicyBatch, *, config: GrpoConfig
) -> dict[str, Float[Array, ""]]:
    """The loss terms of a (micro-)batch, summed; what `policy.sums` has, and "spans"."""
    response: Response = jax.tree.map(flat, batch.response)
    predicted = model.extend(model.prefill(batch.prompt), response)
    log_probs = answer_log_probs(model, predicted, response, config=config)
    group = groups(batch.advantages)
    sampled = Sampled(
        old_log_probs=flat(batch.log_probs),
        ref_log_probs=None if batch.ref_log_probs is None else flat(batch.ref_log_probs),
        advantages=flat(batch.advantages),
        mask=response.mask,
        scale=policy.row_scale(response.mask, group, config=config.policy),
        policy_scale=None if batch.scale is None else flat(batch.scale),
    )
    entropy = None
    if config.policy.entropy:
        entropy = _entropy(model, predicted, config.sampling.temperature)
    found = policy.sums(log_probs, sampled, config=config.policy, entropy=entropy)
    shown = policy.metrics(log_probs, sampled, config=config.policy)
    found |= {name: shown[name].sum for name in _SHOWN}
    if config.spans and batch.drawn is not None:
        found["spans"] = _spans(predicted, batch.drawn, group, config=config.policy)
    return found


def answer_log_probs(
    model: VideoLanguageModel, predicted: Predicted, response: Response, *, config: GrpoConfig
) -> Float[Array, "b t"]:
    """Of every token, at the temperature that answers are sampled at."""
    states = model.decoder.norm(predicted.final)
    warm = states / jnp.asarray(config.sampling.temperature, states.dtype)
    return token_log_probs(warm, model.decoder.head(), response.tokens)


def _spans(
    predicted: Predicted, drawn: Drawn, group: Int[Array, "b"], *, config: PolicyConfig
) -> Float[Array, ""]:
    """The policy loss of the frames of evidence, one action each."""
    config, mask = _of_spans(config), _actions(drawn.mask)
    log_probs = _rows(bernoulli_log_probs(predicted.scores, flat(drawn.frames)))
    sampled = Sampled(
        old_log_probs=_actions(drawn.log_probs),
        ref_log_probs=None,
        advantages=jnp.broadcast_to(flat(drawn.advantages)[:, None], log_probs.shape),
        mask=mask,
        scale=policy.row_scale(mask, group, config=config),
    )
    return policy.sums(log_probs, sampled, config=config)["policy"]


def _of_spans(config: PolicyConfig) -> PolicyConfig:
    """The same loss without what is about tokens."""
    return dataclasses.replace(config, kl=0.0, entropy=0.0)


def _entropy(
    model: VideoLanguageModel, predicted: Predicted, temperature: float
) -> Float[Array, "b t"]:
    logits = model.decoder.logits(predicted.final) / jnp.float32(temperature)
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def flat(x: Shaped[Array, "b g ..."]) -> Any:
    """[b g ...] -> [b * g ...]: the answers to one prompt one after another."""
    rest = (None,) * (x.ndim - 2)
    return mesh.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]), out=("batch", *rest))


def grouped(x: Any, size: int) -> Any:
    """The inverse of `flat`."""
    rest = (None,) * x.ndim
    return mesh.reshape(x, (x.shape[0] // size, size, *x.shape[1:]), out=("batch", *rest))


def _actions(x: Any) -> Any:
    """[b g e f] -> [b * g, e * f]."""
    return _rows(flat(x))


def _rows(x: Any) -> Any:
    return mesh.reshape(x, (x.shape[0], x.shape[1] * x.shape[2]), out=("batch", None))


def groups(of: Float[Array, "b g ..."]) -> Int[Array, "_n"]:
    """For every answer, the number of its prompt."""
    prompts, size = of.shape[:2]
    return jnp.repeat(jnp.arange(prompts, dtype=jnp.int32), size)


def _config(experiment: Experiment) -> GrpoConfig:
    assert isinstance(experiment.objective, GrpoConfig)
    return experiment.objective
