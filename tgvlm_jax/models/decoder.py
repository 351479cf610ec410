"""The decoder: one prompt pass that keeps its keys and values, then passes that extend it.

Layers are stacked and scanned (design D5). A pass may attend to the keys and values of an earlier
one, so a prompt is run once and any number of answers extend it, in training as in decoding.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from tgvlm_jax import mesh
from tgvlm_jax.models import lora
from tgvlm_jax.models.layers import Embedding, Linear, RMSNorm, stack
from tgvlm_jax.ops.attention import PRODUCT, SUMMED, KeyValues, attend, ready
from tgvlm_jax.ops.masks import AttentionMask, earlier_mask
from tgvlm_jax.ops.rope import Rotation, rotate, rotation
from tgvlm_jax.schema import DecoderConfig, ModelConfig
from tgvlm_jax.types import pytree

_INPUT = "input of a layer"
_SAVED = {
    "none": None,
    "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT, SUMMED),
    "sums": jax.checkpoint_policies.save_only_these_names(SUMMED),
    "full": jax.checkpoint_policies.nothing_saveable,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Earlier:
    """What a pass extends: keys and values stacked over layers, and which of them are filled.

    Attributes:
        slots: their numbers, where they do not stand in their order (`models/context.py`).
        seen: who of those that follow sees which, where that is not all of them.
    """

    kv: Annotated[Any, "KeyValues l b h s k"]
    mask: Annotated[Any, "bool b s"]
    slots: Annotated[Any, "int32 s | None"] = None
    seen: Annotated[Any, "AttentionMask b t s | None"] = None

    def seen_after(self, count: Int[Array, "*#b t"], *, window: int) -> AttentionMask:
        """Who of those that follow sees it; `count` tokens stand between, see `earlier_mask`."""
        if self.seen is not None:
            return self.seen
        return earlier_mask(self.mask, count, window=window, slots=self.slots)


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class States:
    """Residual streams of one pass, none of them normalised.

    Attributes:
        taps: by number of layers, the stream after so many (0: the input), for those asked for.
        final: after the last layer.
        kv: keys and values, stacked over layers.
    """

    taps: Annotated[Any, "layers -> float b t d"]
    final: Annotated[Any, "float b t d"]
    kv: Annotated[Any, "KeyValues l b h t k"]


_QKV = {
    "axes": ("embed", "heads", None, None),
    "formula": "btd,dhsk->bthsk",
    "out": ("batch", mesh.TOKENS, "heads", None, None),
}
_GATE_UP = {
    "axes": ("embed", None, "mlp"),
    "formula": "btd,dsf->btsf",
    "out": ("batch", mesh.TOKENS, None, "mlp"),
}


class Block(nnx.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        d, h, k, ff = config.width, config.kv_heads, config.head_size, config.hidden
        r, eps = config.heads // h, config.norm_eps
        made = {"rngs": rngs, "dtype": dtype}
        heads = {"out": ("batch", mesh.TOKENS, "heads", None), "bias": config.qkv_bias, **made}
        wide = {"out": ("batch", mesh.TOKENS, "mlp"), **made}
        # Outputs are scaled down so that the residual stream starts at about unit size.
        narrow = {"out": ("batch", mesh.TOKENS, None), "scale": (2 * config.layers) ** -0.5, **made}

        self.attention_norm = RMSNorm(d, eps=eps, dtype=dtype)
        self.mlp_norm = RMSNorm(d, eps=eps, dtype=dtype)
        self.fused = config.fused
        if config.fused:
            self.qkv = Linear((d, h, r + 2, k), **_QKV, bias=config.qkv_bias, **made)
            self.gate_up = Linear((d, 2, ff), **_GATE_UP, **made)
        else:
            several = {**heads, "out": ("batch", mesh.TOKENS, "heads", None, None)}
            axes = ("embed", "heads", None, None)
            self.q = Linear((d, h, r, k), axes=axes, formula="btd,dhrk->bthrk", **several)
            axes = ("embed", "heads", None)
            self.k = Linear((d, h, k), axes=axes, formula="btd,dhk->bthk", **heads)
            self.v = Linear((d, h, k), axes=axes, formula="btd,dhk->bthk", **heads)
            self.gate = Linear((d, ff), axes=("embed", "mlp"), formula="btd,df->btf", **wide)
            self.up = Linear((d, ff), axes=("embed", "mlp"), formula="btd,df->btf", **wide)
        self.q_norm = RMSNorm(k, eps=eps, dtype=dtype) if config.qk_norm else None
        self.k_norm = RMSNorm(k, eps=eps, dtype=dtype) if config.qk_norm else None
        axes = ("heads", None, None, "embed")
        self.o = Linear((h, r, k, d), axes=axes, formula="bthrk,hrkd->btd", **narrow)
        self.down = Linear((ff, d), axes=("mlp", "embed"), formula="btf,fd->btd", **narrow)

    def _project(
        self, y: Float[Array, "b t d"], turn: Rotation
    ) -> tuple[Float[Array, "b t h r k"], KeyValues]:
        """Queries, keys and values of normalised input."""
        if self.fused:
            qkv = self.qkv(y)
            q, k, v = qkv[..., :-2, :], qkv[..., -2, :], qkv[..., -1, :]
        else:
            q, k, v = self.q(y), self.k(y), self.v(y)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        own = KeyValues(k=jnp.swapaxes(rotate(k, turn), 1, 2), v=jnp.swapaxes(v, 1, 2))
        return rotate(q, turn), own

    def _mlp(self, y: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        if self.fused:
            both = self.gate_up(y)
            return self.down(jax.nn.silu(both[:, :, 0]) * both[:, :, 1])
        return self.down(jax.nn.silu(self.gate(y)) * self.up(y))

    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        turn: Rotation,
        stretches: tuple[KeyValues, ...] = (),
        masks: Sequence[Bool[Array, "_b _t _s"] | AttentionMask],
        cache: KeyValues | None = None,
        index: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "b t d"], KeyValues]:
        """Runs the layer over `stretches` and then its own tokens.

        With a `cache`, the own keys are written at `index` of it and all of it is attended to.
        `masks` has one entry a stretch, the own one last.
        """
        q, own = self._project(self.attention_norm(x), turn)
        if cache is not None:
            write = jax.lax.dynamic_update_slice_in_dim
            own = jax.tree.map(lambda whole, new: write(whole, new, index, axis=2), cache, own)
        x = x + self.o(attend(q, (*stretches, own), masks))
        return x + self._mlp(self.mlp_norm(x)), own

    def fuse(self) -> None:
        """Makes one product of those that share an input, if none of them has an adapter."""
        if self.fused:
            return
        heads, wide = (self.q, self.k, self.v), (self.gate, self.up)
        if any(one.lora_a is not None for one in (*heads, *wide)):
            return
        q, k, v = (one.weight[...] for one in heads)
        qkv = jnp.concatenate((q, k[:, :, None], v[:, :, None]), axis=2)
        added, biases = [one.bias[...] for one in heads if one.bias is not None], None
        if added:
            q, k, v = added
            biases = jnp.concatenate((q, k[:, None], v[:, None]), axis=1)
        gate_up = jnp.stack([one.weight[...] for one in wide], axis=1)
        self.qkv = self.q.like(qkv, biases, **_QKV)
        self.gate_up = self.gate.like(gate_up, None, **_GATE_UP)
        self.fused = True
        del self.q, self.k, self.v, self.gate, self.up


class Decoder(nnx.Module):
    """Embedding, stacked blocks, final norm, output head."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        spec, dtype = config.decoder, jnp.dtype(config.param_dtype)
        self.config = config
        self.embedding = Embedding(spec.vocab_size, spec.width, rngs=rngs, dtype=dtype)
        self.blocks = stack(lambda r: Block(spec, rngs=r, dtype=dtype), spec.layers, rngs=rngs)
        self.norm = RMSNorm(spec.width, eps=spec.norm_eps, dtype=dtype)
        tied = spec.tie_embeddings
        self.untied_head = (
            None if tied else Embedding(spec.vocab_size, spec.width, rngs=rngs, dtype=dtype)
        )

    def embed(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """Token vectors in the activation dtype."""
        return self.embedding(tokens).astype(self.config.dtype)

    def head(self) -> Float[Array, "n d"]:
        """The output matrix, to be used on normalised states; put together once for all of them."""
        source = self.untied_head or self.embedding
        return mesh.gathered(source.table[...].astype(self.config.dtype), mesh.axes("batch"))

    def logits(
        self, states: Float[Array, "b t d"], *, head: Float[Array, "n d"] | None = None
    ) -> Float[Array, "b t n"]:
        """Next-token logits, in float32, from un-normalised final states.

        A loop makes `head()` once, before it, and passes it here.
        """
        head = self.head() if head is None else head
        out = ("batch", None, "vocab")
        return mesh.einsum("btd,nd->btn", self.norm(states), head, out=out).astype(jnp.float32)

    def rotation(self, positions: Int[Array, "b t"] | Int[Array, "3 b t"]) -> Rotation:
        """Rotary angles of positions; made once a pass."""
        spec = self.config.decoder
        return rotation(positions, spec.rope, head_size=spec.head_size)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        turn: Rotation,
        mask: Bool[Array, "b t t"] | AttentionMask,
        earlier: Sequence[Earlier] = (),
        taps: Sequence[int] = (),
        deepstack: Float[Array, "m b t d"] | None = None,
    ) -> States:
        """Runs all layers over embedded tokens.

        Args:
            x: input embeddings. turn: rotary angles of their positions.
            mask: which of the pass's own tokens each token sees.
            earlier: earlier passes, all filled slots of which every token sees.
            taps: numbers of layers after which the stream is kept.
            deepstack: what is added to the stream after each of the first `m` layers (Qwen3-VL).
        """
        layers, window = self.config.decoder.layers, self.config.decoder.sliding_window
        order = jnp.arange(x.shape[1], dtype=jnp.int32)
        before = (one.seen_after(order, window=window) for one in earlier)
        masks = ready((*before, mask), queries=x.shape[1])

        def layer(x, block, stretches):
            x = checkpoint_name(x, _INPUT)
            return block(x, turn=turn, stretches=stretches, masks=masks)

        if self.config.remat != "none":
            layer = jax.checkpoint(layer, policy=_SAVED[self.config.remat])

        def body(carry, inputs):
            x, kept = carry
            number, block, stretches = inputs
            # Taps stay outside the remat: a select keeps no residual.
            kept = {tap: jnp.where(number == tap, x, old) for tap, old in kept.items()}
            x, own = layer(x, block, stretches)
            if deepstack is not None:
                place = jnp.minimum(number, deepstack.shape[0] - 1)
                added = jax.lax.dynamic_index_in_dim(deepstack, place, keepdims=False)
                x = x + jnp.where(number < deepstack.shape[0], added, 0).astype(x.dtype)
            return (x, kept), own

        start = (x, dict.fromkeys(taps, x))
        inputs = (jnp.arange(layers), self.blocks, tuple(one.kv for one in earlier))
        unroll = min(self.config.unroll, layers)
        (final, kept), kv = jax.lax.scan(body, start, inputs, unroll=unroll)
        return States(taps=kept, final=final, kv=kv)

    def unstacked(self) -> list[Block]:
        """The blocks one by one, as a decoding loop wants them.

        One that slices stacked weights copies them at every token, and one that converts them does
        that at every token. Few large products with few rows take less time than many small ones,
        so those that share an input are joined, and in float32 adapters are folded in.
        """
        layers, dtype = range(self.config.decoder.layers), jnp.dtype(self.config.dtype)
        blocks = [jax.tree.map(lambda leaf, i=i: leaf[i], self.blocks) for i in layers]
        for block in blocks:
            if dtype == jnp.float32:
                lora.fold(block)
            block.fuse()
            for _, module in nnx.iter_modules(block):
                if isinstance(module, Linear):
                    module.weight = nnx.Param(module.weight[...].astype(dtype))
        return blocks
