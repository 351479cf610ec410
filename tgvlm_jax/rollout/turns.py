"""Conversations of several turns whose observations are new frames (Video-MTR 1).

A prompt is read once and shared by the conversations that begin with it. Each answer and each
observation is one more stretch of keys and values behind what has been read; nothing is read twice
and nothing is copied. Rows whose conversation is over wait: they say nothing, and read nothing.

Every turn has shapes of its own that do not depend on what is said, so nothing compiles after the
first conversation: `tokens` slots for an answer, those of `Reply`'s prompts for an observation.

What comes out is compact: the ids of all turns one after another without gaps, which a training
pass reads behind the same prompt in one go (`VideoLanguageModel.follow`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.models.decoder import Earlier
from tgvlm_jax.models.parameters import Blueprint, Params
from tgvlm_jax.models.vlm import PromptState, check_turns, for_answers
from tgvlm_jax.rollout.sampler import Generation, Settings, speak
from tgvlm_jax.schema import ModelConfig, QwenVisionConfig, SamplingConfig
from tgvlm_jax.types import Features, Frames, InputError, PatchRows, Prompt, pytree

Reply = Callable[[int, Sequence[np.ndarray | None]], Sequence[Prompt | None]]
"""Takes the number of a turn, from 0, and what each conversation said in it (ids, or None where it
is over); gives each what it is shown next, one row without its batch axis, or None to end it."""


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversations:
    """All that follows the prompts, one row a conversation.

    Attributes:
        text: answers and observations, compact; positions are counted from the prompt's end.
        own: tokens that the policy wrote. ends: the last one of each of its turns.
        turn: the turn that a slot belongs to, an observation to that it follows; -1 for padding.
        log_probs: of own tokens, as in `Generation`; 0 elsewhere.
    """

    text: Prompt
    own: Annotated[Any, "bool b t"]
    ends: Annotated[Any, "bool b t"]
    turn: Annotated[Any, "int32 b t"]
    log_probs: Annotated[Any, "float32 b t"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a conversation goes: turns of at most `tokens` tokens each."""

    turns: int
    tokens: int

    def length(self, blank: Prompt) -> int:
        """Slots of all that may follow a prompt."""
        return self.turns * self.tokens + (self.turns - 1) * len(blank.tokens)


def converse(
    params: Params,
    prompt: Prompt,
    reply: Reply,
    *,
    blueprint: Blueprint,
    limits: Limits,
    blank: Prompt,
    end_id: int,
    pad_id: int,
    sampling: SamplingConfig,
    key: jax.Array | None = None,
    samples: int = 1,
    keep_features: bool = False,
    mesh: Any = None,
) -> Conversations:
    """Lets a model talk with an environment.

    Args:
        prompt: what every conversation begins with, on the devices.
        reply: the environment; its rows are this host's, the `samples` to a prompt one after
            another.
        blank: an observation of nothing (length 0), of the one shape that all observations have.
        keep_features: the tower's work is kept for later passes, for a tower that is not trained.

    Raises:
        InputError: a model that cannot be shown more frames, or an observation of another shape.
    """
    model = blueprint.build(params).config
    check_turns(model)
    play = _Play(params, blueprint, limits, blank, keep_features, mesh)
    read = read_prompt(params, prompt, blueprint=blueprint, samples=samples)
    own = len(mesh_lib.own_rows(mesh, len(read.next_position)))
    for turn in range(limits.turns):
        own_key = None if key is None else jax.random.fold_in(key, turn)
        found, read = answer(
            params,
            read,
            mesh_lib.put_batch(~play.going(own), mesh),
            own_key,
            blueprint=blueprint,
            max_tokens=limits.tokens,
            end_id=end_id,
            pad_id=pad_id,
            sampling=sampling,
        )
        play.said(found)
        shown = reply(turn, play.latest())
        if turn == limits.turns - 1 or not play.show(shown):
            break
        read = observe(params, read, play.seen[-1], blueprint=blueprint)
    return play.conversations()


def recite(
    params: Params,
    script: Sequence[Sequence[np.ndarray]],
    reply: Reply,
    *,
    blueprint: Blueprint,
    limits: Limits,
    blank: Prompt,
    pad_id: int,
    keep_features: bool = False,
    mesh: Any = None,
) -> Conversations:
    """Conversations in which somebody else speaks: `script` has the ids of each turn of each row.

    Raises:
        InputError: an answer longer than the limit, or none where the conversation goes on.
    """
    check_turns(blueprint.build(params).config)
    play = _Play(params, blueprint, limits, blank, keep_features, mesh)
    for turn in range(limits.turns):
        going = play.going(len(script))
        tokens = np.full((len(script), limits.tokens), pad_id, np.int32)
        mask = np.zeros(tokens.shape, bool)
        for row, lines in enumerate(script):
            if not going[row]:
                continue
            if turn >= len(lines) or not 0 < len(lines[turn]) <= limits.tokens:
                raise InputError(f"script: turn {turn} needs 1 to {limits.tokens} tokens")
            mask[row, : len(lines[turn])] = True
            tokens[row, : len(lines[turn])] = lines[turn]
        play.said(Generation(tokens=tokens, mask=mask, grounding=None))
        shown = reply(turn, play.latest())
        if turn == limits.turns - 1 or not play.show(shown):
            break
    return play.conversations()


