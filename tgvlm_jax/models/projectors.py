"""Views of a take -> one token of the decoder: ProfVLM's AttentiveGatedProjector (ProfVLM 2.2).

    views (b, v, 768) -> norm, attention among views, mean -> GELU layer, gate -> (b, 1, 576)

There is no view embedding and views are averaged: their order says nothing, no weight depends on
how many there are, and a view that is missing is neither attended to nor averaged. The two simpler
projectors of the prototype read the mean of the views.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Shaped

from tgvlm_jax import mesh
from tgvlm_jax.models.layers import LayerNorm, Linear
from tgvlm_jax.models.tower import dense
from tgvlm_jax.schema import ProjectorConfig

_VIEWS = ("batch", None, None)
_ROW = ("batch", None)
_FAR_BELOW = -1e30  # finite, so that a take without any view stays free of NaN


class AttentiveGatedProjector(nnx.Module):
    """Attention among views, a gated GELU layer, and the statistics of text embeddings."""

    def __init__(self, config: ProjectorConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        d, hidden, heads = config.inputs, config.hidden, config.heads
        made = {"rngs": rngs, "dtype": dtype}
        head = {"axes": ("embed", None, None), "formula": "bvd,dhk->bvhk", "out": (*_VIEWS, None)}
        self.config = config
        self.view_norm = LayerNorm(d, eps=config.norm_eps, dtype=dtype)
        shape = (d, heads, d // heads)
        self.q = Linear(shape, bias=True, **head, **made)
        self.k = Linear(shape, bias=True, **head, **made)
        self.v = Linear(shape, bias=True, **head, **made)
        self.o = Linear(
            (heads, d // heads, d),
            axes=(None, None, "embed"),
            formula="bvhk,hkd->bvd",
            out=_VIEWS,
            bias=True,
            **made,
        )
        self.up = dense(d, hidden, out=_ROW, **made)
        self.hidden_norm = LayerNorm(hidden, eps=config.norm_eps, dtype=dtype)
        self.gate = dense(hidden, hidden, out=_ROW, **made)
        self.down = dense(hidden, config.width, out=_ROW, **made)
        self.norm = LayerNorm(config.width, eps=config.norm_eps, dtype=dtype)
        self.scale = nnx.Param(mesh.shard(jnp.full((1,), config.scale, dtype), None))
        self.shift = nnx.Param(mesh.shard(jnp.full((1,), config.shift, dtype), None))
        self.dropout_key: jax.Array | None = nnx.data(None)

    def __call__(
        self, vectors: Float[Array, "b v d"], mask: Bool[Array, "b v"]
    ) -> Float[Array, "b 1 _e"]:
        """The token of each take, from what the encoder made of its views; `mask`: those there."""
        drop = functools.partial(_drop, key=self.dropout_key, rate=self.config.dropout)
        x = self.view_norm(vectors)
        q, k, v = self.q(x), self.k(x), self.v(x)
        scores = jnp.einsum("bihk,bjhk->bhij", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
        scores = jnp.where(mask[:, None, None, :], scores, jnp.float32(_FAR_BELOW))
        weights = drop(jax.nn.softmax(scores, axis=-1), stream=0).astype(v.dtype)
        seen = self.o(jnp.einsum("bhij,bjhk->bihk", weights, v))
        hidden = jax.nn.gelu(self.up(_mean(seen, mask)), approximate=False)
        hidden = drop(self.hidden_norm(hidden), stream=1)
        out = self.norm(self.down(hidden * jax.nn.sigmoid(self.gate(hidden))))
        out = _standard(out.astype(jnp.float32))
        out = out * self.scale[...].astype(out.dtype) + self.shift[...].astype(out.dtype)
        return out[:, None].astype(vectors.dtype)


class MeanProjector(nnx.Module):
    """The prototype's: one linear map, or two with GELU and norm between, of the mean view."""

    def __init__(self, config: ProjectorConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        made = {"out": _ROW, "rngs": rngs, "dtype": dtype}
        self.config = config
        hidden = config.width if config.kind == "linear" else config.hidden
        self.up = dense(config.inputs, hidden, **made)
        self.norm = LayerNorm(hidden, eps=config.norm_eps, dtype=dtype)
        two = config.kind == "bottleneck"
        self.down = nnx.data(dense(hidden, config.width, **made) if two else None)
        self.dropout_key: jax.Array | None = nnx.data(None)

    def __call__(
        self, vectors: Float[Array, "b v d"], mask: Bool[Array, "b v"]
    ) -> Float[Array, "b 1 _e"]:
        """The token of each take; as in `AttentiveGatedProjector`."""
        hidden = self.norm(jax.nn.gelu(self.up(_mean(vectors, mask)), approximate=False))
        if self.down is not None:
            return self.down(hidden)[:, None]
        return _drop(hidden, key=self.dropout_key, rate=self.config.dropout, stream=0)[:, None]


Projector = AttentiveGatedProjector | MeanProjector


def projector(config: ProjectorConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype) -> Projector:
    """The projector of a config."""
    kind = AttentiveGatedProjector if config.kind == "gated" else MeanProjector
    return kind(config, rngs=rngs, dtype=dtype)


def _mean(views: Float[Array, "b v d"], mask: Bool[Array, "b v"]) -> Float[Array, "b d"]:
    """Over the views that are there; 0 without any."""
    there = mask.astype(views.dtype)
    count = jnp.maximum(jnp.sum(there, axis=1, keepdims=True), 1)
    return jnp.sum(views * there[..., None], axis=1) / count


def _standard(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Each row with mean 0 and deviation 1, as torch has it: of a sample, beside 1e-6."""
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    # The sum stays above 0 where a row is constant, for the sake of the gradient.
    total = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x / (jnp.sqrt(jnp.maximum(total, 1e-24) / (x.shape[-1] - 1)) + 1e-6)


def _drop(
    x: Shaped[Array, "..."], *, key: jax.Array | None, rate: float, stream: int
) -> Shaped[Array, "..."]:
    """Dropout in training, when there is a key."""
    if key is None or not rate:
        return x
    layout = jax.typeof(x).sharding if mesh.active() else None
    own = jax.random.fold_in(key, stream)
    kept = jax.random.bernoulli(own, 1.0 - rate, x.shape, out_sharding=layout)
    return jnp.where(kept, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros((), x.dtype))
