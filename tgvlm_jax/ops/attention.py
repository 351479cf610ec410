"""Grouped-query attention over one or several stretches of keys under a joint softmax.

Query heads that share a key head are folded beside the query axis, so that each key head is one
matrix product. Keys come in stretches (a shared prompt, a response of one's own) that are never
copied together: that is how several responses attend to one prompt (design D10).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from tgvlm_jax.types import pytree

PRODUCT = "product"
"""What a remat policy knows by this name it keeps: results of linear maps and of attention."""

_FAR_BELOW = -1e30  # finite, so that a row without any key stays free of NaN


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyValues:
    """Keys and values of one layer ([b h s k]) or of all stacked ([l b h s k]).

    Heads stand before slots, as the products want them: a cache is not turned at every token.
    """

    k: Annotated[Any, "float ... b h s k"]
    v: Annotated[Any, "float ... b h s k"]


def attend(
    q: Float[Array, "b t h r k"],
    stretches: Sequence[KeyValues],
    masks: Sequence[Bool[Array, "b #t _s"]],
) -> Float[Array, "b t h r k"]:
    """Softmax attention, computed in float32, over all stretches together.

    Weights are made again for the gradient, so nothing of size t x s is kept (as in
    FlashAttention, arXiv:2205.14135, section 3.1).

    Args:
        q: queries, `h` key heads with `r` query heads each.
        stretches: keys and values, each of its own length.
        masks: for each stretch, which key each query may see.
    """
    return jnp.moveaxis(_attend(jnp.moveaxis(q, 1, 3), tuple(stretches), tuple(masks)), 3, 1)


# In every einsum below the operands stand in the order of the result. Otherwise it, or the gradient
# rule of a plain product, swaps them, and XLA's CPU backend turns the largest array there is.


@jax.custom_vjp
def _attend(q, stretches, masks):
    return _attend_forward(q, stretches, masks)[0]


def _scores(q, kv: KeyValues, mask) -> Float[Array, "b h r t s"]:
    scores = jnp.einsum("bhrtk,bhsk->bhrts", q, kv.k, preferred_element_type=jnp.float32)
    scores = scores * jnp.float32(q.shape[-1] ** -0.5)
    return jnp.where(mask[:, None, None], scores, jnp.float32(_FAR_BELOW))


def _attend_forward(q, stretches, masks):
    scores = [_scores(q, *one) for one in zip(stretches, masks, strict=True)]
    peak = functools.reduce(jnp.maximum, (jnp.max(s, axis=-1, keepdims=True) for s in scores))
    weights = [jnp.exp(s - peak) for s in scores]
    total = functools.reduce(jnp.add, (jnp.sum(w, axis=-1, keepdims=True) for w in weights))
    mixed = [
        jnp.einsum("bhrts,bhsk->bhrtk", w.astype(kv.v.dtype), kv.v)
        for w, kv in zip(weights, stretches, strict=True)
    ]
    out = functools.reduce(jnp.add, mixed) / total.astype(q.dtype)
    out, peak, total = (checkpoint_name(x, PRODUCT) for x in (out, peak, total))
    return out, (q, stretches, masks, out, peak, total)


def _attend_backward(kept, gradient):
    q, stretches, masks, out, peak, total = kept
    scale = jnp.float32(q.shape[-1] ** -0.5)
    shared = jnp.sum((gradient * out).astype(jnp.float32), axis=-1, keepdims=True)
    of_q, of_stretches = jnp.zeros_like(q), []
    for kv, mask in zip(stretches, masks, strict=True):
        weights = jnp.exp(_scores(q, kv, mask) - peak) / total
        of_v = jnp.einsum("bhrtk,bhrts->bhks", gradient, weights.astype(q.dtype))
        of_weights = jnp.einsum(
            "bhrtk,bhsk->bhrts", gradient, kv.v, preferred_element_type=jnp.float32
        )
        of_scores = jnp.where(mask[:, None, None], weights * (of_weights - shared) * scale, 0)
        of_scores = of_scores.astype(q.dtype)
        of_q = of_q + jnp.einsum("bhrts,bhsk->bhrtk", of_scores, kv.k)
        of_k = jnp.einsum("bhrtk,bhrts->bhks", q, of_scores)
        of_stretches.append(KeyValues(k=jnp.swapaxes(of_k, 2, 3), v=jnp.swapaxes(of_v, 2, 3)))
    return of_q, tuple(of_stretches), None


_attend.defvjp(_attend_forward, _attend_backward)


def causal_mask(
    order: Int[Array, "b t"],
    valid: Bool[Array, "b t"],
    *,
    block: Bool[Array, "b t"] | None = None,
    segments: Int[Array, "b t"] | None = None,
    window: int = 0,
) -> Bool[Array, "b t t"]:
    """Who sees whom within one pass.

    Args:
        order: place of each slot within its sample.
        valid: slots that hold something; padding is seen by nobody.
        block: slots inside the one bidirectional block, all of which see each other (D2VLM 1.4).
        segments: numbers of the samples packed into a row; nobody sees another's.
        window: how far back one sees, itself included; 0 sees all.
    """
    ahead = order[:, :, None] - order[:, None, :]
    seen = ahead >= 0
    if window:
        seen &= ahead < window
    if block is not None:
        seen |= block[:, :, None] & block[:, None, :]
    if segments is not None:
        seen &= segments[:, :, None] == segments[:, None, :]
    return seen & valid[:, None, :]


def earlier_mask(
    filled: Bool[Array, "b s"], after: Int[Array, "t"], *, window: int = 0
) -> Bool[Array, "b #t s"]:
    """Which slots of an earlier pass are seen by the tokens that follow it.

    Args:
        filled: slots of the earlier pass that hold something, from the first on.
        after: how many of its own pass's tokens stand before each token.
        window: as in `causal_mask`.
    """
    if not window:
        return filled[:, None, :]
    place = jnp.sum(filled, axis=-1, dtype=jnp.int32)[:, None] + after
    slots = jnp.arange(filled.shape[1], dtype=jnp.int32)
    return filled[:, None, :] & (place[:, :, None] - slots < window)
