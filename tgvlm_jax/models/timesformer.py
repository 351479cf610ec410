"""TimeSformer with divided attention: first over time, then over space (ProfVLM 2.1)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num, UInt8

from tgvlm_jax import mesh
from tgvlm_jax.models.layers import LayerNorm, stack
from tgvlm_jax.models.tower import Attention, Mlp, cut, dense, in_chunks, patch_embedding, table
from tgvlm_jax.schema import TimesformerConfig
from tgvlm_jax.types import InputError

# Clips (the views of a take, or the parts of a long video) are what is independent here.
_TOKENS = ("batch", "frames", None, None)
_GRID = ("batch", "frames", None, None, None)


class TimesformerBlock(nnx.Module):
    """Attention of each patch over time, of each frame over space, and a GELU layer."""

    def __init__(self, config: TimesformerConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        d, eps = config.width, config.norm_eps
        made = {"rngs": rngs, "dtype": dtype}
        self.time_norm = LayerNorm(d, eps=eps, dtype=dtype)
        self.time = Attention(d, heads=config.heads, out=_GRID, **made)
        self.time_dense = dense(d, d, out=_GRID, **made)
        self.space_norm = LayerNorm(d, eps=eps, dtype=dtype)
        self.space = Attention(d, heads=config.heads, out=_GRID, **made)
        self.mlp_norm = LayerNorm(d, eps=eps, dtype=dtype)
        self.mlp = Mlp(d, config.hidden, out=_TOKENS, **made)

    def __call__(self, x: Float[Array, "b v s d"], *, frames: int) -> Float[Array, "b v s d"]:
        """Runs the layer over clips of the class token and then patches, time fastest."""
        b, v, s, d = x.shape
        cls, patches = x[:, :, :1], x[:, :, 1:]
        patches = mesh.reshape(patches, (b, v, (s - 1) // frames, frames, d), out=_GRID)
        patches = patches + self.time_dense(self.time(self.time_norm(patches)))
        # Every frame sees the class token as it came in; what they make of it is averaged.
        everywhere = mesh.shard(jnp.broadcast_to(cls[:, :, None], (b, v, frames, 1, d)), *_GRID)
        y = jnp.concatenate([everywhere, patches.swapaxes(2, 3)], axis=3)
        y = self.space(self.space_norm(y))
        cls = cls + jnp.mean(y[..., :1, :], axis=2)
        patches = patches + y[..., 1:, :].swapaxes(2, 3)
        patches = mesh.reshape(patches, (b, v, s - 1, d), out=_TOKENS)
        x = jnp.concatenate([cls, patches], axis=2)
        return x + self.mlp(self.mlp_norm(x))


class Timesformer(nnx.Module):
    """Normalised pixels of clips -> one class token and the patches of all frames."""

    def __init__(
        self,
        config: TimesformerConfig,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype,
        activations: jnp.dtype | None = None,
    ):
        """`dtype` is that of the parameters; activations have the pixels'.

        Where pixels are integers (`vectors`), activations are of type `activations`.
        """
        self.activations = activations or dtype
        d, made = config.width, {"rngs": rngs, "dtype": dtype}
        self.config = config
        self.patches = patch_embedding(config.patch, 3, d, out=_GRID, **made)
        self.cls = table(rngs, (d,), dtype)
        self.position = table(rngs, (1 + config.patches, d), dtype)
        self.time = table(rngs, (config.frames, d), dtype)
        self.blocks = stack(
            lambda r: TimesformerBlock(config, rngs=r, dtype=dtype), config.layers, rngs=rngs
        )
        self.norm = LayerNorm(d, eps=config.norm_eps, dtype=dtype)
        labels = config.labels
        self.classifier = dense(d, labels, out=("batch", None, None), **made) if labels else None

    def __call__(self, clips: Float[Array, "b v f y x c"]) -> Float[Array, "b v s d"]:
        """Normed tokens: the class token, then patch by patch its frames.

        Args:
            clips: `v` independent clips a sample. Another number of frames than the published one
                takes the nearest of the learned times, as the authors' code does (Hugging Face's
                mixes up patches and times there).

        Raises:
            InputError: frames of another size than the tower's.
        """
        return in_chunks(self.encode, clips, chunk=self.config.chunk)

    def vectors(self, clips: UInt8[Array, "b v f y x c"]) -> Float[Array, "b v d"]:
        """The mean of all tokens of each clip, the class token among them (ProfVLM 2.1).

        `clips` are pixels; a chunk of them is normalised and in memory at a time.
        """
        return in_chunks(self._mean, clips, chunk=self.config.chunk)

    def _mean(self, clips: Num[Array, "b v f y x c"]) -> Float[Array, "b v d"]:
        dtype = self.activations
        pixels = (clips.astype(jnp.float32) / 255 - self.config.mean) / self.config.std
        tokens = self.encode(pixels.astype(dtype))
        return jnp.mean(tokens.astype(jnp.float32), axis=2).astype(dtype)

    def logits(self, tokens: Float[Array, "b v s d"]) -> Float[Array, "b v n"]:
        """Classes of each clip, from what the tower returns."""
        assert self.classifier is not None, "the config has no labels"
        return self.classifier(tokens[:, :, 0])

    def encode(self, clips: Float[Array, "b v f y x c"]) -> Float[Array, "b v s d"]:
        """All clips at once, laid out over ("batch", "frames")."""
        config, frames = self.config, clips.shape[2]
        if clips.shape[3:] != (config.image, config.image, 3):
            raise InputError(
                f"frames are {clips.shape[3:]}, TimeSformer takes {config.image} x {config.image}"
            )
        patches = self.patches(cut(clips, patch=config.patch))
        position = self.position[...].astype(patches.dtype)
        nearest = [i * config.frames // frames for i in range(frames)]
        time = self.time[...].astype(patches.dtype)[jnp.asarray(nearest)]
        patches = (patches + position[1:]).swapaxes(2, 3) + time
        b, v, p, f, d = patches.shape
        patches = mesh.reshape(patches, (b, v, p * f, d), out=_TOKENS)
        cls = self.cls[...].astype(patches.dtype) + position[0]
        cls = mesh.shard(jnp.broadcast_to(cls, (b, v, 1, d)), *_TOKENS)
        x = jnp.concatenate([cls, patches], axis=2)
        x, _ = jax.lax.scan(lambda x, block: (block(x, frames=frames), None), x, self.blocks)
        return self.norm(x)