class _Play:
    """What the host keeps of the conversations of one rollout."""

    def __init__(
        self,
        params: Params,
        blueprint: Blueprint,
        limits: Limits,
        blank: Prompt,
        keep_features: bool,
        mesh: Any,
    ):
        self.params, self.blueprint, self.limits, self.blank = params, blueprint, limits, blank
        self.keep_features, self.mesh = keep_features, mesh
        self.active: np.ndarray | None = None
        self.answers: list[Generation] = []
        self.shown: list[list[Prompt]] = []
        self.seen: list[Prompt] = []

    def going(self, rows: int) -> np.ndarray:
        """Which of this host's `rows` conversations are not over."""
        if self.active is None:
            self.active = np.ones(rows, bool)
        return self.active

    def said(self, found: Generation) -> None:
        """Takes this host's part of a turn's answers."""
        self.answers.append(jax.tree.map(_on_host, found))

    def latest(self) -> list[np.ndarray | None]:
        """What was said last, by row; None where the conversation was over before."""
        assert self.active is not None
        last = self.answers[-1]
        return [
            tokens[mask] if going else None
            for tokens, mask, going in zip(last.tokens, last.mask, self.active, strict=True)
        ]

    def show(self, shown: Sequence[Prompt | None]) -> bool:
        """Puts the next observations on the devices; False where every conversation is over."""
        assert self.active is not None
        self.active = self.active & np.array([one is not None for one in shown])
        # Hosts go on together, so where there are several none ends before the others.
        if jax.process_count() == 1 and not self.active.any():
            return False
        rows = [
            one if one is not None and going else self.blank
            for one, going in zip(shown, self.active, strict=True)
        ]
        shapes = [np.shape(x) for x in jax.tree.leaves(self.blank)]
        for row in rows:
            if [np.shape(x) for x in jax.tree.leaves(row)] != shapes:
                raise InputError("an observation has another shape than the blank one")
        self.shown.append(rows)
        self.seen.append(self._put(rows))
        return True

    def _put(self, rows: Sequence[Prompt]) -> Prompt:
        prompt = mesh_lib.put_batch(jax.tree.map(lambda *x: np.stack(x), *rows), self.mesh)
        if self.keep_features:
            return see(self.params, prompt, blueprint=self.blueprint)
        return prompt

    def conversations(self) -> Conversations:
        """All turns together."""
        assert self.active is not None
        while len(self.shown) < self.limits.turns - 1:  # of the same shape, whoever ended when
            self.shown.append([self.blank] * len(self.active))
            last = self.seen[-1] if self.seen else self._put(self.shown[-1])
            self.seen.append(jax.tree.map(jnp.zeros_like, last))
        length = self.limits.length(self.blank)
        each = visual_tokens(self.blank, self.blueprint.build(self.params).config)
        packed = [
            _pack(self.answers, self.shown, row, length=length, each=each)
            for row in range(len(self.active))
        ]
        rows = mesh_lib.put_batch(jax.tree.map(lambda *x: np.stack(x), *packed), self.mesh)
        visual = _beside([one.visual for one in self.seen]) if self.seen else None
        text = dataclasses.replace(rows.text, visual=visual)
        return dataclasses.replace(rows, text=text)


def _on_host(x: jax.Array | np.ndarray) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else mesh_lib.local(x)


