"""The loss of a critic: its values against the returns, clipped about what it said before (PPO)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tgvlm_jax.objectives.sft import Term


def value_terms(
    values: Float[Array, "b t"],
    returns: Float[Array, "b t"],
    *,
    old_values: Float[Array, "b t"],
    mask: Bool[Array, "b t"],
    clip: float,
) -> dict[str, Term]:
    """Half the squared error over masked tokens, and how often the clipping made it larger.

    Args:
        values: of the critic in training. old_values: when the answers were sampled.
        returns: what it should say (`advantages.Credit.returns`).
        mask: tokens whose value is trained (`Credit.asked`).
        clip: a value counts as if it had moved by this at most where that makes the loss larger;
            0 does not clip.

    Returns:
        "value", the loss; "value_clip_fraction", to log.
    """
    # What stands outside the mask reaches neither loss nor gradient.
    values, returns, old_values = (jnp.where(mask, x, 0) for x in (values, returns, old_values))
    plain = (values - returns) ** 2
    near = jnp.clip(values, old_values - clip, old_values + clip) if clip else values
    clipped = (near - returns) ** 2
    found = {"value": jnp.maximum(plain, clipped) / 2, "value_clip_fraction": clipped > plain}
    weight = jnp.sum(mask).astype(values.dtype)
    return {
        name: Term(sum=jnp.sum(jnp.where(mask, value.astype(values.dtype), 0)), weight=weight)
        for name, value in found.items()
    }
