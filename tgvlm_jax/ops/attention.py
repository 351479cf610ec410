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
from jaxtyping import Array, Bool, Float, Int

from tgvlm_jax.types import pytree

_FAR_BELOW = -1e30  # finite, so that a row without any key stays free of NaN


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyValues:
    """Keys and values of one layer ([b s h k]) or of all stacked ([l b s h k])."""

    k: Annotated[Any, "float ... b s h k"]
    v: Annotated[Any, "float ... b s h k"]


def attend(
    q: Float[Array, "b t h r k"],
    stretches: Sequence[KeyValues],
    masks: Sequence[Bool[Array, "b #t _s"]],
) -> Float[Array, "b t h r k"]:
    """Softmax attention, computed in float32, over all stretches together.

    Args:
        q: queries, `h` key heads with `r` query heads each.
        stretches: keys and values, each of its own length.
        masks: for each stretch, which key each query may see.
    """
    scores = []
    for kv, mask in zip(stretches, masks, strict=True):
        score = jnp.einsum("bthrk,bshk->bhrts", q, kv.k, preferred_element_type=jnp.float32)
        score = score * jnp.float32(q.shape[-1] ** -0.5)
        scores.append(jnp.where(mask[:, None, None], score, jnp.float32(_FAR_BELOW)))
    peak = functools.reduce(jnp.maximum, (jnp.max(s, axis=-1, keepdims=True) for s in scores))
    weights = [jnp.exp(s - jax.lax.stop_gradient(peak)) for s in scores]
    total = sum(jnp.sum(w, axis=-1) for w in weights)
    mixed = sum(
        jnp.einsum("bhrts,bshk->bthrk", w.astype(kv.v.dtype), kv.v)
        for w, kv in zip(weights, stretches, strict=True)
    )
    total = jnp.moveaxis(jnp.asarray(total), 3, 1)[..., None]
    return jnp.asarray(mixed) / total.astype(q.dtype)


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
