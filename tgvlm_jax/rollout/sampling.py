"""How the next token is chosen from logits: temperature, top-k, top-p, repetition penalty."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32

from tgvlm_jax import mesh
from tgvlm_jax.schema import SamplingConfig
from tgvlm_jax.types import InputError, Prompt

GREEDY = SamplingConfig()


def choose(
    logits: Float[Array, "b n"],
    used: Bool[Array, "b n"] | None,
    *,
    sampling: SamplingConfig,
    key: jax.Array | None,
) -> Int32[Array, "b"]:
    """One token a row.

    Args:
        logits: float32. used: tokens that the repetition penalty is for.
        sampling: at temperature 0 the likeliest token. key: needed at any other.

    Raises:
        InputError: a temperature without a key.
    """
    if used is not None:
        # A penalty above 1 makes positive logits smaller and negative ones larger (CTRL).
        penalty = jnp.float32(sampling.repetition_penalty)
        logits = jnp.where(used, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)
    if not sampling.temperature:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if key is None:
        raise InputError(f"temperature {sampling.temperature} needs a random key")
    logits = logits / jnp.float32(sampling.temperature)
    if sampling.top_k:
        logits = jnp.where(_likeliest(logits, sampling.top_k), logits, -jnp.inf)
    if sampling.top_p < 1.0:
        logits = jnp.where(_nucleus(logits, sampling.top_p), logits, -jnp.inf)
    layout = jax.typeof(logits).sharding if mesh.active() else None
    noise = jax.random.gumbel(key, logits.shape, logits.dtype, out_sharding=layout)
    return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)


def log_probs(
    logits: Float[Array, "b n"], token: Int[Array, "b"], *, temperature: float
) -> Float[Array, "b"]:
    """Of a token of each row, at a temperature, whatever else decided on it."""
    logits = logits / jnp.float32(temperature)
    hot = token[:, None] == jnp.arange(logits.shape[1], dtype=token.dtype)
    return jnp.sum(jnp.where(hot, logits, 0), axis=1) - jax.nn.logsumexp(logits, axis=1)


def _likeliest(logits: Float[Array, "b n"], count: int) -> Bool[Array, "b n"]:
    """The `count` largest of each row, and what equals the last of them."""
    if count >= logits.shape[1]:
        return jnp.ones(logits.shape, bool)
    ordered = jnp.sort(logits, axis=1)
    return logits >= ordered[:, -count][:, None]


def _nucleus(logits: Float[Array, "b n"], share: float) -> Bool[Array, "b n"]:
    """The fewest of the likeliest tokens that hold `share` of the probability."""
    probabilities = jax.nn.softmax(logits, axis=-1)
    ordered = -jnp.sort(-probabilities, axis=-1)
    before = jnp.cumsum(ordered, axis=-1) - ordered
    least = jnp.min(jnp.where(before < share, ordered, jnp.inf), axis=-1, keepdims=True)
    return probabilities >= least


def used_tokens(prompt: Prompt, evidence_id: int | jax.Array, *, size: int) -> Bool[Array, "b n"]:
    """The text tokens of a prompt, `<evi>` apart (D2VLM 4)."""
    order = jnp.arange(prompt.tokens.shape[1], dtype=jnp.int32)
    text = (prompt.visual_index < 0) & (order < prompt.length[:, None])
    ids = jnp.where(text & (prompt.tokens != evidence_id), prompt.tokens, -1)
    return jnp.any(ids[..., None] == jnp.arange(size, dtype=jnp.int32), axis=1)


def add_used(
    used: Bool[Array, "b n"] | None, token: Int[Array, "b 1"], evidence_id: int | jax.Array
) -> Bool[Array, "b n"] | None:
    """With one more token; `<evi>` never counts."""
    if used is None:
        return None
    ids = jnp.arange(used.shape[1], dtype=jnp.int32)
    return used | ((token == ids) & (token != evidence_id))
