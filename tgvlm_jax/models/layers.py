"""Linear maps, norms and embeddings, each weight declared once: shape, init, logical axes."""

import copy
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from tgvlm_jax import mesh
from tgvlm_jax.ops.attention import PRODUCT, SUMMED

Axes = Sequence[str | None]


class Linear(nnx.Module):
    """y = x W (+ b) over one or several axes; W has shape (*inputs, *outputs), as einsum reads it.

    The weight keeps heads as axes of their own (d h r k), so that no sharded axis is ever
    reshaped. `formula` is the einsum of x with W, `out` the logical axes of the result. A low-rank
    adapter may be hung beside the weight (`tgvlm_jax.models.lora`): y += (x A) B * adapter_scale.
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
        self.formula, self.axes, self.out = formula, tuple(axes), tuple(out)
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
        self.lora_a: nnx.LoRAParam | None = nnx.data(None)
        self.lora_b: nnx.LoRAParam | None = nnx.data(None)
        self.adapter_scale, self.adapter_dropout = 0.0, 0.0
        self.dropout_key: jax.Array | None = nnx.data(None)

    @property
    def letters(self) -> "Letters":
        """The axes of x and W by what becomes of them."""
        left, result = self.formula.split("->")
        x_axes, w_axes = left.split(",")
        return Letters(
            x=x_axes,
            result=result,
            inputs="".join(a for a in w_axes if a not in result),
            outputs="".join(a for a in w_axes if a in result),
            kept="".join(a for a in x_axes if a in result),
        )

    def like(
        self,
        weight: Float[Array, "..."],
        bias: Float[Array, "..."] | None,
        *,
        axes: Axes,
        formula: str,
        out: Axes,
    ) -> "Linear":
        """A map with another weight, and the adapter that this one has."""
        result = copy.copy(self)
        result.formula, result.axes, result.out = formula, axes, out
        result.weight = nnx.Param(weight)
        result.bias = None if bias is None else nnx.Param(bias)
        return result

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Computes in the dtype of `x`."""
        y = mesh.einsum(self.formula, x, self.weight[...].astype(x.dtype), out=self.out)
        if self.lora_a is not None and self.lora_b is not None:
            change = self._adapter(self._dropped(x), self.lora_a[...], self.lora_b[...])
            y = y + change * jnp.asarray(self.adapter_scale, y.dtype)
        y = y if self.bias is None else y + self.bias[...].astype(y.dtype)
        return checkpoint_name(y, self.name)

    @property
    def name(self) -> str:
        """What a remat policy knows the result by."""
        order = self.formula.split("->")[0].split(",")[1]
        inputs = self.letters.inputs
        summed = {name for axis, name in zip(order, self.axes, strict=True) if axis in inputs}
        return SUMMED if summed & {"heads", "mlp"} else PRODUCT

    def _dropped(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The adapter's input in training: some of it zero, the rest as much larger."""
        if self.dropout_key is None:
            return x
        keep = 1.0 - self.adapter_dropout
        layout = jax.typeof(x).sharding if mesh.active() else None
        kept = jax.random.bernoulli(self.dropout_key, keep, x.shape, out_sharding=layout)
        return jnp.where(kept, x / jnp.asarray(keep, x.dtype), 0)

    def _adapter(
        self, x: Float[Array, "..."], a: Float[Array, "..."], b: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        by, names = self.letters, dict(zip(self.formula.split("->")[1], self.out, strict=True))
        low = [*(names[axis] for axis in by.kept), None]
        z = mesh.einsum(f"{by.x},{by.inputs}z->{by.kept}z", x, a.astype(x.dtype), out=low)
        formula = f"{by.kept}z,z{by.outputs}->{by.result}"
        return _widen(formula, self.out, checkpoint_name(z, PRODUCT), b.astype(x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _widen(
    formula: str, out: Axes, z: Float[Array, "..."], b: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The einsum of an adapter's few inner values with its B.

    Its own gradient of B has z on the left: the usual one has the result's gradient there, which
    XLA's CPU backend then computes once more, turned, at many times the cost of the product.
    """
    return mesh.einsum(formula, z, b, out=out)


def _widen_forward(formula, out, z, b):
    return _widen(formula, out, z, b), (z, b)


def _widen_backward(formula, out, kept, gradient):
    z, b = kept
    z_axes, b_axes, result = re.split(",|->", formula)
    layouts = [jax.typeof(x).sharding.spec if mesh.active() else None for x in kept]
    of_z = jnp.einsum(f"{result},{b_axes}->{z_axes}", gradient, b, out_sharding=layouts[0])
    of_b = jnp.einsum(f"{z_axes},{result}->{b_axes}", z, gradient, out_sharding=layouts[1])
    return of_z, of_b


_widen.defvjp(_widen_forward, _widen_backward)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Letters:
    """Axes of a Linear's einsum: of x, of the result, and W's inputs and outputs.

    `kept` are the axes of x that W does not touch.
    """

    x: str
    result: str
    inputs: str
    outputs: str
    kept: str


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
        return mesh.lookup(self.table[...], ids, out=("batch", mesh.TOKENS, None))


def stack(make: Callable[[nnx.Rngs], nnx.Module], count: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """`count` layers as one module whose every parameter has a leading layer axis."""
    keys = jax.random.split(rngs.params(), count)
    return jax.vmap(lambda key: make(nnx.Rngs(key)))(keys)
