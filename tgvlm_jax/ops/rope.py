"""Rotary position embedding over one axis (rotate-half layout of Hugging Face Llama and Phi-3)."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rotate(
    x: Float[Array, "b t *heads k"], positions: Int[Array, "b t"], *, theta: float
) -> Float[Array, "b t *heads k"]:
    """Rotates pairs (i, i + k/2) by position * theta^(-2i/k); angles are taken in float32."""
    half = x.shape[-1] // 2
    rates = jnp.power(jnp.float32(theta), -jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions.astype(jnp.float32)[..., None] * rates
    angles = angles.reshape(*positions.shape, *(1,) * (x.ndim - 3), half)
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    low, high = x[..., :half], x[..., half:]
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
