"""Decoding of a batch of prompts inside one jitted loop, with evidence or without.

Several answers to a prompt share its keys and values, which are never copied (design D10).

When a model with evidence heads emits `<evi>`, the state that emitted it is matched with the
frames, a range of frames is read out, and the mean of their states is added to the input embedding
of that `<evi>` (D2VLM 1.6, 1.7). With sampled spans every frame is first drawn or not, by its own
probability, and the range is read out of the frames that were drawn: an action whose
log-probability is known.
"""

import dataclasses
import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tgvlm_jax import mesh
from tgvlm_jax.grounding.targets import bernoulli_log_probs
from tgvlm_jax.models.decoder import Block
from tgvlm_jax.models.evidence import Evidence, span_means
from tgvlm_jax.models.parameters import Blueprint, Params
from tgvlm_jax.models.vlm import Bank, PromptState, VideoLanguageModel, for_answers
from tgvlm_jax.ops.attention import KeyValues
from tgvlm_jax.rollout.sampling import GREEDY, add_used, choose, log_probs, used_tokens
from tgvlm_jax.schema import SamplingConfig
from tgvlm_jax.types import Prompt, pytree


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Grounding:
    """What `<evi>` would mean at each position.

    Attributes:
        spans: the frame range; it counts where the token is `<evi>`.
        probabilities: what it was read from.
        drawn: the frames it was read from. log_probs: of each frame being drawn or not as it was.
            Both are None where spans are not sampled.
    """

    spans: Annotated[Any, "int32 b t 2"]
    probabilities: Annotated[Any, "float32 b t f"]
    drawn: Annotated[Any, "bool b t f | None"] = None
    log_probs: Annotated[Any, "float32 b t f | None"] = None


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """Generated answers, those to one prompt one after another.

    Attributes:
        tokens: ids; after the end token padding. mask: true on tokens of an answer, its end
            included.
        grounding: what `<evi>` meant; None without evidence heads.
        log_probs: of each token at the sampling temperature, before top-p and top-k; None where
            nothing is left to chance.
    """

    tokens: Annotated[Any, "int32 b t"]
    mask: Annotated[Any, "bool b t"]
    grounding: Annotated[Any, "Grounding | None"]
    log_probs: Annotated[Any, "float32 b t | None"] = None


@functools.partial(
    jax.jit, static_argnames=("blueprint", "max_tokens", "sampling", "samples", "sample_spans")
)
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
    samples: int = 1,
    sample_spans: bool = False,
) -> Generation:
    """Answers of at most `max_tokens` tokens; stops when every row has ended.

    Args:
        params: of the model. prompt: what is asked. blueprint: the model.
        end_id: one id, or several of which each ends an answer.
        pad_id: fills answers up. evidence_id: of `<evi>`.
        sampling: how a token is chosen. key: needed at a temperature above 0.
        samples: answers to each prompt. sample_spans: whether the frames of evidence are drawn.
    """
    model = blueprint.build(params)
    read = for_answers(model.prefill(prompt), samples)
    settings = Settings(
        end_id=end_id,
        pad_id=pad_id,
        evidence_id=evidence_id,
        sampling=sampling,
        key=key,
        sample_spans=sample_spans,
    )
    used = None
    if sampling.repetition_penalty != 1.0:
        used = used_tokens(prompt, evidence_id, size=model.config.decoder.vocab_size)
        used = mesh.repeat(used, samples)
    return speak(model, read, settings, max_tokens=max_tokens, used=used)["out"]


def speak(
    model: VideoLanguageModel,
    read: PromptState,
    settings: "Settings",
    *,
    max_tokens: int,
    used: jax.Array | None = None,
    done: jax.Array | None = None,
) -> dict[str, Any]:
    """The decoding loop: "out" is what it generates, "cache" the keys and values of that.

    `done` rows say nothing.
    """
    start = _start(read, used, max_tokens, settings, layers=model.config.decoder.layers)
    start["done"] = start["done"] if done is None else done
    weights = unstack(model, read)

    def step(loop):
        i = loop["index"]
        ages = jnp.full_like(jnp.any(read.earlier.mask, axis=1), i, jnp.int32)
        drawn, moved = advance(model, weights, read, loop, settings, ages=ages)
        return {
            "index": i + 1,
            "out": _write(loop["out"], drawn, i),
            "used": add_used(loop["used"], drawn.tokens, settings.evidence_id),
            **moved,
        }

    def unfinished(loop):
        return (loop["index"] < max_tokens) & ~jnp.all(loop["done"])

    return jax.lax.while_loop(unfinished, step, start)


