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
from jaxtyping import Array, Bool, Float

from tgvlm_jax import mesh
from tgvlm_jax.ops.masks import AttentionMask
from tgvlm_jax.ops.parts import Keys, attend_parts
from tgvlm_jax.types import pytree

PRODUCT = "product"
"""What a remat policy knows by this name it keeps: results of linear maps and of attention."""

SUMMED = "summed"
"""The results of linear maps that are sums over tensor parallel chips."""

_FEW = 16  # queries; with fewer, a kernel's block would be padding for the most part
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
    masks: Sequence[Bool[Array, "_b #t _s"] | AttentionMask],
) -> Float[Array, "b t h r k"]:
    """Softmax attention, computed in float32, over all stretches together.

    Weights are made again for the gradient, so nothing of size t x s is kept (as in
    FlashAttention, arXiv:2205.14135, section 3.1). With tables for masks this is plain XLA; with
    `AttentionMask`s it is put together from parts (`ops/parts.py`), in kernels on a TPU.

    Args:
        q: queries, `h` key heads with `r` query heads each.
        stretches: keys and values, each of its own length. One with fewer rows than `q` is shared:
            its row i serves as many following rows of `q` as it takes to reach their number.
        masks: for each stretch and each of its rows, which key each query may see; all of them
            of one kind, see `ready`.
    """
    numbers = [mask for mask in masks if isinstance(mask, AttentionMask)]
    if numbers:
        pairs = zip(stretches, numbers, strict=True)
        return attend_parts(
            q,
            [Keys(k=kv.k, v=kv.v, mask=mask) for kv, mask in pairs],
            name=PRODUCT,
            shares=[1.0] * (len(numbers) - 1) + [_share(numbers[-1])],
            pallas=mesh.platform() == "tpu",
        )
    return jnp.moveaxis(_attend(jnp.moveaxis(q, 1, 3), tuple(stretches), tuple(masks)), 3, 1)


def ready(
    masks: Sequence[Bool[Array, "_b #t _s"] | AttentionMask], *, queries: int
) -> tuple[Bool[Array, "_b #t _s"] | AttentionMask, ...]:
    """Masks as `attend` wants them in all layers of a pass with so many queries.

    Tables, if one of them is; else numbers where the pass runs in kernels (on a TPU, but for a
    token or two) or a sequence may be spread over devices (mesh axis `cp`).
    """
    numbers = [mask for mask in masks if isinstance(mask, AttentionMask)]
    kernels = mesh.platform() == "tpu" and queries >= _FEW
    parts = kernels or (mesh.size("context") > 1 and queries > 1)
    if parts and len(numbers) == len(masks):
        return tuple(numbers)
    return tuple(mask.dense() if isinstance(mask, AttentionMask) else mask for mask in masks)


def _share(mask: AttentionMask) -> float:
    """The part of its pairs that a pass over itself computes, for cost estimates."""
    return 0.5 if mask.group is None else 1.0


# In every einsum below the operands stand in the order of the result. Otherwise it, or the gradient
# rule of a plain product, swaps them, and XLA's CPU backend turns the largest array there is.


