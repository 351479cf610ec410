"""One token a frame: a Q-Former that has read the question, and one attention (D2VLM 1.1-1.3)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, UInt8

from tgvlm_jax import mesh
from tgvlm_jax.models.eva_vit import EvaVit
from tgvlm_jax.models.layers import LayerNorm
from tgvlm_jax.models.qformer import Qformer
from tgvlm_jax.models.tower import KEPT, dense, in_chunks, table
from tgvlm_jax.schema import CLIP_MEAN, CLIP_STD, CompressorConfig, FrameEncoderConfig
from tgvlm_jax.types import Text

_TOKENS = ("batch", "frames", None, None)


class FrameCompressor(nnx.Module):
    """Patches of a frame and the question -> one token of the decoder's width."""

    def __init__(self, config: CompressorConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        """`dtype` is that of the parameters; activations have the patches'."""
        c, d = config.qformer.image_width, config.qformer.width
        made = {"rngs": rngs, "dtype": dtype}
        norm = {"eps": config.norm_eps, "dtype": dtype}
        self.config = config
        self.queries = table(rngs, (config.queries, d), dtype)
        self.image_norm = LayerNorm(c, **norm)
        self.qformer = Qformer(config.qformer, **made)
        self.project = dense(d, c, out=_TOKENS, **made)
        self.q_norm, self.q = LayerNorm(c, **norm), dense(c, c, out=_TOKENS, **made)
        self.k_norm, self.k = LayerNorm(c, **norm), dense(c, c, out=_TOKENS, **made)
        self.out_norm = LayerNorm(c, **norm)
        self.out = dense(c, config.width, out=_TOKENS[:3], **made)

    def __call__(
        self, patches: Float[Array, "b f p c"], text: Text | None
    ) -> Float[Array, "b f d"]:
        """The token of each frame.

        Args:
            patches: of a vision tower, without its class token. text: the user's question.
        """
        return in_chunks(lambda part: self.compress(part, text), patches, chunk=self.config.chunk)

    def compress(
        self, patches: Float[Array, "b f p c"], text: Text | None
    ) -> Float[Array, "b f d"]:
        """All frames at once, laid out over ("batch", "frames")."""
        count = self.config.queries
        asked = self.queries[...].astype(patches.dtype)
        asked = jnp.broadcast_to(asked, (*patches.shape[:2], *asked.shape))
        asked = self.qformer(mesh.shard(asked, *_TOKENS), self.image_norm(patches), text=text)
        asked = self.project(asked[:, :, :count])
        q, k = self.q(self.q_norm(asked)), self.k(self.k_norm(patches))
        q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
        scores = jnp.einsum("bfqc,bfpc->bfqp", q, k).astype(jnp.float32)
        weights = jax.nn.softmax(scores, axis=-1).astype(patches.dtype)
        found = jnp.einsum("bfqp,bfpc->bfqc", weights, patches) + asked
        return self.out(self.out_norm(jnp.mean(found, axis=2)))


class FrameEncoder(nnx.Module):
    """Normalised pixels and the question -> one token a frame.

    Patches live for one chunk only. For a backward pass all are kept, 0.7 MB a frame in bfloat16 at
    published size: the frozen tower that makes them, most of a training step, runs once.
    """

    def __init__(self, config: FrameEncoderConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.config = config
        self.eva = EvaVit(config.eva, rngs=rngs, dtype=dtype)
        self.compressor = FrameCompressor(config.compressor, rngs=rngs, dtype=dtype)

    def __call__(
        self, frames: Float[Array, "b f y x c"], text: Text | None
    ) -> Float[Array, "b f d"]:
        """The token of each frame, for the question of its sample."""

        def encode(part):
            patches = checkpoint_name(self.eva.encode(part)[:, :, 1:], KEPT)
            return self.compressor.compress(patches, text)

        return in_chunks(encode, frames, chunk=self.config.chunk)


def clip_normalised(
    pixels: UInt8[Array, "b f y x 3"] | Float[Array, "b f y x 3"], *, dtype: jnp.dtype
) -> Float[Array, "b f y x 3"]:
    """Pixels with the mean and spread that EVA-CLIP was trained on; floats are so already."""
    if not jnp.issubdtype(pixels.dtype, jnp.integer):
        return pixels.astype(dtype)
    mean, std = jnp.asarray(CLIP_MEAN, jnp.float32), jnp.asarray(CLIP_STD, jnp.float32)
    return ((pixels.astype(jnp.float32) / 255 - mean) / std).astype(dtype)
