"""Evidence tokens: which frames an `<evi>` means, and what it feeds back (D2VLM 1.5-1.7)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32, Shaped

from tgvlm_jax.grounding import targets
from tgvlm_jax.models.layers import LayerNorm, Linear
from tgvlm_jax.schema import ModelConfig


class EvidenceHead(nnx.Module):
    """LayerNorm -> Linear -> GELU -> Linear, back to the decoder's width (D2VLM 1.5)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d, dtype = config.decoder.width, jnp.dtype(config.param_dtype)
        shared = {"bias": True, "rngs": rngs, "dtype": dtype, "formula": "bsd,de->bse"}
        self.norm = LayerNorm(d, eps=1e-5, dtype=dtype)
        self.down = Linear((d, d // 2), axes=("embed", "mlp"), out=("batch", None, "mlp"), **shared)
        self.up = Linear((d // 2, d), axes=("mlp", "embed"), out=("batch", None, None), **shared)

    def __call__(self, x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        """Maps states of frames or of slots, in any number `s`."""
        return self.up(jax.nn.gelu(self.down(self.norm(x)), approximate=False))


class Evidence(nnx.Module):
    """The two heads; both read h^(L-1)."""

    def __init__(self, config: ModelConfig, *, threshold: float, rngs: nnx.Rngs):
        """`threshold` is the one of `EvidenceConfig`."""
        self.threshold = threshold
        self.frame_head = EvidenceHead(config, rngs=rngs)
        self.evidence_head = EvidenceHead(config, rngs=rngs)

    def scores(
        self, queries: Float[Array, "b e d"], frame_keys: Float[Array, "b f d"]
    ) -> Float[Array, "b e f"]:
        """Scaled dot products, float32; sigmoid gives the probability of a frame."""
        scores = jnp.einsum("bed,bfd->bef", queries, frame_keys, preferred_element_type=jnp.float32)
        return scores * jnp.float32(queries.shape[-1] ** -0.5)

    def read(
        self, scores: Float[Array, "b e f"], frame_mask: Bool[Array, "b f"]
    ) -> Int32[Array, "b e 2"]:
        """The frame range each row of scores says (D2VLM 1.7)."""
        mask = jnp.broadcast_to(frame_mask[:, None, :], scores.shape)
        return targets.readout(jax.nn.sigmoid(scores), mask, threshold=self.threshold)


def span_means(
    bank: Float[Array, "b f d"], spans: Shaped[Array, "b e 2"], frame_mask: Bool[Array, "b f"]
) -> Float[Array, "b e d"]:
    """Mean of the frame states inside each (first, last) range, both inside (D2VLM 1.6).

    A range is rounded (halves to even), put in order and clamped to the video.
    """
    spans = jnp.round(spans.astype(jnp.float32))
    last = jnp.sum(frame_mask, axis=-1, dtype=jnp.float32) - 1
    spans = jnp.clip(spans, 0, last[:, None, None])
    frames = jnp.arange(bank.shape[1], dtype=jnp.float32)
    first, final = jnp.min(spans, axis=-1), jnp.max(spans, axis=-1)
    inside = (frames >= first[..., None]) & (frames <= final[..., None]) & frame_mask[:, None, :]
    weights = inside.astype(bank.dtype)
    weights = weights / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1)
    return jnp.einsum("bef,bfd->bed", weights, bank)
