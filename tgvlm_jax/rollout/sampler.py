"""Decoding of a batch of prompts inside one jitted loop, with evidence or without.

When a model with evidence heads emits `<evi>`, the state that emitted it is matched with the
frames, a range of frames is read out, and the mean of their states is added to the input embedding
of that `<evi>` (D2VLM 1.6, 1.7).
"""

import dataclasses
import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from tgvlm_jax import mesh
from tgvlm_jax.models.evidence import Evidence, span_means
from tgvlm_jax.models.parameters import Blueprint, Params
from tgvlm_jax.models.vlm import Bank, PromptState, VideoLanguageModel
from tgvlm_jax.ops.attention import KeyValues, earlier_mask
from tgvlm_jax.rollout.sampling import GREEDY, add_used, choose, used_tokens
from tgvlm_jax.schema import SamplingConfig
from tgvlm_jax.types import Prompt, pytree


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Grounding:
    """What `<evi>` would mean at each position.

    Attributes:
        spans: the frame range; it counts where the token is `<evi>`.
        probabilities: what it was read from.
    """

    spans: Annotated[Any, "int32 b t 2"]
    probabilities: Annotated[Any, "float32 b t f"]


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """Generated answers: ids (after the end token padding), and their grounding where there is."""

    tokens: Annotated[Any, "int32 b t"]
    grounding: Annotated[Any, "Grounding | None"]


@functools.partial(jax.jit, static_argnames=("blueprint", "max_tokens", "sampling"))
def generate(
    params: Params,
    prompt: Prompt,
    *,
    blueprint: Blueprint,
    max_tokens: int,
    end_id: int | jax.Array,
    pad_id: int | jax.Array,
    evidence_id: int | jax.Array = -1,
    sampling: SamplingConfig = GREEDY,
    key: jax.Array | None = None,
) -> Generation:
    """Answers of at most `max_tokens` tokens; stops when every row has ended.

    Args:
        params: of the model. prompt: what is asked. blueprint: the model.
        end_id: one id, or several of which each ends an answer.
        pad_id: fills answers up. evidence_id: of `<evi>`.
        sampling: how a token is chosen. key: needed at a temperature above 0.
    """
    model = blueprint.build(params)
    read = model.prefill(prompt)
    layers = model.config.decoder.layers
    start = {
        "index": jnp.zeros((), jnp.int32),
        "out": _blank(read, max_tokens, pad_id),
        "done": _rows(jnp.zeros(read.next_position.shape, bool)),
        "used": used_tokens(prompt, evidence_id, size=model.config.decoder.vocab_size)
        if sampling.repetition_penalty != 1.0
        else None,
        "final": read.final,
        "query": read.query,
        "cache": [_empty(read.earlier.kv, i, max_tokens) for i in range(layers)],
    }
    prompt_kv = [jax.tree.map(lambda x, i=i: x[i], read.earlier.kv) for i in range(layers)]
    blocks, head = model.decoder.unstacked(), model.decoder.head()

    def step(loop):
        i = loop["index"]
        logits = model.decoder.logits(loop["final"], head=head)[:, 0]
        own = None if key is None else jax.random.fold_in(key, i)
        token = choose(logits, loop["used"], sampling=sampling, key=own)
        token = jnp.where(loop["done"], pad_id, token)[:, None]
        used = add_used(loop["used"], token, evidence_id)
        x, grounding = model.decoder.embed(token), None
        if model.evidence is not None and read.bank is not None:
            grounding = _ground(model.evidence, read.bank, loop["query"])
            event = span_means(read.bank.states, grounding.spans, read.bank.mask)
            x = x + jnp.where((token == evidence_id)[..., None], event, 0)
        written = _write(loop["out"], Generation(tokens=token, grounding=grounding), i)
        states = _decode(model, blocks, read, prompt_kv, loop["cache"], x, i)
        done = loop["done"] | jnp.any(token == jnp.atleast_1d(end_id), axis=1)
        return {"index": i + 1, "out": written, "done": done, "used": used, **states}

    def unfinished(loop):
        return (loop["index"] < max_tokens) & ~jnp.all(loop["done"])

    return jax.lax.while_loop(unfinished, step, start)["out"]


def _ground(heads: Evidence, bank: Bank, query: jax.Array) -> Grounding:
    """The frames that the next token would point at if it is `<evi>`."""
    scores = heads.scores(heads.evidence_head(query), bank.keys)
    return Grounding(spans=heads.read(scores, bank.mask), probabilities=jax.nn.sigmoid(scores))


def _blank(read: PromptState, length: int, pad_id: int | jax.Array) -> Generation:
    """Room for what is generated."""
    batch, grounding = read.next_position.shape[0], None
    if read.bank is not None:
        frames = read.bank.mask.shape[1]
        grounding = Grounding(
            spans=_rows(jnp.zeros((batch, length, 2), jnp.int32)),
            probabilities=_rows(jnp.zeros((batch, length, frames), jnp.float32)),
        )
    tokens = _rows(jnp.full((batch, length), pad_id, jnp.int32))
    return Generation(tokens=tokens, grounding=grounding)


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
    length, window = cache[0].k.shape[2], model.config.decoder.sliding_window
    ahead = index - jnp.arange(length, dtype=jnp.int32)
    seen = (ahead >= 0) & (ahead < window if window else True)
    own_mask = jnp.broadcast_to(seen, (x.shape[0], 1, length))
    masks = (earlier_mask(read.earlier.mask, index[None], window=window), own_mask)
    turn = model.decoder.rotation((read.next_position + index)[:, None])
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
        one = jnp.zeros_like(x[layer, :, :, :1])
        return jnp.broadcast_to(one, (*one.shape[:2], length, one.shape[3]))

    return jax.tree.map(blank, kv)


def _rows(x: jax.Array) -> jax.Array:
    """Lays an array out by its first axis."""
    return mesh.shard(x, "batch", *(None,) * (x.ndim - 1))


def _write(whole: Generation, new: Generation, index: jax.Array) -> Generation:
    write = jax.lax.dynamic_update_slice_in_dim
    return jax.tree.map(lambda old, one: write(old, one, index, axis=1), whole, new)
