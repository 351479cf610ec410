"""A long prompt spread over devices (mesh axis `cp`): who holds which of its slots.

Under a causal mask the last slots see the most. So a prompt is cut into two pieces for every
device, which gets one from the front and the one as far from the back: all have the same work at
every stop of the ring (as in Llama 3's context parallelism, arXiv:2407.21783, section 3.3.2).
Whatever stands for a slot is dealt out in this order, masks know slots by their numbers, and sums
over slots need no order at all.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int, Shaped

from tgvlm_jax import mesh
from tgvlm_jax.types import InputError


def slots(length: int) -> Int[np.ndarray, "_p"]:
    """The number of the slot that stands at each place of a prompt that is dealt out.

    Raises:
        InputError: the pieces would not be of one size.
    """
    ways = mesh.size("context")
    numbers = np.arange(length, dtype=np.int32)
    if ways == 1:
        return numbers
    if length % (2 * ways):
        raise InputError(
            f"a prompt of {length} slots cannot be cut for mesh.cp={ways}: make data.prompt_bucket "
            f"(data.prompt_tokens for Qwen-VL) a multiple of {2 * ways}"
        )
    return numbers.reshape(2 * ways, -1)[_order(ways)].reshape(-1)


def deal(x: Shaped[Array, "..."], axis: int = 1) -> Shaped[Array, "..."]:
    """Deals out an axis that stands for the slots of a prompt; nothing without `cp`."""
    ways = mesh.size("context")
    return x if ways == 1 else _laid(_pieces(x, axis, _order(ways)), axis, mesh.RULES["context"])


def collect(x: Shaped[Array, "..."], axis: int = 1) -> Shaped[Array, "..."]:
    """The inverse of `deal`: every device has all slots, in their order."""
    ways = mesh.size("context")
    return x if ways == 1 else _pieces(_laid(x, axis, None), axis, np.argsort(_order(ways)))


def _order(ways: int) -> Int[np.ndarray, "_n"]:
    """The two pieces of the first device, then those of the second, ..."""
    front, back = np.split(np.arange(2 * ways), 2)
    return np.stack([front, back[::-1]], axis=1).reshape(-1)


def _pieces(x: Array, axis: int, order: np.ndarray) -> Array:
    size = x.shape[axis] // len(order)
    cut = [jax.lax.slice_in_dim(x, i * size, (i + 1) * size, axis=axis) for i in order]
    return jnp.concatenate(cut, axis=axis)


def _laid(x: Array, axis: int, layout: Any) -> Array:
    whole = [*jax.typeof(x).sharding.spec, *(None,) * x.ndim][: x.ndim]
    whole[axis] = layout
    return jax.sharding.reshard(x, PartitionSpec(*whole))
