"""A small vision transformer that turns each frame into one token; frames never mix here."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from tgvlm_jax import mesh
from tgvlm_jax.models.layers import LayerNorm, Linear, stack
from tgvlm_jax.schema import ModelConfig, TinyVitConfig

_TOKENS = ("batch", "frames", None, None)


class VitBlock(nnx.Module):
    """Pre-norm attention among the patches of one frame, and a GELU layer."""

    def __init__(self, config: TinyVitConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        d, h, k = config.width, config.heads, config.width // config.heads
        scale = (2 * config.layers) ** -0.5
        self.attention_norm = LayerNorm(d, eps=config.norm_eps, dtype=dtype)
        shared = {"rngs": rngs, "dtype": dtype, "bias": True}
        heads = {
            "axes": ("embed", None, None),
            "formula": "bfpd,dhk->bfphk",
            "out": (*_TOKENS, None),
        }
        self.q = Linear((d, h, k), **heads, **shared)
        self.k = Linear((d, h, k), **heads, **shared)
        self.v = Linear((d, h, k), **heads, **shared)
        self.o = Linear(
            (h, k, d),
            axes=(None, None, "embed"),
            formula="bfphk,hkd->bfpd",
            out=_TOKENS,
            scale=scale,
            **shared,
        )
        self.mlp_norm = LayerNorm(d, eps=config.norm_eps, dtype=dtype)
        self.up = _dense(d, config.hidden, **shared)
        self.down = _dense(config.hidden, d, scale=scale, **shared)

    def __call__(self, x: Float[Array, "b f p d"]) -> Float[Array, "b f p d"]:
        """Runs the layer over the patches of each frame."""
        y = self.attention_norm(x)
        q, k, v = self.q(y), self.k(y), self.v(y)
        scores = jnp.einsum("bfphk,bfqhk->bfhpq", q, k) * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
        weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(v.dtype)
        x = x + self.o(jnp.einsum("bfhpq,bfqhk->bfphk", weights, v))
        return x + self.down(jax.nn.gelu(self.up(self.mlp_norm(x))))


def _dense(inputs: int, outputs: int, **settings) -> Linear:
    axes = ("embed", None)
    return Linear((inputs, outputs), axes=axes, formula="bfpd,de->bfpe", out=_TOKENS, **settings)


class TinyVit(nnx.Module):
    """Pixels -> cells -> patches -> transformer -> one token of the decoder's width a frame."""

    def __init__(self, tower: TinyVitConfig, config: ModelConfig, *, rngs: nnx.Rngs):
        """`tower` is the one of `config`."""
        dtype = jnp.dtype(config.param_dtype)
        self.tower, self.config = tower, config
        shared = {"rngs": rngs, "dtype": dtype, "bias": True}
        rows, columns = tower.height // tower.patch, tower.width_px // tower.patch
        side = tower.patch // tower.cell
        self.cells = Linear(
            (tower.cell**2 * 3, tower.cell_width),
            axes=(None, None),
            formula="bfpcd,de->bfpce",
            out=(*_TOKENS, None),
            **shared,
        )
        self.patches = Linear(
            (side**2, tower.cell_width, tower.width),
            axes=(None, None, "embed"),
            formula="bfpce,ced->bfpd",
            out=_TOKENS,
            **shared,
        )
        position = nnx.initializers.normal(0.02)(
            rngs.params(), (rows * columns, tower.width), dtype
        )
        self.position = nnx.Param(mesh.shard(position, None, None))
        self.blocks = stack(lambda r: VitBlock(tower, rngs=r, dtype=dtype), tower.layers, rngs=rngs)
        self.norm = LayerNorm(tower.width, eps=tower.norm_eps, dtype=dtype)
        # The projector keeps the layout: which patch says what matters for an upside-down frame.
        self.projector = Linear(
            (rows * columns, tower.width, config.decoder.width),
            axes=(None, "embed", None),
            formula="bfpd,pde->bfe",
            out=("batch", "frames", None),
            **shared,
        )

    def __call__(self, frames: UInt8[Array, "b f y x 3"]) -> Float[Array, "b f d"]:
        """One token of the decoder's width for each frame."""
        x = mesh.shard(frames, "batch", "frames", None, None, None)
        x = _cells(x, patch=self.tower.patch, cell=self.tower.cell)
        x = x.astype(self.config.dtype) / 64 - 2  # about zero mean, unit size
        x = self.patches(jax.nn.gelu(self.cells(x)))
        x = x + self.position[...].astype(x.dtype)

        def layer(x, block):
            return block(x), None

        unroll = min(self.config.unroll, self.tower.layers)
        x, _ = jax.lax.scan(layer, x, self.blocks, unroll=unroll)
        return mesh.shard(self.projector(self.norm(x)), "batch", None, None)


def _cells(
    frames: UInt8[Array, "b f y x 3"], *, patch: int, cell: int
) -> UInt8[Array, "b f p cells pixels"]:
    """Cuts frames into patches and each patch into cells."""
    b, f, y, x, _ = frames.shape
    side = patch // cell
    cut = (b, f, y // patch, side, cell, x // patch, side, cell, 3)
    parts = mesh.reshape(frames, cut, out=("batch", "frames", *(None,) * 7))
    parts = parts.transpose(0, 1, 2, 5, 3, 6, 4, 7, 8)
    shape = (b, f, (y // patch) * (x // patch), side**2, cell**2 * 3)
    return mesh.reshape(parts, shape, out=(*_TOKENS, None))
