"""EVA-CLIP ViT-g/14, the frame encoder of BLIP-2, E.T.Chat and D2VLM (D2VLM 1.2)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from tgvlm_jax import mesh
from tgvlm_jax.models.layers import LayerNorm, stack
from tgvlm_jax.models.tower import Attention, Mlp, cut, in_chunks, patch_embedding, table
from tgvlm_jax.schema import EvaConfig
from tgvlm_jax.types import InputError

_TOKENS = ("batch", "frames", None, None)


class EvaBlock(nnx.Module):
    """Pre-norm attention among the tokens of one frame, and a GELU layer."""

    def __init__(self, config: EvaConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        shared = {"out": _TOKENS, "rngs": rngs, "dtype": dtype}
        biases = "qkvo" if config.key_bias else "qvo"
        self.attention_norm = LayerNorm(config.width, eps=config.norm_eps, dtype=dtype)
        self.attention = Attention(config.width, heads=config.heads, biases=biases, **shared)
        self.mlp_norm = LayerNorm(config.width, eps=config.norm_eps, dtype=dtype)
        self.mlp = Mlp(config.width, config.hidden, **shared)

    def __call__(self, x: Float[Array, "b f p d"]) -> Float[Array, "b f p d"]:
        """Runs the layer over the tokens of each frame."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class EvaVit(nnx.Module):
    """Normalised pixels -> patches behind a class token -> blocks."""

    def __init__(self, config: EvaConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        """`dtype` is that of the parameters; activations have the pixels'."""
        d = config.width
        self.config = config
        self.patches = patch_embedding(config.patch, 3, d, out=_TOKENS, rngs=rngs, dtype=dtype)
        self.cls = table(rngs, (d,), dtype)
        self.position = table(rngs, (1 + config.patches, d), dtype)
        self.blocks = stack(
            lambda r: EvaBlock(config, rngs=r, dtype=dtype), config.layers, rngs=rngs
        )
        self.norm = LayerNorm(d, eps=config.norm_eps, dtype=dtype) if config.final_norm else None

    def __call__(self, frames: Float[Array, "b f y x c"]) -> Float[Array, "b f p d"]:
        """Tokens of each frame, the class token first.

        Raises:
            InputError: frames of another size than the tower's.
        """
        return in_chunks(self.encode, frames, chunk=self.config.chunk)

    def encode(self, frames: Float[Array, "b f y x c"]) -> Float[Array, "b f p d"]:
        """All frames at once, laid out over ("batch", "frames")."""
        side = self.config.image
        if frames.shape[2:] != (side, side, 3):
            raise InputError(f"frames are {frames.shape[2:]}, the EVA tower takes {side} x {side}")
        patches = self.patches(cut(frames, patch=self.config.patch))
        cls = jnp.broadcast_to(
            self.cls[...].astype(patches.dtype), (*patches.shape[:2], 1, patches.shape[-1])
        )
        x = jnp.concatenate([mesh.shard(cls, *_TOKENS), patches], axis=2)
        x = x + self.position[...].astype(x.dtype)
        x, _ = jax.lax.scan(lambda x, block: (block(x), None), x, self.blocks)
        return x if self.norm is None else self.norm(x)