def _fold(x: Float[Array, "b h r t c"], rows: int) -> Float[Array, "_b h _r t c"]:
    """Rows that share keys, as query heads of the one row of those keys."""
    b, h, r, t, c = x.shape
    if b == rows:
        return x
    out = ("batch", None, "heads", None, None, None)
    x = jnp.swapaxes(mesh.reshape(x, (rows, b // rows, h, r, t, c), out=out), 1, 2)
    return mesh.reshape(x, (rows, h, b // rows * r, t, c), out=("batch", "heads", None, None, None))


def _unfold(x: Float[Array, "_b h _r t c"], rows: int) -> Float[Array, "b h r t c"]:
    """The inverse of `_fold`, back to `rows` rows."""
    b, h, r, t, c = x.shape
    if b == rows:
        return x
    each = rows // b
    out = ("batch", "heads", None, None, None, None)
    x = jnp.swapaxes(mesh.reshape(x, (b, h, each, r // each, t, c), out=out), 1, 2)
    return mesh.reshape(x, (rows, h, r // each, t, c), out=("batch", "heads", None, None, None))


@jax.custom_vjp
def _attend(q, stretches, masks):
    return _attend_forward(q, stretches, masks)[0]


def _scores(q, kv: KeyValues, mask) -> Float[Array, "b h r t s"]:
    scores = jnp.einsum("bhrtk,bhsk->bhrts", q, kv.k, preferred_element_type=jnp.float32)
    scores = scores * jnp.float32(q.shape[-1] ** -0.5)
    return jnp.where(mask[:, None, None], scores, jnp.float32(_FAR_BELOW))


def _mixed(weights, values):
    """A sum over keys, which may be spread over devices."""
    shape = (*weights.shape[:-1], values.shape[-1])
    out = mesh.spec("batch", "heads", None, None, None, shape=shape)
    return jnp.einsum("bhrts,bhsk->bhrtk", weights, values, out_sharding=out)


def _attend_forward(q, stretches, masks):
    rows = [kv.k.shape[0] for kv in stretches]
    scores = [
        _scores(_fold(q, count), kv, mask)
        for count, kv, mask in zip(rows, stretches, masks, strict=True)
    ]
    peaks = [_unfold(jnp.max(s, axis=-1, keepdims=True), len(q)) for s in scores]
    peak = functools.reduce(jnp.maximum, peaks)
    weights = [jnp.exp(s - _fold(peak, count)) for s, count in zip(scores, rows, strict=True)]
    totals = [_unfold(jnp.sum(w, axis=-1, keepdims=True), len(q)) for w in weights]
    total = functools.reduce(jnp.add, totals)
    mixed = [
        _unfold(_mixed(w.astype(kv.v.dtype), kv.v), len(q))
        for w, kv in zip(weights, stretches, strict=True)
    ]
    out = functools.reduce(jnp.add, mixed) / total.astype(q.dtype)
    out, peak, total = (checkpoint_name(x, PRODUCT) for x in (out, peak, total))
    return out, (q, stretches, masks, out, peak, total)


def _attend_backward(kept, gradient):
    q, stretches, masks, out, peak, total = kept
    shared = jnp.sum((gradient * out).astype(jnp.float32), axis=-1, keepdims=True)
    of_q, of_stretches = jnp.zeros_like(q), []
    for kv, mask in zip(stretches, masks, strict=True):
        folded = [_fold(x, kv.k.shape[0]) for x in (q, gradient, peak, total, shared)]
        part = _of_stretch(kv, mask, *folded)
        of_q = of_q + _unfold(part[0], len(q))
        of_stretches.append(part[1])
    return of_q, tuple(of_stretches), None


def _of_stretch(kv: KeyValues, mask, q, gradient, peak, total, shared):
    """What one stretch adds to the gradient of the queries, and its own."""
    scale = jnp.float32(q.shape[-1] ** -0.5)
    weights = jnp.exp(_scores(q, kv, mask) - peak) / total
    of_v = jnp.einsum("bhrtk,bhrts->bhks", gradient, weights.astype(q.dtype))
    of_weights = jnp.einsum("bhrtk,bhsk->bhrts", gradient, kv.v, preferred_element_type=jnp.float32)
    of_scores = jnp.where(mask[:, None, None], weights * (of_weights - shared) * scale, 0)
    of_scores = of_scores.astype(q.dtype)
    of_q = _mixed(of_scores, kv.k)
    of_k = jnp.einsum("bhrtk,bhrts->bhks", q, of_scores)
    return of_q, KeyValues(k=jnp.swapaxes(of_k, 2, 3), v=jnp.swapaxes(of_v, 2, 3))


_attend.defvjp(_attend_forward, _attend_backward)
