"""Rotary position embedding: one axis or several (M-RoPE), part of a head or all, LongRoPE.

Angles depend only on positions, so they are made once a pass and shared by all layers. Rotate-half
layout of Hugging Face: dimension i turns with i + half.
"""

import dataclasses
import math
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tgvlm_jax.schema import RopeConfig
from tgvlm_jax.types import pytree


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotation:
    """Cosines and sines of every position, float32."""

    cos: Annotated[Any, "float32 b t half"]
    sin: Annotated[Any, "float32 b t half"]


def rotation(
    positions: Int[Array, "b t"] | Int[Array, "3 b t"], config: RopeConfig, *, head_size: int
) -> Rotation:
    """Angles of all positions; three axes (time, row, column) where `config.sections` is set.

    LongRoPE picks its short or long factors by the largest position of the whole call.
    """
    rates = _rates(config, head_size)
    scale = _attention_factor(config)
    if config.long_factor:
        long = jnp.max(positions) + 1 > config.original_length
        short_rates = rates / jnp.asarray(config.short_factor, jnp.float32)
        rates = jnp.where(long, rates / jnp.asarray(config.long_factor, jnp.float32), short_rates)
    if positions.ndim == 3:
        # One axis for each rate: a product with a 0/1 table needs no gather.
        angles = jnp.einsum("abt,ar->btr", positions.astype(jnp.float32), _axes(config) * rates)
    else:
        angles = positions.astype(jnp.float32)[..., None] * rates
    return Rotation(cos=jnp.cos(angles) * scale, sin=jnp.sin(angles) * scale)


def rotate(x: Float[Array, "b t *heads k"], by: Rotation) -> Float[Array, "b t *heads k"]:
    """Turns the first 2 * half dimensions of every head; the others pass through."""
    half = by.cos.shape[-1]
    shape = (*by.cos.shape[:2], *(1,) * (x.ndim - 3), 1, half)
    cos, sin = by.cos.reshape(shape).astype(x.dtype), by.sin.reshape(shape).astype(x.dtype)
    # The two halves as an axis: no piece is cut out, so none is padded in the gradient.
    halves = x[..., : 2 * half].reshape(*x.shape[:-1], 2, half)
    signs = jnp.asarray([[-1], [1]], x.dtype)
    turned = halves * cos + jnp.flip(halves, axis=-2) * (signs * sin)
    turned = turned.reshape(*x.shape[:-1], 2 * half)
    return jnp.concatenate([turned, x[..., 2 * half :]], axis=-1)


def _rates(config: RopeConfig, head_size: int) -> Float[Array, "half"]:
    turned = int(head_size * config.fraction)
    half = jnp.arange(0, turned, 2, dtype=jnp.float32) / turned
    return 1.0 / jnp.power(jnp.float32(config.theta), half)


def _attention_factor(config: RopeConfig) -> float:
    """LongRoPE's factor on cosines and sines, 1 without it."""
    if config.attention_factor:
        return config.attention_factor
    if not config.long_factor or config.length_ratio <= 1:
        return 1.0
    return math.sqrt(1 + math.log(config.length_ratio) / math.log(config.original_length))


def _axes(config: RopeConfig) -> np.ndarray:
    """Which of (time, row, column) turns each rate, as 0/1 rows."""
    sections = config.sections
    if config.interleaved:
        axis = np.zeros(sum(sections), int)
        for number in (1, 2):
            axis[number : 3 * sections[number] : 3] = number
    else:
        axis = np.repeat(np.arange(3), sections)
    return (axis == np.arange(3)[:, None]).astype(np.float32)
