"""EVA-CLIP ViT-g/14, the frame encoder of BLIP-2, E.T.Chat and D2VLM (D2VLM 1.2)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from tgvlm_jax import mesh
from tgvlm_jax.models.layers import LayerNorm, stack
from tgvlm_jax.models.tower import Attention, Mlp, cut, in_chunks, patch_embedding, table
from tgvlm_jax.types import InputError

_TOKENS = ("batch", "frames", None, None)
_FAMILIES = ("blip-2", "instructblip", "blip_2_vision_model", "instructblip_vision_model")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaConfig:
    """Sizes; the defaults are the tower of D2VLM: a 40-layer model without its last layer.

    Attributes:
        image: side of the square frame in pixels.
        key_bias: whether keys have a bias. It changes nothing (the softmax takes it out again) and
            the original has none, but the tower inside Hugging Face's BLIP-2 stores one.
        final_norm: LayerNorm of the output, as in BLIP-2; D2VLM reads the last block as it is.
        chunk: frames of one sample computed at a time, 0 for all.
    """

    image: int = 224
    patch: int = 14
    width: int = 1408
    layers: int = 39
    heads: int = 16
    hidden: int = 6144
    norm_eps: float = 1e-6
    key_bias: bool = False
    final_norm: bool = False
    chunk: int = 32

    @property
    def patches(self) -> int:
        """Patch tokens of a frame."""
        return (self.image // self.patch) ** 2


EVA_VIT_G = EvaConfig()
"""As published inside D2VLM and E.T.Chat: 985,894,528 parameters."""


def from_hf(config: Mapping[str, Any]) -> EvaConfig:
    """The tower of a BLIP-2 or InstructBLIP `config.json`, or of its `vision_config`.

    Raises:
        InputError: another architecture, or an activation that this tower has not.
    """
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise InputError(f"model_type {family!r} has no EVA tower; known: {', '.join(_FAMILIES)}")
    config = config.get("vision_config", config)
    if config.get("hidden_act", "gelu") != "gelu":
        raise InputError(f"hidden_act {config['hidden_act']!r}: the EVA tower has 'gelu' only")
    return EvaConfig(
        image=config["image_size"],
        patch=config["patch_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        norm_eps=config["layer_norm_eps"],
        key_bias=True,
        final_norm=True,
    )


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
