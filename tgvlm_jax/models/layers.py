"""Linear maps, norms and embeddings, each weight declared once: shape, init, logical axes."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tgvlm_jax import mesh

Axes = Sequence[str | None]


class Linear(nnx.Module):
    """y = x W (+ b) over one or several axes; W has shape (*inputs, *outputs), as einsum reads it.

    The weight keeps heads as axes of their own (d h r k), so that no sharded axis is ever
    reshaped. `formula` is the einsum of x with W, `out` the logical axes of the result.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        rngs: nnx.Rngs,
        axes: Axes,
        formula: str,
        out: Axes,
        bias: bool = False,
        scale: float = 1.0,
        dtype: jnp.dtype,
    ):
        """`scale` multiplies the usual 1/sqrt(fan-in) of the truncated normal init."""
        self.formula, self.out = formula, tuple(out)
        left, result = formula.split("->")
        x_axes, w_axes = left.split(",")
        fan_in = math.prod(n for n, a in zip(shape, w_axes, strict=True) if a in x_axes)
        init = nnx.initializers.truncated_normal(scale * fan_in**-0.5)
        # Drawn flat: over five axes XLA takes ten times as long to compile the same numbers.
        weight = init(rngs.params(), (math.prod(shape),), dtype)
        self.weight = nnx.Param(mesh.shard(weight.reshape(shape), *axes))
        outputs = [i for i, a in enumerate(w_axes) if a in result]
        zeros = jnp.zeros([shape[i] for i in outputs], dtype) if bias else None
        # A bias is small: it follows the activation's layout, never the parameter-sharding axis.
        follow = [None if axes[i] == "embed" else axes[i] for i in outputs]
        zeros = None if zeros is None else mesh.shard(zeros, *follow)
        self.bias = None if zeros is None else nnx.Param(zeros)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Computes in the dtype of `x`."""
        y = mesh.einsum(self.formula, x, self.weight[...].astype(x.dtype), out=self.out)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, in float32."""

    def __init__(self, width: int, *, eps: float, dtype: jnp.dtype):
        self.eps = eps
        self.scale = nnx.Param(mesh.shard(jnp.ones(width, dtype), None))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Normalises the last axis."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...].astype(jnp.float32)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / std * scale + bias, in float32."""

    def __init__(self, width: int, *, eps: float, dtype: jnp.dtype):
        self.eps = eps
        self.scale = nnx.Param(mesh.shard(jnp.ones(width, dtype), None))
        self.bias = nnx.Param(mesh.shard(jnp.zeros(width, dtype), None))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Normalises the last axis."""
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        y = y * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)
        return y.astype(x.dtype)


class Embedding(nnx.Module):
    """A table of token vectors; also the output head, where the two are tied."""

    def __init__(self, vocab_size: int, width: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        table = nnx.initializers.normal(width**-0.5)(rngs.params(), (vocab_size, width), dtype)
        self.table = nnx.Param(mesh.shard(table, "vocab", "embed"))

    def __call__(self, ids: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """Looks up token vectors."""
        return mesh.lookup(self.table[...], ids, out=("batch", None, None))


def stack(make: Callable[[nnx.Rngs], nnx.Module], count: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """`count` layers as one module whose every parameter has a leading layer axis."""
    keys = jax.random.split(rngs.params(), count)
    return jax.vmap(lambda key: make(nnx.Rngs(key)))(keys)