def _pack(
    answers: Sequence[Generation],
    shown: Sequence[Sequence[Prompt]],
    row: int,
    *,
    length: int,
    each: int,
) -> Conversations:
    """One conversation without gaps; its visual tokens are numbered through all observations.

    `each` observation has so many of them, filled or not.
    """
    positions = bool(shown) and shown[0][row].positions is not None
    tokens, index, own, ends, turns, chances = (np.zeros(length, kind) for kind in "iibbif")
    places = np.zeros((3, length), np.int32)
    index[:], turns[:] = -1, -1
    at = place = 0
    for number, found in enumerate(answers):
        mask = found.mask[row]
        here = slice(at, at + int(mask.sum()))
        tokens[here], own[here], turns[here] = found.tokens[row][mask], True, number
        if found.log_probs is not None:
            chances[here] = found.log_probs[row][mask]
        size = here.stop - here.start
        places[:, here] = place + np.arange(size)
        ends[here.stop - 1] |= size > 0
        at, place = at + size, place + size
        if number < len(shown):
            one = shown[number][row]
            size = int(one.length)
            here = slice(at, at + size)
            tokens[here], turns[here] = one.tokens[:size], number
            seen = one.visual_index[:size]
            index[here] = np.where(seen >= 0, seen + number * each, -1)
            ahead = np.arange(size) if one.positions is None else one.positions[:, :size]
            places[:, here] = place + ahead
            at, place = at + size, place + size + (0 if one.offset is None else int(one.offset))
    text = Prompt(
        visual=None,
        tokens=tokens,
        visual_index=index,
        length=np.int32(at),
        positions=places if positions else None,
        offset=np.int32(place - at) if positions else None,
    )
    own, ends = own.astype(bool), ends.astype(bool)
    return Conversations(text=text, own=own, ends=ends, turn=turns, log_probs=chances)


def visual_tokens(row: Prompt, model: ModelConfig) -> int:
    """Tokens that the tower makes of one row's frames or patches, empty ones included."""
    if isinstance(row.visual, Frames):
        return len(row.visual.mask)
    if isinstance(row.visual, PatchRows) and isinstance(model.tower, QwenVisionConfig):
        return row.visual.frames.size // model.tower.merge**2
    return 0


def _beside(visuals: Sequence[Any]) -> Any:
    """What was seen in all turns as one: frames, rows or features one after another."""
    if visuals[0] is None or len(visuals) == 1:
        return visuals[0]
    if isinstance(visuals[0], Features):
        levels = [one.deepstack for one in visuals]
        return Features(
            tokens=jnp.concatenate([one.tokens for one in visuals], axis=1),
            deepstack=None if levels[0] is None else jnp.concatenate(levels, axis=2),
            mask=None,
        )
    if isinstance(visuals[0], PatchRows):
        visuals = [_numbered_on(one, turn, of=visuals[0]) for turn, one in enumerate(visuals)]
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *visuals)


def _numbered_on(rows: PatchRows, turn: int, *, of: PatchRows) -> PatchRows:
    """Frames and windows with other numbers than those of earlier turns."""
    room = math.prod(of.frames.shape[1:])  # there are no more windows than patches

    def on(x):
        return jnp.where(x >= 0, x + turn * room, x)

    return dataclasses.replace(rows, frames=on(rows.frames), windows=on(rows.windows))


@functools.partial(jax.jit, static_argnames="blueprint")
def see(params: Params, prompt: Prompt, *, blueprint: Blueprint) -> Prompt:
    """The prompt with the tower's work done, for all passes of a frozen tower."""
    return blueprint.build(params).see(prompt)


@functools.partial(jax.jit, static_argnames=("blueprint", "samples"))
def read_prompt(
    params: Params, prompt: Prompt, *, blueprint: Blueprint, samples: int
) -> PromptState:
    """What conversations begin with, as `samples` of them to each prompt see it."""
    return for_answers(blueprint.build(params).prefill(prompt), samples)


@functools.partial(jax.jit, static_argnames="blueprint")
def observe(
    params: Params, read: PromptState, prompt: Prompt, *, blueprint: Blueprint
) -> PromptState:
    """What has been read, with a new observation read after it."""
    return blueprint.build(params).observe(read, prompt)


@functools.partial(
    jax.jit, static_argnames=("blueprint", "max_tokens", "end_id", "pad_id", "sampling")
)
def answer(
    params: Params,
    read: PromptState,
    done: jax.Array,
    key: jax.Array | None,
    *,
    blueprint: Blueprint,
    max_tokens: int,
    end_id: int,
    pad_id: int,
    sampling: SamplingConfig,
) -> tuple[Generation, PromptState]:
    """What is said in a turn, and the state with it read."""
    model = blueprint.build(params)
    settings = Settings(
        end_id=end_id,
        pad_id=pad_id,
        evidence_id=-1,
        sampling=sampling,
        key=key,
        sample_spans=False,
    )
    loop = speak(model, read, settings, max_tokens=max_tokens, done=done)
    found: Generation = loop["out"]
    kv = jax.tree.map(lambda *layers: jnp.stack(layers), *loop["cache"])
    count = jnp.sum(found.mask, axis=1, dtype=jnp.int32)
    return found, dataclasses.replace(
        read,
        later=(*read.later, Earlier(kv=kv, mask=found.mask)),
        next_position=read.next_position + count,
    )