def _start(
    read: PromptState,
    used: jax.Array | None,
    length: int,
    settings: "Settings",
    *,
    layers: int,
) -> dict[str, Any]:
    """What the loop carries, before its first token."""
    return {
        "index": jnp.zeros((), jnp.int32),
        "out": _blank(read, length, settings),
        "done": _rows(jnp.zeros(read.next_position.shape, bool)),
        "used": used,
        "final": read.final,
        "query": read.query,
        "cache": [empty_cache(read, length) for _ in range(layers)],
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How tokens and frames are drawn; as in `generate`."""

    end_id: int | jax.Array
    pad_id: int | jax.Array
    evidence_id: int | jax.Array
    sampling: SamplingConfig
    key: jax.Array | None
    sample_spans: bool


def advance(
    model: VideoLanguageModel,
    weights: "Unstacked",
    read: PromptState,
    loop: dict[str, Any],
    settings: Settings,
    *,
    ages: Int[Array, "_b"],
) -> tuple[Generation, dict[str, Any]]:
    """One more token of every row, padding where it has ended; and what the loop carries on.

    Args:
        loop: "index" of the cache's slot, "done", "used", "final", "query" and "cache".
        ages: tokens that the answers to each prompt have so far.
    """
    logits = model.decoder.logits(loop["final"], head=weights.head)[:, 0]
    drawn = _draw(model, read, logits, loop, settings)
    token = jnp.where(loop["done"], settings.pad_id, drawn.tokens[:, 0])[:, None]
    drawn = dataclasses.replace(drawn, tokens=token, mask=~loop["done"][:, None])
    x = model.decoder.embed(token)
    if drawn.grounding is not None:
        event = span_means(read.bank.states, drawn.grounding.spans, read.bank.mask)
        x = x + jnp.where((token == settings.evidence_id)[..., None], event, 0)
    states = _decode(model, weights, read, loop["cache"], x, index=loop["index"], ages=ages)
    done = loop["done"] | jnp.any(token == jnp.atleast_1d(settings.end_id), axis=1)
    return drawn, {"done": done, **states}


def _draw(
    model: VideoLanguageModel,
    read: PromptState,
    logits: jax.Array,
    loop: dict[str, Any],
    settings: Settings,
) -> Generation:
    """The next token of every row, and what it would point at if it is `<evi>`."""
    sampling, own, spans_key = settings.sampling, None, None
    if settings.key is not None:
        own, spans_key = jax.random.split(jax.random.fold_in(settings.key, loop["index"]))
    token = choose(logits, loop["used"], sampling=sampling, key=own)
    grounding = None
    if model.evidence is not None and read.bank is not None:
        spans_key = spans_key if settings.sample_spans else None
        grounding = _ground(model.evidence, read.bank, loop["query"], spans_key)
    scored = None
    if sampling.temperature:
        scored = log_probs(logits, token, temperature=sampling.temperature)[:, None]
    token = token[:, None]
    return Generation(tokens=token, mask=token == token, grounding=grounding, log_probs=scored)


def _ground(heads: Evidence, bank: Bank, query: jax.Array, key: jax.Array | None) -> Grounding:
    """The frames that the next token would point at if it is `<evi>`; drawn if there is a key."""
    scores = heads.scores(heads.evidence_head(query), bank.keys)
    probabilities = jax.nn.sigmoid(scores)
    if key is None:
        return Grounding(spans=heads.read(scores, bank.mask), probabilities=probabilities)
    layout = jax.typeof(scores).sharding if mesh.active() else None
    drawn = jax.random.uniform(key, scores.shape, out_sharding=layout) < probabilities
    return Grounding(
        spans=heads.read(scores, bank.mask & drawn[:, 0]),
        probabilities=probabilities,
        drawn=drawn,
        log_probs=bernoulli_log_probs(scores, drawn),
    )


def _blank(read: PromptState, length: int, settings: Settings) -> Generation:
    """Room for what is generated."""
    batch, grounding = read.next_position.shape[0], None

    def room(kind, *shape):
        return _rows(jnp.zeros((batch, length, *shape), kind))

    if read.bank is not None:
        frames = read.bank.mask.shape[1]
        sampled = settings.sample_spans
        grounding = Grounding(
            spans=room(jnp.int32, 2),
            probabilities=room(jnp.float32, frames),
            drawn=room(bool, frames) if sampled else None,
            log_probs=room(jnp.float32, frames) if sampled else None,
        )
    return Generation(
        tokens=_rows(jnp.full((batch, length), settings.pad_id, jnp.int32)),
        mask=room(bool),
        grounding=grounding,
        log_probs=room(jnp.float32) if settings.sampling.temperature else None,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unstacked:
    """What a decoding loop reads at every token, layer by layer: weights, and earlier keys."""

    blocks: list[Block]
    earlier: list[tuple[KeyValues, ...]]
    head: jax.Array


def unstack(model: VideoLanguageModel, read: PromptState) -> Unstacked:
    """Taken apart once, before a loop."""
    layers = range(model.config.decoder.layers)
    kv = tuple(one.kv for one in read.stretches)
    earlier = [jax.tree.map(lambda x, i=i: x[i], kv) for i in layers]
    return Unstacked(blocks=model.decoder.unstacked(), earlier=earlier, head=model.decoder.head())


def _decode(
    model: VideoLanguageModel,
    weights: Unstacked,
    read: PromptState,
    cache: list[KeyValues],
    x: Float[Array, "b 1 d"],
    *,
    index: Int[Array, ""],
    ages: Int[Array, "_b"],
) -> dict[str, Any]:
    """One token through all layers, against the shared prompt and the row's own cache.

    The cache is a ring: the token is written at `index`, and as many slots behind it are seen as
    the answers to a prompt have tokens, `ages`.
    """
    length, window = cache[0].k.shape[2], model.config.decoder.sliding_window
    behind = (index - jnp.arange(length, dtype=jnp.int32)) % length
    samples = len(x) // len(ages)
    own = mesh.repeat(ages, samples) if samples > 1 else ages
    own_mask = (behind <= own[:, None])[:, None]
    if window:
        own_mask &= behind < window
    prompt_mask = read.earlier.seen_after(ages[:, None], window=window).dense()
    masks = (prompt_mask, *(one.mask[:, None] for one in read.later), own_mask)
    turn = model.decoder.rotation((read.next_position + own)[:, None])
    new_cache, query, slot = [], x, index % length
    layers = zip(weights.blocks, weights.earlier, cache, strict=True)
    for number, (block, stretches, earlier) in enumerate(layers):
        if number == len(cache) - 1:
            query = x
        x, kept = block(x, turn=turn, stretches=stretches, masks=masks, cache=earlier, index=slot)
        new_cache.append(kept)
    return {"final": x, "query": query, "cache": new_cache}


def empty_cache(read: PromptState, length: int) -> KeyValues:
    """A cache for `length` new tokens of every answer, laid out like one layer of the prompt's."""
    count = len(read.next_position) // len(read.earlier.mask)

    def blank(x):
        shape = (*x.shape[1:3], length, x.shape[4])
        wide = mesh.shard(jnp.zeros(shape, x.dtype), "batch", "heads", None, None)
        return mesh.repeat(wide, count, "heads") if count > 1 else wide

    return jax.tree.map(blank, read.earlier.kv)


def _rows(x: jax.Array) -> jax.Array:
    """Lays an array out by its first axis."""
    return mesh.shard(x, "batch", *(None,) * (x.ndim - 1))


def _write(whole: Generation, new: Generation, index: jax.Array) -> Generation:
    write = jax.lax.dynamic_update_slice_in_dim
    return jax.tree.map(lambda old, one: write(old, one, index, axis=1), whole, new)
