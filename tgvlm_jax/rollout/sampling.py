"""How the next token is chosen from logits: temperature, top-k, top-p, repetition penalty."""

import math

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
    return _drawn(logits, key)


def log_probs(
    logits: Float[Array, "b n"], token: Int[Array, "b"], *, temperature: float
) -> Float[Array, "b"]:
    """Of a token of each row, at a temperature, whatever else decided on it."""
    logits = logits / jnp.float32(temperature)
    hot = token[:, None] == jnp.arange(logits.shape[1], dtype=token.dtype)
    return jnp.sum(jnp.where(hot, logits, 0), axis=1) - jax.nn.logsumexp(logits, axis=1)


def _drawn(logits: Float[Array, "b n"], key: jax.Array) -> Int32[Array, "b"]:
    """A token a row by its probability: one random number, looked up in running sums.

    First in those over parts of the vocabulary, then in those within one part: noise for every
    token, or one long running sum, takes longer on a CPU than the product that made the logits.
    """
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    rows, size = weights.shape
    parts, cut = _parts(size), "vocab" if mesh.size("vocab", size) > 1 else None
    weights = mesh.reshape(weights, (rows, parts, size // parts), out=("batch", cut, None))
    upto = jnp.cumsum(mesh.shard(jnp.sum(weights, axis=-1), "batch", None), axis=-1)
    layout = jax.typeof(upto).sharding if mesh.active() else None
    wanted = upto[:, -1:] * jax.random.uniform(key, (rows, 1), out_sharding=layout)
    part = jnp.sum(upto <= wanted, axis=-1, keepdims=True)
    order = jnp.arange(parts)
    before = jnp.sum(jnp.where(order == part - 1, upto, 0), axis=-1, keepdims=True)
    inside = jnp.sum(jnp.where((order == part)[..., None], weights, 0), axis=1)
    place = jnp.sum(before + jnp.cumsum(inside, axis=-1) <= wanted, axis=-1)
    # The sums of parts and those within are rounded apart: never past what can be drawn.
    last = jnp.max(jnp.where(inside > 0, jnp.arange(size // parts), 0), axis=-1)
    return (part[:, 0] * (size // parts) + jnp.minimum(place, last)).astype(jnp.int32)


def _parts(size: int) -> int:
    """How many parts of a vocabulary to take: few more than its square root, and as laid out."""
    shards = mesh.size("vocab", size)
    each, least = size // shards, max(1, math.isqrt(size) // shards)
    return shards * next(count for count in range(least, each + 1) if each % count == 0)


def _likeliest(logits: Float[Array, "b n"], count: int) -> Bool[Array, "b n"]:
    """The `count` largest of each row, and what equals the last of them."""
    if count >= logits.shape[1]:
        return jnp.ones(logits.shape, bool)
    ordered = jnp.sort(_whole(logits), axis=1)
    return logits >= ordered[:, -count][:, None]


def _nucleus(logits: Float[Array, "b n"], share: float) -> Bool[Array, "b n"]:
    """The fewest of the likeliest tokens that hold `share` of the probability."""
    probabilities = jax.nn.softmax(logits, axis=-1)
    ordered = -jnp.sort(-_whole(probabilities), axis=-1)
    before = jnp.cumsum(ordered, axis=-1) - ordered
    least = jnp.min(jnp.where(before < share, ordered, jnp.inf), axis=-1, keepdims=True)
    return probabilities >= least


def _whole(x: Float[Array, "b n"]) -> Float[Array, "b n"]:
    """With all of a row on one device, as sorting it needs."""
    return mesh.shard(x, "batch", None)


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
