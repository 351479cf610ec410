"""The assembled model: a prompt with frames is read once, answers extend it.

    prompt   = system text, frames, question      -> `prefill`
    response = <evi>... </evi> text with <evi>... -> `extend`

A response only sees the prompt through its keys and values, so the prompt is never run twice: not
for the frame bank that evidence feeds back (frames stand before every answer and the mask is
causal), not for a second answer of a preference pair, and not for the samples of a rollout.
"""

import dataclasses
from typing import Annotated, Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from tgvlm_jax.models.decoder import Decoder, Earlier
from tgvlm_jax.models.evidence import Evidence, span_means
from tgvlm_jax.models.vit import VisionTower
from tgvlm_jax.ops.attention import causal_mask
from tgvlm_jax.schema import ModelConfig
from tgvlm_jax.types import Prompt, Response, pytree


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptState:
    """A prompt that has been read.

    Attributes:
        earlier: its keys and values. length: filled slots, and so the position of what follows.
        bank: frame states after `bank_layer` layers. frame_keys: what evidence is matched with.
        query, final: states of the last filled slot, which predicts the first token to come.
    """

    earlier: Annotated[Any, "Earlier l b p h k"]
    length: Annotated[Any, "int32 b"]
    frame_mask: Annotated[Any, "bool b f"]
    bank: Annotated[Any, "float b f d"]
    frame_keys: Annotated[Any, "float b f d"]
    query: Annotated[Any, "float b 1 d"]
    final: Annotated[Any, "float b 1 d"]


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted:
    """For every position of a response, the state that predicts the token there.

    Attributes:
        final: un-normalised; `Decoder.logits` or `token_log_probs` make the rest of it.
        queries: outputs of the evidence head, one a slot.
        scores: frame scores of each slot.
    """

    final: Annotated[Any, "float b t d"]
    queries: Annotated[Any, "float b e d"]
    scores: Annotated[Any, "float b e f"]


class VideoLanguageModel(nnx.Module):
    """Tower, decoder and evidence heads."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.tower = VisionTower(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        self.evidence = Evidence(config, rngs=rngs)

    @property
    def _taps(self) -> tuple[int, int]:
        """Layers after which frames are banked, and after which evidence is asked for."""
        return self.config.evidence.bank_layer, self.config.decoder.layers - 1

    def prefill(self, prompt: Prompt) -> PromptState:
        """Reads a prompt. Its frames see each other both ways, all else is causal (D2VLM 1.4)."""
        frames = self.tower(prompt.frames)
        is_frame = prompt.frame_index >= 0
        slot = prompt.frame_index[..., None] == jnp.arange(frames.shape[1], dtype=jnp.int32)
        slot = slot.astype(frames.dtype)  # b p f
        placed = jnp.einsum("bpf,bfd->bpd", slot, frames)
        x = jnp.where(is_frame[..., None], placed, self.decoder.embed(prompt.tokens))

        order = jnp.arange(x.shape[1], dtype=jnp.int32)
        filled = order < prompt.length[:, None]
        positions = jnp.where(filled, order, 0)
        window = self.config.decoder.sliding_window
        states = self.decoder(
            x,
            turn=self.decoder.rotation(positions),
            mask=causal_mask(positions, filled, block=is_frame, window=window),
            taps=self._taps,
        )
        bank, query = (states.taps[tap] for tap in self._taps)
        last = (order == prompt.length[:, None] - 1)[:, None, :].astype(x.dtype)
        return PromptState(
            earlier=Earlier(kv=states.kv, mask=filled),
            length=prompt.length,
            frame_mask=prompt.frame_mask,
            bank=_take(slot.swapaxes(1, 2), bank),
            frame_keys=self.evidence.frame_head(_take(slot.swapaxes(1, 2), query)),
            query=_take(last, query),
            final=_take(last, states.final),
        )

    def extend(self, prompt: PromptState, response: Response) -> Predicted:
        """Runs a whole response (teacher forcing: spans are the given ones, D2VLM 1.6)."""
        slots = jnp.arange(response.spans.shape[1], dtype=jnp.int32)
        emitted = response.evidence[..., None] == slots  # b t e
        emitted = emitted.astype(prompt.bank.dtype)
        events = span_means(prompt.bank, response.spans, prompt.frame_mask)
        x = self.decoder.embed(response.tokens) + _take(emitted, events)

        order = jnp.arange(x.shape[1], dtype=jnp.int32)
        positions = prompt.length[:, None] + order
        window = self.config.decoder.sliding_window
        states = self.decoder(
            x,
            turn=self.decoder.rotation(positions),
            mask=causal_mask(positions, response.mask, window=window),
            earlier=prompt.earlier,
            taps=self._taps[1:],
        )
        # What predicts token i stands one position before it.
        final = jnp.concatenate([prompt.final, states.final[:, :-1]], axis=1)
        query = jnp.concatenate([prompt.query, states.taps[self._taps[1]][:, :-1]], axis=1)
        queries = self.evidence.evidence_head(_take(emitted.swapaxes(1, 2), query))
        scores = self.evidence.scores(queries, prompt.frame_keys)
        return Predicted(final=final, queries=queries, scores=scores)


def _take(one_hot: Float[Array, "b i j"], values: Float[Array, "b j d"]) -> Float[Array, "b i d"]:
    """Rows picked by a product: no gather, so no scatter in the gradient and any sharding."""
    return jnp.einsum("bij,bjd->bid", one_hot, values)
