"""Who sees whom, as a few numbers a token instead of a table of t x s.

A query sees the keys whose place lies within its interval, and those of its own group wherever they
stand: causal attention, windows, packed samples, padding and the frames of a video that see each
other both ways (D2VLM 1.4) are all of this form. A long prompt has no room for the table, and the
kernels of `tgvlm_jax.ops.flash` and the ring of `tgvlm_jax.ops.parts` read the numbers.
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from tgvlm_jax.types import pytree

NOWHERE = -1  # the place of a key that nobody sees, and the group of a query that has none
_NO_KEYS = -2  # the group of a key that has none
_SEGMENT = 2**20  # places of one packed sample to those of the next
_FAR = 2**30


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionMask:
    """Which key each query of a pass sees; `t` may be 1 for all queries alike.

    Attributes:
        low, high: first and last place that a query sees.
        place: of each key; negative ones are seen by nobody but their group.
        group, key_group: numbers of blocks whose queries see all their keys; None without any.
    """

    low: Annotated[Any, "int32 b t"]
    high: Annotated[Any, "int32 b t"]
    place: Annotated[Any, "int32 b s"]
    group: Annotated[Any, "int32 b t | None"] = None
    key_group: Annotated[Any, "int32 b s | None"] = None

    def dense(self) -> Bool[Array, "b t s"]:
        """The same as a table."""
        place = self.place[:, None, :]
        seen = (place >= self.low[:, :, None]) & (place <= self.high[:, :, None])
        if self.group is not None and self.key_group is not None:
            seen |= self.group[:, :, None] == self.key_group[:, None, :]
        return seen


def causal_mask(
    order: Int[Array, "b t"],
    valid: Bool[Array, "b t"],
    *,
    block: Bool[Array, "b t"] | None = None,
    segments: Int[Array, "b t"] | None = None,
    window: int = 0,
) -> AttentionMask:
    """Who sees whom within one pass.

    Args:
        order: place of each slot within its sample, below 2**20.
        valid: slots that hold something; padding is seen by nobody.
        block: slots inside the one bidirectional block, all of which see each other (D2VLM 1.4).
        segments: numbers from 0 of the samples packed into a row, at most 1000; nobody sees
            another's.
        window: how far back one sees, itself included; 0 sees all.
    """
    start = jnp.zeros_like(order) if segments is None else segments.astype(order.dtype) * _SEGMENT
    low = start + jnp.maximum(order - window + 1, 0) if window else start
    group = key_group = None
    if block is not None:
        number = start // _SEGMENT
        group = jnp.where(block, number, NOWHERE)
        key_group = jnp.where(block & valid, number, _NO_KEYS)
    return AttentionMask(
        low=low,
        high=start + order,
        place=jnp.where(valid, start + order, NOWHERE),
        group=group,
        key_group=key_group,
    )


def earlier_mask(
    filled: Bool[Array, "b s"],
    after: Int[Array, "*#b t"],
    *,
    window: int = 0,
    slots: Int[Array, "s"] | None = None,
) -> AttentionMask:
    """Which slots of an earlier pass are seen by the tokens that follow it.

    Args:
        filled: slots of the earlier pass that hold something, from the first on.
        after: how many of its own pass's tokens stand before each token, for all rows or each.
        window: as in `causal_mask`.
        slots: the number of each slot, where they do not stand in their order.
    """
    if slots is None:
        slots = jnp.arange(filled.shape[1], dtype=jnp.int32)
    length = jnp.sum(filled, axis=-1, dtype=jnp.int32)[:, None]
    low = jnp.maximum(length + after - window + 1, 0) if window else jnp.zeros_like(length)
    return AttentionMask(
        low=low, high=jnp.full_like(low, _FAR), place=jnp.where(filled, slots, NOWHERE)
    )


def packed_mask(
    segments: Int[Array, "b t"],
    after: Int[Array, "b t"],
    *,
    of_keys: Int[Array, "b s"],
    places: Int[Array, "b s"],
    filled: Bool[Array, "b s"],
    window: int = 0,
) -> AttentionMask:
    """As `earlier_mask`, where both passes have several samples in a row.

    Args:
        segments: of the queries, numbers from 0, at most 1000. after: how many tokens of its own
            sample stand before each query, those of the earlier pass included.
        of_keys, places: the sample of each slot of the earlier pass, and its place therein.
        filled, window: as in `earlier_mask`.
    """
    start = segments * _SEGMENT
    low = start + jnp.maximum(after - window + 1, 0) if window else start
    place = jnp.where(filled, of_keys * _SEGMENT + places, NOWHERE)
    return AttentionMask(low=low, high=start + after, place=place)


def full_width(mask: AttentionMask, queries: int) -> AttentionMask:
    """The same mask with its numbers spelled out for every query."""
    rows = len(mask.place)

    def wide(x: jax.Array | None) -> jax.Array | None:
        return None if x is None else jnp.broadcast_to(x, (rows, queries))

    return dataclasses.replace(
        mask, low=wide(mask.low), high=wide(mask.high), group=wide(mask.group)
    )
