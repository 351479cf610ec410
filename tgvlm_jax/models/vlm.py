"""The assembled model: a prompt with frames is read once, answers extend it.

    prompt   = system text, frames, question      -> `prefill`
    response = <evi>... </evi> text with <evi>... -> `extend`

A response only sees the prompt through its keys and values, so the prompt is never run twice: not
for the frame bank that evidence feeds back (frames stand before every answer and the mask is
causal), not for a second answer of a preference pair, and not for the samples of a rollout.

A conversation of several turns goes on in the same way: new frames are read after all that was said
(`observe`), and training reads all that follows the first prompt in one pass (`follow`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tgvlm_jax import mesh
from tgvlm_jax.models import context, lora
from tgvlm_jax.models.compressor import FrameEncoder, clip_normalised
from tgvlm_jax.models.decoder import Decoder, Earlier, States
from tgvlm_jax.models.evidence import Evidence, span_means
from tgvlm_jax.models.projectors import projector
from tgvlm_jax.models.qwen_vit import QwenVisionTower
from tgvlm_jax.models.timesformer import Timesformer
from tgvlm_jax.models.vit import TinyVit
from tgvlm_jax.ops.masks import causal_mask
from tgvlm_jax.schema import (
    FrameEncoderConfig,
    ModelConfig,
    QwenVisionConfig,
    TimesformerConfig,
    TinyVitConfig,
)
from tgvlm_jax.types import (
    Features,
    Frames,
    InputError,
    Prompt,
    Response,
    ViewFeatures,
    Views,
    pytree,
)

_PROJECTOR = 1  # of the streams of dropout; those of the adapters are named after them


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bank:
    """What a prompt's frames leave for evidence.

    Attributes:
        mask: real frames. states: of each frame after `bank_layer` layers. keys: what evidence is
            matched with.
    """

    mask: Annotated[Any, "bool b f"]
    states: Annotated[Any, "float b f d"]
    keys: Annotated[Any, "float b f d"]


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptState:
    """A prompt that has been read.

    Attributes:
        earlier: its keys and values. next_position: of what follows.
        final, query: states of the last filled slot after all layers and before the last one,
            which predict the first token to come, and where it points.
        bank: None without evidence heads.
        later: keys and values of what came after the prompt, one row an answer.

    For several answers to each prompt see `for_answers`.
    """

    earlier: Annotated[Any, "Earlier l b p h k"]
    next_position: Annotated[Any, "int32 b"]
    final: Annotated[Any, "float b 1 d"]
    query: Annotated[Any, "float b 1 d"]
    bank: Annotated[Any, "Bank | None"]
    later: Annotated[Any, "(Earlier l b s h k, ...)"] = ()

    @property
    def stretches(self) -> tuple[Earlier, ...]:
        """All that has been read."""
        return (self.earlier, *self.later)


def for_answers(prompt: PromptState, count: int) -> PromptState:
    """A prompt as `count` answers to it, one after another, see it.

    Keys and values are not repeated: attention shares them (design D10). All else is small.
    """
    if count == 1:
        return prompt
    repeated = {
        name: jax.tree.map(lambda x: mesh.repeat(x, count), getattr(prompt, name))
        for name in ("next_position", "final", "query", "bank")
    }
    return dataclasses.replace(prompt, **repeated)


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted:
    """For every position of a response, the state that predicts the token there.

    Attributes:
        final: un-normalised; `Decoder.logits` or `token_log_probs` make the rest of it.
        queries: outputs of the evidence head, one a slot.
        scores: frame scores of each slot. Both are None without evidence heads.
    """

    final: Annotated[Any, "float b t d"]
    queries: Annotated[Any, "float b e d | None"] = None
    scores: Annotated[Any, "float b e f | None"] = None


class VideoLanguageModel(nnx.Module):
    """Tower, projector, decoder and evidence heads; all but the decoder where the config has them.

    A projector is a part of its own where the tower before it is frozen and it is not.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype = jnp.dtype(config.param_dtype)
        own = config.projector
        self.tower = _tower(config, rngs)
        self.projector = nnx.data(None if own is None else projector(own, rngs=rngs, dtype=dtype))
        self.decoder = Decoder(config, rngs=rngs)
        self.evidence = _evidence(config, rngs)
        lora.attach(self, config.lora, rngs=rngs)

    @property
    def taps(self) -> tuple[int, ...]:
        """Layers after which frames are banked, and after which evidence is asked for."""
        last = self.config.decoder.layers - 1
        return (self.config.evidence.bank_layer, last) if self.config.evidence else (last,)

    def states(
        self, prompt: Prompt, *, taps: Sequence[int] = (), after: PromptState | None = None
    ) -> States:
        """Residual streams at every slot of a prompt; those of empty slots mean nothing.

        `after` is what was read before it; the positions of the prompt then go on from there. A
        first prompt is dealt out over mesh axis `cp` (`models/context.py`), and so are its streams.
        """
        order = jnp.arange(prompt.tokens.shape[1], dtype=jnp.int32)
        if after is None:
            prompt, order = _dealt(prompt), _slots(prompt)
        embedded = self.decoder.embed(prompt.tokens)
        seen = self._see(prompt, embedded)
        filled = order < prompt.length[:, None]
        places, packed = jnp.where(filled, order, 0), prompt.packed
        if packed is not None:
            places = packed.places
        positions = places
        if prompt.positions is not None:
            positions = jnp.moveaxis(prompt.positions, 1, 0)
        if after is not None:
            positions = positions + after.next_position[:, None]
        visual = prompt.visual_index >= 0
        return self.decoder(
            seen.x,
            turn=self.decoder.rotation(positions),
            mask=causal_mask(
                places,
                filled,
                block=visual if self.config.two_way_frames else None,
                segments=None if packed is None else packed.segments,
                window=self.config.decoder.sliding_window,
            ),
            earlier=() if after is None else after.stretches,
            taps=taps,
            deepstack=seen.deepstack,
        )

    def see(self, prompt: Prompt) -> Prompt:
        """The same prompt with the tower's work done, which several passes may then share."""
        if isinstance(prompt.visual, Views | ViewFeatures):
            return dataclasses.replace(prompt, visual=self._vectors(prompt.visual))
        if self.tower is None or prompt.visual is None or isinstance(prompt.visual, Features):
            return prompt
        mask = prompt.visual.mask if isinstance(prompt.visual, Frames) else None
        tokens, deepstack = self._look(prompt)
        return dataclasses.replace(
            prompt, visual=Features(tokens=tokens, deepstack=deepstack, mask=mask)
        )

    def prefill(self, prompt: Prompt, *, states: States | None = None) -> PromptState:
        """Reads a prompt; `states` are `self.states(prompt, taps=self.taps)` if made already."""
        if states is None:
            states = self.states(prompt, taps=self.taps)
        order = _slots(prompt)
        query = states.taps[self.taps[-1]]
        last = (order == prompt.length[:, None] - 1)[:, None, :].astype(query.dtype)
        offset = 0 if prompt.offset is None else prompt.offset
        slots = order if mesh.size("context") > 1 else None
        return PromptState(
            earlier=Earlier(kv=states.kv, mask=order < prompt.length[:, None], slots=slots),
            next_position=prompt.length + offset,
            final=_take(last, states.final),
            query=_take(last, query),
            bank=self._bank(prompt, states.taps, query),
        )

    def observe(self, before: PromptState, prompt: Prompt) -> PromptState:
        """Reads more after what has been read, frames or text, one row an answer (Video-MTR 1.1).

        A row of length 0 stays as it is. Only for models that `check_turns` lets pass.
        """
        states = self.states(prompt, taps=self.taps, after=before)
        order = jnp.arange(prompt.tokens.shape[1], dtype=jnp.int32)
        query = states.taps[self.taps[-1]]
        last = (order == prompt.length[:, None] - 1)[:, None, :].astype(query.dtype)
        there = (prompt.length > 0)[:, None, None]
        offset = 0 if prompt.offset is None else prompt.offset
        read = Earlier(kv=states.kv, mask=order < prompt.length[:, None])
        return dataclasses.replace(
            before,
            later=(*before.later, read),
            next_position=before.next_position + prompt.length + offset,
            final=jnp.where(there, _take(last, states.final), before.final),
            query=jnp.where(there, _take(last, query), before.query),
        )

    def follow(self, before: PromptState, prompt: Prompt) -> Predicted:
        """What predicts each token of all that follows a prompt: answers, observations, answers.

        There may be several rows to each prompt, one after another.
        """
        before = for_answers(before, len(prompt.tokens) // len(before.next_position))
        states = self.states(prompt, after=before)
        return Predicted(final=jnp.concatenate([before.final, states.final[:, :-1]], axis=1))

    def _look(self, prompt: Prompt) -> tuple[Float[Array, "b u d"], Float[Array, "b m u d"] | None]:
        """The tower's tokens of each sample, and those for the decoder's first layers."""
        if isinstance(prompt.visual, Features):
            return prompt.visual.tokens, prompt.visual.deepstack
        if self.projector is not None:
            seen = self._vectors(prompt.visual)
            return self.projector(seen.vectors, seen.mask), None
        if isinstance(self.tower, TinyVit):
            return self.tower(prompt.visual.pixels), None
        if isinstance(self.tower, FrameEncoder):
            pixels = clip_normalised(prompt.visual.pixels, dtype=jnp.dtype(self.config.dtype))
            return self.tower(pixels, prompt.visual.question), None
        assert isinstance(self.tower, QwenVisionTower)
        found = self.tower(prompt.visual)
        levels = [flat(level) for level in found.deepstack]
        return flat(found.tokens), jnp.stack(levels, axis=1) if levels else None

    def _vectors(self, visual: Views | ViewFeatures) -> ViewFeatures:
        if isinstance(visual, ViewFeatures):
            vectors = visual.vectors.astype(self.config.dtype)
        else:
            assert isinstance(self.tower, Timesformer)
            vectors = self.tower.vectors(visual.clips)
        return ViewFeatures(vectors=vectors, mask=visual.mask)

    def drop_out(self, key: jax.Array) -> None:
        """Drops values from here on, where the config has a dropout, until built anew."""
        lora.drop_out(self, key)
        if self.projector is not None:
            self.projector.dropout_key = nnx.data(jax.random.fold_in(key, _PROJECTOR))

    def _see(self, prompt: Prompt, embedded: Float[Array, "b p d"]) -> "_Seen":
        """Puts the tower's tokens into their slots."""
        if self.tower is None or prompt.visual is None:
            return _Seen(x=embedded, deepstack=None)
        tokens, levels = self._look(prompt)
        deepstack = None
        if levels is not None:
            each = [at_slots(levels[:, m], prompt.visual_index) for m in range(levels.shape[1])]
            deepstack = jnp.stack(each)
        placed = at_slots(tokens, prompt.visual_index).astype(embedded.dtype)
        x = jnp.where((prompt.visual_index >= 0)[..., None], placed, embedded)
        if prompt.sources is not None:
            spans = prompt.sources.spans
            slots = jnp.arange(spans.shape[1], dtype=jnp.int32)
            asked = (prompt.sources.slots[..., None] == slots).astype(x.dtype)  # b p e
            x = x + _take(asked, span_means(tokens, spans, prompt.visual.mask).astype(x.dtype))
        return _Seen(x=x, deepstack=deepstack)

    def _bank(
        self, prompt: Prompt, taps: dict[int, Float[Array, "b p d"]], query: Float[Array, "b p d"]
    ) -> Bank | None:
        if self.evidence is None:
            return None
        mask = prompt.visual.mask
        frames = jnp.arange(mask.shape[1], dtype=jnp.int32)
        index = context.deal(prompt.visual_index)
        slot = (frames[:, None] == index[:, None, :]).astype(query.dtype)  # b f p
        return Bank(
            mask=mask,
            states=_take(slot, taps[self.taps[0]]),
            keys=self.evidence.frame_head(_take(slot, query)),
        )

    def extend(self, prompt: PromptState, response: Response) -> Predicted:
        """Runs a whole response (teacher forcing: spans are the given ones, D2VLM 1.6).

        There may be several responses to each prompt, one after another.
        """
        prompt = for_answers(prompt, len(response.tokens) // len(prompt.next_position))
        x = self.decoder.embed(response.tokens)
        slots = jnp.arange(response.spans.shape[1], dtype=jnp.int32)
        emitted = (response.evidence[..., None] == slots).astype(x.dtype)  # b t e
        if prompt.bank is not None:
            events = span_means(prompt.bank.states, response.spans, prompt.bank.mask)
            x = x + _take(emitted, events)

        order = jnp.arange(x.shape[1], dtype=jnp.int32)
        places = jnp.broadcast_to(order, response.mask.shape)
        window = self.config.decoder.sliding_window
        states = self.decoder(
            x,
            turn=self.decoder.rotation(prompt.next_position[:, None] + order),
            mask=causal_mask(places, response.mask, window=window),
            earlier=prompt.stretches,
            taps=self.taps[-1:],
        )
        # What predicts token i stands one position before it.
        final = jnp.concatenate([prompt.final, states.final[:, :-1]], axis=1)
        if prompt.bank is None or self.evidence is None:
            return Predicted(final=final)
        before_last = states.taps[self.taps[-1]][:, :-1]
        query = jnp.concatenate([prompt.query, before_last], axis=1)
        queries = self.evidence.evidence_head(_take(emitted.swapaxes(1, 2), query))
        scores = self.evidence.scores(queries, prompt.bank.keys)
        return Predicted(final=final, queries=queries, scores=scores)


def check_turns(config: ModelConfig) -> None:
    """Raises InputError where a model cannot be shown more frames after an answer."""
    if config.evidence is not None or config.two_way_frames or config.decoder.sliding_window:
        raise InputError(
            "several turns want a model without evidence heads, frames that are seen causally and "
            "no sliding window: set model.evidence=None, model.two_way_frames=False and "
            "model.decoder.sliding_window=0"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    x: Float[Array, "b p d"]
    deepstack: Float[Array, "m b p d"] | None


_Tower = TinyVit | FrameEncoder | QwenVisionTower | Timesformer | None


def _tower(config: ModelConfig, rngs: nnx.Rngs) -> _Tower:
    tower, dtype = config.tower, jnp.dtype(config.param_dtype)
    if isinstance(tower, TinyVitConfig):
        return TinyVit(tower, config, rngs=rngs)
    if isinstance(tower, FrameEncoderConfig):
        return FrameEncoder(tower, rngs=rngs, dtype=dtype)
    if isinstance(tower, QwenVisionConfig):
        activations = jnp.dtype(config.dtype)
        return QwenVisionTower(tower, rngs=rngs, dtype=dtype, activations=activations)
    if isinstance(tower, TimesformerConfig):
        activations = jnp.dtype(config.dtype)
        return Timesformer(tower, rngs=rngs, dtype=dtype, activations=activations)
    return None


def _evidence(config: ModelConfig, rngs: nnx.Rngs) -> Evidence | None:
    if config.evidence is None:
        return None
    return Evidence(config, threshold=config.evidence.threshold, rngs=rngs)


def at_slots(tokens: Float[Array, "b u d"], index: Int[Array, "b p"]) -> Float[Array, "b p d"]:
    """The visual token of every slot of a prompt, zero where `index` is -1 (text).

    Where slots are dealt out over devices, each of these picks for all of them a part of the width.
    """
    spread = mesh.axis_of(index, 1) is not None
    where = mesh.shard(index, "batch", None) if spread else index
    tokens = mesh.shard(tokens, "batch", None, "context") if spread else tokens
    found = jnp.take_along_axis(tokens, jnp.maximum(where, 0)[..., None], axis=1)
    found = mesh.shard(found, "batch", "context", None) if spread else found
    return jnp.where(index[..., None] >= 0, found, 0)


def flat(tokens: Float[Array, "b f u d"]) -> Float[Array, "b _n d"]:
    """The tokens of all rows, one after another."""
    b, f, u, d = tokens.shape
    return mesh.reshape(tokens, (b, f * u, d), out=("batch", None, None))


def _slots(prompt: Prompt) -> Int[Array, "_p"]:
    """The number of the slot at each place of a first prompt, laid out as its tokens."""
    numbers = jnp.asarray(context.slots(prompt.tokens.shape[1]))
    return mesh.shard(numbers, "context") if mesh.size("context") > 1 else numbers


def _dealt(prompt: Prompt) -> Prompt:
    """A first prompt with all that stands for its slots dealt out over the devices of a row."""
    positions, sources = prompt.positions, prompt.sources
    if sources is not None:
        sources = dataclasses.replace(sources, slots=context.deal(sources.slots))
    return dataclasses.replace(
        prompt,
        tokens=context.deal(prompt.tokens),
        visual_index=context.deal(prompt.visual_index),
        positions=None if positions is None else context.deal(positions, 2),
        sources=sources,
    )


def _take(one_hot: Float[Array, "b i j"], values: Float[Array, "b j d"]) -> Float[Array, "b i d"]:
    """Rows picked by a product: no gather, so no scatter in the gradient and any sharding."""
    out = mesh.spec("batch", mesh.TOKENS, None, tokens=mesh.axis_of(one_hot, 1))
    return jnp.einsum("bij,bjd->bid", one_hot, values, out_sharding=out)
