"""Sampled answers as responses, which a training pass replays token for token and span for span."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from tgvlm_jax.rollout.sampler import Generation
from tgvlm_jax.types import Response, pytree


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Actions:
    """Frames that were drawn for the evidence of every answer, slot by slot.

    Attributes:
        frames: which. log_probs: of each being drawn or not as it was, when it was.
        mask: frames and slots that are there.
    """

    frames: Annotated[Any, "bool b e f"]
    log_probs: Annotated[Any, "float32 b e f"]
    mask: Annotated[Any, "bool b e f"]


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """Answers to be run again; `actions` is None where no frames were drawn."""

    response: Response
    actions: Actions | None


def replay(
    found: Generation, frame_mask: jax.Array | None, *, evidence_id: int, slots: int
) -> Replay:
    """The i-th `<evi>` of an answer fills slot i, with the span that was fed back for it.

    An answer with more `<evi>` than `slots` cannot be replayed: all of its mask is false.

    Args:
        frame_mask: real frames of every answer's prompt; None for a model without evidence.
    """
    emitted = (found.tokens == evidence_id) & found.mask
    number = jnp.cumsum(emitted, axis=1) - 1
    fits = jnp.sum(emitted, axis=1) <= slots
    if found.grounding is None:
        emitted, fits = emitted & False, fits | True
    evidence = jnp.where(emitted & (number < slots), number, -1)
    at = evidence[:, None, :] == jnp.arange(slots, dtype=evidence.dtype)[:, None]  # b e t
    spans = jnp.zeros((*at.shape[:2], 2), jnp.float32)
    if found.grounding is not None:
        spans = _take(at, found.grounding.spans)
    filled = jnp.any(at, axis=2) & fits[:, None]
    response = Response(
        tokens=found.tokens,
        mask=found.mask & fits[:, None],
        evidence=evidence,
        spans=spans,
        evidence_mask=filled,
    )
    if found.grounding is None or found.grounding.drawn is None or frame_mask is None:
        return Replay(response=response, actions=None)
    actions = Actions(
        frames=_take(at, found.grounding.drawn) > 0,
        log_probs=_take(at, found.grounding.log_probs),
        mask=filled[..., None] & frame_mask[:, None, :],
    )
    return Replay(response=response, actions=actions)


def _take(at: jax.Array, values: jax.Array) -> jax.Array:
    """What stands where a slot was filled, 0 for empty slots."""
    return jnp.einsum("bet,btx->bex", at.astype(jnp.float32), values.astype(jnp.float32))
