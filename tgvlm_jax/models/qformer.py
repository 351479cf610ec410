"""The Q-Former: a BERT whose query tokens read an image, with the user's text beside them or not.

As in BLIP-2 (queries only), and in InstructBLIP, E.T.Chat and D2VLM (with text; D2VLM 1.3).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from tgvlm_jax import mesh
from tgvlm_jax.models.layers import LayerNorm, stack
from tgvlm_jax.models.tower import Attention, Mlp, table
from tgvlm_jax.schema import QformerConfig
from tgvlm_jax.types import Text

_TOKENS = ("batch", "frames", None, None)


class CrossAttention(nnx.Module):
    """Queries read the image; post-norm."""

    def __init__(self, config: QformerConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        d = config.width
        self.attention = Attention(
            d, heads=config.heads, source=config.image_width, out=_TOKENS, rngs=rngs, dtype=dtype
        )
        self.norm = LayerNorm(d, eps=config.norm_eps, dtype=dtype)

    def __call__(
        self,
        queries: Float[Array, "b f q d"],
        image: Float[Array, "b f p c"],
        mask: Bool[Array, "b #f 1 p"] | None,
    ) -> Float[Array, "b f q d"]:
        """Adds what the queries find in the image."""
        return self.norm(queries + self.attention(queries, image, mask))


class QformerLayer(nnx.Module):
    """Self-attention over queries and text, then one GELU layer for each of the two; post-norm."""

    def __init__(self, config: QformerConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        d, eps = config.width, config.norm_eps
        made = {"out": _TOKENS, "rngs": rngs, "dtype": dtype}
        self.attention = Attention(d, heads=config.heads, **made)
        self.attention_norm = LayerNorm(d, eps=eps, dtype=dtype)
        self.query_mlp = Mlp(d, config.hidden, **made)
        self.query_norm = LayerNorm(d, eps=eps, dtype=dtype)
        text = bool(config.vocab_size)
        self.text_mlp = Mlp(d, config.hidden, **made) if text else None
        self.text_norm = LayerNorm(d, eps=eps, dtype=dtype) if text else None

    def __call__(
        self,
        x: Float[Array, "b f s d"],
        image: Float[Array, "b f p c"],
        *,
        cross: CrossAttention | None,
        queries: int,
        mask: Bool[Array, "b 1 1 s"] | None,
        image_mask: Bool[Array, "b #f 1 p"] | None,
    ) -> Float[Array, "b f s d"]:
        """Runs the layer over `queries` query tokens and the text after them."""
        x = self.attention_norm(x + self.attention(x, mask=mask))
        asked, text = x[:, :, :queries], x[:, :, queries:]
        if cross is not None:
            asked = cross(asked, image, image_mask)
        asked = self.query_norm(asked + self.query_mlp(asked))
        if self.text_mlp is None or self.text_norm is None or not text.shape[2]:
            return asked
        text = self.text_norm(text + self.text_mlp(text))
        return jnp.concatenate([asked, text], axis=2)


class Qformer(nnx.Module):
    """Embeds the text, normalises it with the queries, and runs all layers on every frame."""

    def __init__(self, config: QformerConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        """`dtype` is that of the parameters; activations have the queries'."""
        d = config.width
        self.config = config
        # The published vocabulary divides by no mesh, so the table is cut along its width.
        words = nnx.initializers.normal(0.02)(rngs.params(), (config.vocab_size, d), dtype)
        text = bool(config.vocab_size)
        self.words = nnx.Param(mesh.shard(words, None, "embed")) if text else None
        self.positions = table(rngs, (config.positions, d), dtype) if text else None
        self.norm = LayerNorm(d, eps=config.norm_eps, dtype=dtype)
        self.layers = stack(
            lambda r: QformerLayer(config, rngs=r, dtype=dtype), config.layers, rngs=rngs
        )
        self.cross = stack(
            lambda r: CrossAttention(config, rngs=r, dtype=dtype), config.crossings, rngs=rngs
        )

    def __call__(
        self,
        queries: Float[Array, "b f q d"],
        image: Float[Array, "b f p c"],
        *,
        text: Text | None = None,
        image_mask: Bool[Array, "b #f p"] | None = None,
    ) -> Float[Array, "b f s d"]:
        """States of the queries, and after them those of the text where there is any.

        Args:
            queries: learned tokens, once for each frame. image: tokens of each frame.
            text: what is asked. image_mask: image tokens that are there, all where None.
        """
        b, f, q, _ = queries.shape
        x, mask = queries, None
        if text is not None:
            words = self._embed(text).astype(x.dtype)[:, None]
            words = jnp.broadcast_to(words, (b, f, *words.shape[2:]))
            x = jnp.concatenate([x, mesh.shard(words, *_TOKENS)], axis=2)
            mask = jnp.pad(text.mask, ((0, 0), (q, 0)), constant_values=True)[:, None, None]
        if image_mask is not None:
            image_mask = image_mask[:, :, None]

        def group(x, layers, cross):
            """A layer that reads the image and those that follow it and do not."""
            for i in range(layers.query_norm.scale.shape[0]):
                layer = jax.tree.map(lambda leaf, i=i: leaf[i], layers)
                here = cross if i == 0 else None
                masks = {"mask": mask, "image_mask": image_mask}
                x = layer(x, image, cross=here, queries=q, **masks)
            return x, None

        every, whole = self.config.cross_every, self.config.layers // self.config.cross_every
        x = self.norm(x)
        if whole:
            grouped = jax.tree.map(lambda leaf: _grouped(leaf, whole, every), self.layers)
            first = jax.tree.map(lambda leaf: leaf[:whole], self.cross)
            x, _ = jax.lax.scan(lambda x, part: group(x, *part), x, (grouped, first))
        if self.config.crossings > whole:
            rest = jax.tree.map(lambda leaf: leaf[whole * every :], self.layers)
            x, _ = group(x, rest, jax.tree.map(lambda leaf: leaf[whole], self.cross))
        return x

    def _embed(self, text: Text) -> Float[Array, "b t d"]:
        if self.words is None or self.positions is None:
            raise ValueError("this Q-Former takes queries only")
        out = ("batch", None, None)
        positions = text.positions
        if positions is None:
            order = jnp.arange(text.ids.shape[1], dtype=text.ids.dtype)
            positions = jnp.broadcast_to(order, text.ids.shape)
        words = mesh.lookup(self.words[...], text.ids, out=out)
        positions = mesh.shard(positions, "batch", None)
        return words + mesh.lookup(self.positions[...], positions, out=out)


def _grouped(leaf: Float[Array, "l ..."], count: int, size: int) -> Float[Array, "g m ..."]:
    """Stacked layers as `count` groups of `size`, without those that fill no group."""
    return leaf[: count * size].reshape(count, size, *leaf.shape[1:])
