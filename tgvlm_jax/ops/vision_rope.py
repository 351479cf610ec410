"""Rotary position embedding over the rows and columns of a patch grid (Qwen-VL vision towers).

The M-RoPE of their text decoders (time, row, column) is in `tgvlm_jax.ops.rope`.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tgvlm_jax.ops.rope import Rotation


def grid_rotation(
    coordinates: Int[Array, "... 2"], *, head_size: int, theta: float = 10_000.0
) -> Rotation:
    """Angles of patches: the first quarter of a head turns by row, the second by column.

    Args:
        coordinates: row and column of each patch within its frame.
        head_size: divides by 4; rates are those of a head of half that size.
    """
    axis = head_size // 2
    rates = (theta ** -(np.arange(0, axis, 2) / axis)).astype(np.float32)
    places = coordinates.astype(jnp.float32)
    angles = jnp.concatenate([places[..., :1] * rates, places[..., 1:] * rates], axis=-1)
    return Rotation(cos=jnp.cos(angles), sin=jnp.sin(angles))


def rotate_heads(x: Float[Array, "... h k"], by: Rotation) -> Float[Array, "... h k"]:
    """Turns every head, in float32; dimension i pairs with i + half."""
    cos, sin = by.cos[..., None, :], by.sin[..., None, :]
    low, high = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
    return turned.astype(x.dtype)
