"""Token log-probabilities without a gather over the vocabulary, in chunks of positions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tgvlm_jax import mesh


def token_log_probs(
    states: Float[Array, "b t d"],
    head: Float[Array, "n d"],
    targets: Int[Array, "b t"],
    *,
    chunk: int = 512,
) -> Float[Array, "b t"]:
    """log p(target) of every position, in float32.

    Logits exist for `chunk` positions at a time, and are made again in the backward pass, so
    memory does not grow with length x vocabulary. The target is picked by a compare, whose
    gradient needs no scatter (specs: measured faster than take_along_axis on CPU and TPU).
    """

    def one(states, targets):
        logits = mesh.einsum("btd,nd->btn", states, head, out=("batch", None, "vocab"))
        logits = logits.astype(jnp.float32)
        hot = jnp.arange(head.shape[0], dtype=targets.dtype) == targets[..., None]
        picked = jnp.sum(jnp.where(hot, logits, 0.0), axis=-1)
        return picked - jax.nn.logsumexp(logits, axis=-1)

    length = states.shape[1]
    if length <= chunk:
        return one(states, targets)
    parts = [
        jax.checkpoint(one)(states[:, i : i + chunk], targets[:, i : i + chunk])
        for i in range(0, length, chunk)
    ]
    return jnp.concatenate(parts, axis=1)
