"""Evidence decoding of a batch of prompts inside one jitted loop (D2VLM 1.6, 1.7).

When the model emits `<evi>`, the state that emitted it is matched with the frames, a range of
frames is read out, and the mean of their states is added to the input embedding of that `<evi>`.
"""

import dataclasses
import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from tgvlm_jax import mesh
from tgvlm_jax.models.evidence import span_means
from tgvlm_jax.models.parameters import Blueprint, Params
from tgvlm_jax.models.vlm import PromptState, VideoLanguageModel
from tgvlm_jax.ops.attention import KeyValues
from tgvlm_jax.types import Prompt, pytree


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """Generated answers.

    Attributes:
        tokens: ids; after the end token padding.
        spans: the frame range read at each position; it means something where the token is `<evi>`.
        probabilities: what it was read from.
    """

    tokens: Annotated[Any, "int32 b t"]
    spans: Annotated[Any, "int32 b t 2"]
    probabilities: Annotated[Any, "float32 b t f"]


@functools.partial(jax.jit, static_argnames=("blueprint", "max_tokens"))
def generate(
    params: Params,
    prompt: Prompt,
    *,
    blueprint: Blueprint,
    max_tokens: int,
    evidence_id: int | jax.Array,
    end_id: int | jax.Array,
    pad_id: int | jax.Array,
) -> Generation:
    """Greedy answers of at most `max_tokens` tokens; stops when every row has ended."""
    model = blueprint.build(params)
    read = model.prefill(prompt)
    batch, frames = prompt.frame_mask.shape
    out = Generation(
        tokens=_rows(jnp.full((batch, max_tokens), pad_id, jnp.int32)),
        spans=_rows(jnp.zeros((batch, max_tokens, 2), jnp.int32)),
        probabilities=_rows(jnp.zeros((batch, max_tokens, frames), jnp.float32)),
    )
    layers = model.config.decoder.layers
    start = {
        "index": jnp.zeros((), jnp.int32),
        "out": out,
        "done": _rows(jnp.zeros(batch, bool)),
        "final": read.final,
        "query": read.query,
        "cache": [_empty(read.earlier.kv, i, max_tokens) for i in range(layers)],
    }
    prompt_kv = [jax.tree.map(lambda x, i=i: x[i], read.earlier.kv) for i in range(layers)]
    blocks = model.decoder.unstacked()

    def step(loop):
        i = loop["index"]
        token = jnp.argmax(model.decoder.logits(loop["final"])[:, 0], axis=-1).astype(jnp.int32)
        token = jnp.where(loop["done"], pad_id, token)
        queries = model.evidence.evidence_head(loop["query"])
        scores = model.evidence.scores(queries, read.frame_keys)
        span = model.evidence.read(scores, read.frame_mask)
        written = _write(
            loop["out"],
            Generation(tokens=token[:, None], spans=span, probabilities=jax.nn.sigmoid(scores)),
            i,
        )
        event = span_means(read.bank, span, read.frame_mask)
        event = jnp.where((token == evidence_id)[:, None, None], event, 0)
        x = model.decoder.embed(token[:, None]) + event
        states = _decode(model, blocks, read, prompt_kv, loop["cache"], x, i)
        done = loop["done"] | (token == end_id)
        return {"index": i + 1, "out": written, "done": done, **states}

    def unfinished(loop):
        return (loop["index"] < max_tokens) & ~jnp.all(loop["done"])

    return jax.lax.while_loop(unfinished, step, start)["out"]


def _decode(
    model: VideoLanguageModel,
    blocks: list,
    read: PromptState,
    prompt_kv: list[KeyValues],
    cache: list[KeyValues],
    x: jax.Array,
    index: jax.Array,
) -> dict[str, Any]:
    """One token through all layers, against the shared prompt and the row's own cache."""
    length = cache[0].k.shape[1]
    own_mask = jnp.broadcast_to(
        jnp.arange(length, dtype=jnp.int32) <= index, (x.shape[0], 1, length)
    )
    masks = (read.earlier.mask[:, None, :], own_mask)
    turn = model.decoder.rotation((read.length + index)[:, None])
    new_cache, query = [], x
    for number, (block, kv, own) in enumerate(zip(blocks, prompt_kv, cache, strict=True)):
        if number == len(blocks) - 1:
            query = x
        x, own = block(x, turn=turn, stretches=(kv,), masks=masks, cache=own, index=index)
        new_cache.append(own)
    return {"final": x, "query": query, "cache": new_cache}


def _empty(kv: KeyValues, layer: int, length: int) -> KeyValues:
    """A cache for `length` new tokens, shaped (and sharded) like one layer of the prompt's."""

    def blank(x):
        one = jnp.zeros_like(x[layer, :, :1])
        return jnp.broadcast_to(one, (one.shape[0], length, *one.shape[2:]))

    return jax.tree.map(blank, kv)


def _rows(x: jax.Array) -> jax.Array:
    """Lays an array out by its first axis."""
    return mesh.shard(x, "batch", *(None,) * (x.ndim - 1))


def _write(whole: Generation, new: Generation, index: jax.Array) -> Generation:
    write = jax.lax.dynamic_update_slice_in_dim
    return jax.tree.map(lambda old, one: write(old, one, index, axis=1), whole, new)
