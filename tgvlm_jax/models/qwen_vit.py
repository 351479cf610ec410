"""The vision towers of Qwen2.5-VL and Qwen3-VL: images and videos at their own size.

A picture is a grid of patches, two frames deep. Patches of one frame see each other, in most
layers of Qwen2.5-VL only those of their window; frames never mix. So the input is rows of a fixed
number of patch slots, each with one or several whole frames, and numbers that say which frame and
which window a slot belongs to (`tgvlm_jax.data.qwen_rows` makes them): shapes never change with
the sample, rows spread over the mesh, and no token is ever moved for the windows. Four patches
that become one token stand side by side.
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from tgvlm_jax import mesh
from tgvlm_jax.models.layers import Axes, LayerNorm, Linear, RMSNorm, stack
from tgvlm_jax.ops.vision_rope import grid_rotation, rotate_heads
from tgvlm_jax.schema import QwenVisionConfig
from tgvlm_jax.types import PatchRows, pytree

_SLOTS = ("batch", "frames", None, None)
_FAR_BELOW = -1e30
_FLOAT32 = jnp.dtype("float32")


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualTokens:
    """What the decoder gets: one token for `merge` x `merge` patches, `u` to a row.

    Attributes:
        tokens: stand at the placeholders of the prompt.
        deepstack: added after the decoder's first `m` layers (none in Qwen2.5-VL).
    """

    tokens: Annotated[Any, "float b f u d"]
    deepstack: Annotated[Any, "float m b f u d"]


def _norm(config: QwenVisionConfig, width: int, dtype: jnp.dtype) -> RMSNorm | LayerNorm:
    kind = RMSNorm if config.kind == "qwen2_5_vl" else LayerNorm
    return kind(width, eps=config.norm_eps, dtype=dtype)


def _dense(
    inputs: int,
    outputs: int,
    *,
    axes: Axes = ("embed", None),
    rngs: nnx.Rngs,
    dtype: jnp.dtype,
) -> Linear:
    return Linear(
        (inputs, outputs),
        axes=axes,
        formula="bfpd,de->bfpe",
        out=_SLOTS,
        bias=True,
        rngs=rngs,
        dtype=dtype,
    )


class QwenVisionBlock(nnx.Module):
    """Pre-norm attention among the patches of one segment, and an MLP."""

    def __init__(self, config: QwenVisionConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        d, h = config.width, config.heads
        k = d // h
        self.queries = config.queries
        shared = {"rngs": rngs, "bias": True, "dtype": dtype}
        self.attention_norm = _norm(config, d, dtype)
        # Fused as published, so that an adapter of theirs on it is one of ours.
        self.qkv = Linear(
            (d, 3, h, k),
            axes=("embed", None, None, None),
            formula="bfpd,dshk->bfpshk",
            out=(*_SLOTS, None, None),
            **shared,
        )
        self.o = Linear(
            (h, k, d), axes=(None, None, "embed"), formula="bfphk,hkd->bfpd", out=_SLOTS, **shared
        )
        self.mlp_norm = _norm(config, d, dtype)
        gated = config.kind == "qwen2_5_vl"
        self.gate = _dense(d, config.hidden, rngs=rngs, dtype=dtype) if gated else None
        self.up = _dense(d, config.hidden, rngs=rngs, dtype=dtype)
        # Cut along the tower's width: 3420 and 4304 inside divide by few numbers of chips.
        self.down = _dense(config.hidden, d, axes=(None, "embed"), rngs=rngs, dtype=dtype)

    def __call__(
        self, x: Float[Array, "b f p d"], *, turn: Any, segments: Int[Array, "b f p"]
    ) -> Float[Array, "b f p d"]:
        """Runs the layer; patches of a row see those with the same segment number."""
        q, k, v = jnp.moveaxis(self.qkv(self.attention_norm(x)), 3, 0)
        q, k = rotate_heads(q, turn), rotate_heads(k, turn)
        x = x + self.o(_attend(q, k, v, segments, queries=self.queries))
        y = self.mlp_norm(x)
        if self.gate is None:
            return x + self.down(jax.nn.gelu(self.up(y), approximate=True))
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))


def _attend(
    q: Float[Array, "b f p h k"],
    k: Float[Array, "b f p h k"],
    v: Float[Array, "b f p h k"],
    segments: Int[Array, "b f p"],
    *,
    queries: int,
) -> Float[Array, "b f p h k"]:
    """Attention within the segments of each row, softmax in float32, some queries at a time."""

    def some(inputs):
        q, own = inputs
        scores = jnp.einsum("bfphk,bfqhk->bfhpq", q, k, preferred_element_type=jnp.float32)
        mask = (own[..., :, None] == segments[..., None, :])[:, :, None]
        scores = jnp.where(mask, scores * jnp.float32(q.shape[-1] ** -0.5), _FAR_BELOW)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        return jnp.einsum("bfhpq,bfqhk->bfphk", weights, v)

    b, f, p, h, size = q.shape
    parts = next(n for n in range(-(-p // (queries or p)), p + 1) if p % n == 0)
    if parts == 1:
        return some((q, segments))
    cut = mesh.reshape(q, (b, f, parts, p // parts, h, size), out=(*_SLOTS, None, None))
    own = mesh.reshape(segments, (b, f, parts, p // parts), out=_SLOTS)
    cut, own = jnp.moveaxis(cut, 2, 0), jnp.moveaxis(own, 2, 0)
    done = jnp.moveaxis(jax.lax.map(jax.checkpoint(some), (cut, own)), 0, 2)
    return mesh.reshape(done, (b, f, p, h, size), out=(*_SLOTS, None))


class PatchMerger(nnx.Module):
    """Four neighbouring patches -> one token of the decoder's width."""

    def __init__(
        self, config: QwenVisionConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype, norm_first: bool
    ):
        """`norm_first` normalises each patch, else the four together (DeepStack)."""
        self.group = config.merge**2
        self.norm_first = norm_first
        joined = self.group * config.width
        self.norm = _norm(config, config.width if norm_first else joined, dtype)
        self.up = _dense(joined, joined, rngs=rngs, dtype=dtype)
        self.down = _dense(joined, config.out_width, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "b f p d"]) -> Float[Array, "b f u e"]:
        """Merges every `merge` x `merge` patches in a row."""
        b, f, p, d = x.shape
        x = self.norm(x) if self.norm_first else x
        x = mesh.reshape(x, (b, f, p // self.group, self.group * d), out=_SLOTS)
        x = x if self.norm_first else self.norm(x)
        return self.down(jax.nn.gelu(self.up(x), approximate=False))


class PatchEmbedding(nnx.Module):
    """The published 3-D convolution, which is one matrix product a patch."""

    def __init__(self, config: QwenVisionConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        kernel = (3, config.temporal, config.patch, config.patch)
        init = nnx.initializers.truncated_normal(np.prod(kernel).item() ** -0.5)
        weight = init(rngs.params(), (*kernel, config.width), dtype)
        self.weight = nnx.Param(mesh.shard(weight, *(None,) * 4, "embed"))
        bias = None
        if config.kind == "qwen3_vl":
            bias = nnx.Param(mesh.shard(jnp.zeros(config.width, dtype), None))
        self.bias = bias

    def __call__(self, x: Float[Array, "b f p c"]) -> Float[Array, "b f p d"]:
        """Embeds normalised patches."""
        weight = self.weight[...].astype(x.dtype)
        weight = mesh.reshape(weight, (x.shape[-1], weight.shape[-1]), out=(None, "embed"))
        y = mesh.einsum("bfpc,cd->bfpd", x, weight, out=_SLOTS)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)


class PositionTable(nnx.Module):
    """A square of learned position vectors, read between its entries (bilinear)."""

    def __init__(self, config: QwenVisionConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.side = config.table_side
        shape = (self.side**2, config.width)
        table = nnx.initializers.normal(0.02)(rngs.params(), shape, dtype)
        self.weight = nnx.Param(mesh.shard(table, None, None))

    def __call__(self, places: Float[Array, "b f p 2"]) -> Float[Array, "b f p d"]:
        """Vectors at (row, column) of the table, in float32.

        A product with hat functions instead of four gathers: its gradient needs no scatter.
        """
        hats = jnp.maximum(
            0, 1 - jnp.abs(places[..., None] - jnp.arange(self.side, dtype="float32"))
        )
        weights = hats[..., 0, :, None] * hats[..., 1, None, :]
        weights = mesh.reshape(weights, (*places.shape[:3], self.side**2), out=_SLOTS)
        return jnp.einsum(
            "bfpn,nd->bfpd",
            weights,
            self.weight[...].astype(jnp.float32),
            precision=jax.lax.Precision.HIGH,  # bfloat16 weights would shift the positions
            out_sharding=mesh.spec(*_SLOTS),
        )


class QwenVisionTower(nnx.Module):
    """Patches -> transformer -> tokens of the decoder's width."""

    def __init__(
        self,
        config: QwenVisionConfig,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype,
        activations: jnp.dtype = _FLOAT32,
    ):
        """`dtype` is that of the parameters."""
        self.config, self.activations = config, activations
        self.patches = PatchEmbedding(config, rngs=rngs, dtype=dtype)
        self.positions, self.deepstack = nnx.data(None), nnx.data(None)
        if config.table_side:
            self.positions = PositionTable(config, rngs=rngs, dtype=dtype)
        self.blocks = stack(
            lambda r: QwenVisionBlock(config, rngs=r, dtype=dtype), config.layers, rngs=rngs
        )
        self.merger = PatchMerger(config, rngs=rngs, dtype=dtype, norm_first=True)
        if config.deepstack:
            self.deepstack = stack(
                lambda r: PatchMerger(config, rngs=r, dtype=dtype, norm_first=False),
                len(config.deepstack),
                rngs=rngs,
            )

    def __call__(self, rows: PatchRows) -> VisualTokens:
        """One token for every four patches; those of empty slots mean nothing."""
        config = self.config
        x = self.patches(self._normalised(mesh.shard(rows.patches, *_SLOTS)))
        coordinates = mesh.shard(rows.coordinates, *_SLOTS)
        frames, windows = (mesh.shard(ids, *_SLOTS[:3]) for ids in (rows.frames, rows.windows))
        if self.positions is not None:
            x = x + self.positions(mesh.shard(rows.table, *_SLOTS)).astype(x.dtype)
        turn = grid_rotation(
            coordinates, head_size=config.width // config.heads, theta=config.theta
        )

        def layer(x, block, segments):
            return block(x, turn=turn, segments=segments)

        if config.remat:
            layer = jax.checkpoint(layer)

        def body(carry, inputs):
            x, kept = carry
            number, full, block = inputs
            x = layer(x, block, jnp.where(full, frames, windows))
            kept = {tap: jnp.where(number == tap, x, old) for tap, old in kept.items()}
            return (x, kept), None

        numbers = np.arange(config.layers)
        full = np.isin(numbers, config.full_layers) | (not config.full_layers)
        start = (x, dict.fromkeys(config.deepstack, x))
        inputs = (jnp.asarray(numbers), jnp.asarray(full), self.blocks)
        (x, kept), _ = jax.lax.scan(body, start, inputs)
        # The one change of layout: from here on every device of a batch row has all its tokens.
        return VisualTokens(
            tokens=mesh.shard(self.merger(x), "batch", None, None, None),
            deepstack=self._levels([kept[tap] for tap in config.deepstack], x),
        )

    def _normalised(self, patches: Any) -> Float[Array, "b f p c"]:
        dtype = self.activations
        if not jnp.issubdtype(patches.dtype, jnp.integer):
            return patches.astype(dtype)
        each = patches.shape[-1] // 3
        mean = np.repeat(np.array(self.config.mean, np.float32), each)
        std = np.repeat(np.array(self.config.std, np.float32), each)
        return ((patches.astype(jnp.float32) / 255 - mean) / std).astype(dtype)

    def _levels(
        self, kept: list[Float[Array, "b f p d"]], x: Float[Array, "b f p d"]
    ) -> Float[Array, "m b f u e"]:
        """The DeepStack tokens of every level, one after another."""
        if not kept:
            b, f, p, _ = x.shape
            shape = (0, b, f, p // self.config.merge**2, self.config.out_width)
            return jnp.zeros(shape, x.dtype)

        def level(_, inputs):
            merger, states = inputs
            return None, merger(states)

        _, tokens = jax.lax.scan(level, None, (self.deepstack, jnp.stack(kept)))
        return mesh.shard(tokens, None, "batch", None, None, None)
