"""Answers of several samples to a row, each behind its own prompt in the row before it.

What `VideoLanguageModel.prefill` and `extend` are for a sample of its own. A row of prompts and a
row of answers have the same samples in the same order (`tgvlm_jax.data.packing`); nobody sees
another's, positions start anew with every sample, and its first token is predicted by the last slot
of its own prompt. So a sample computes what it would compute alone.
"""

import jax.numpy as jnp

from tgvlm_jax.models.decoder import Earlier, States
from tgvlm_jax.models.vlm import Predicted, VideoLanguageModel, at_slots
from tgvlm_jax.ops.masks import causal_mask, packed_mask
from tgvlm_jax.types import Prompt, Response


def extend(
    model: VideoLanguageModel, prompt: Prompt, response: Response, *, states: States
) -> Predicted:
    """Runs whole responses (teacher forcing) to prompts of which `states` were made.

    For models without evidence heads, on one device a row (mesh axis `cp` is 1).
    """
    theirs, own = prompt.packed, response.packed
    slots = jnp.arange(prompt.tokens.shape[1], dtype=jnp.int32)
    filled = slots < prompt.length[:, None]
    window = model.config.decoder.sliding_window
    count = jnp.take_along_axis(theirs.places, own.ends, axis=1) + 1  # slots of the own prompt
    seen = packed_mask(
        own.segments,
        count + own.places,
        of_keys=theirs.segments,
        places=theirs.places,
        filled=filled,
        window=window,
    )
    follows = count
    if prompt.positions is not None:
        last = jnp.take_along_axis(prompt.positions, own.ends[:, None, :], axis=2)
        follows = jnp.max(last, axis=1) + 1
    after = model.decoder(
        model.decoder.embed(response.tokens),
        turn=model.decoder.rotation(follows + own.places),
        mask=causal_mask(own.places, response.mask, segments=own.segments, window=window),
        earlier=(Earlier(kv=states.kv, mask=filled, seen=seen),),
    )
    # What predicts a token stands one position before it.
    before = jnp.concatenate([after.final[:, :1], after.final[:, :-1]], axis=1)
    first = (own.places == 0)[..., None]
    return Predicted(final=jnp.where(first, at_slots(states.final, own.ends), before))
