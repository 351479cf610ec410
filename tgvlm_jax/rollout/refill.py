"""Answers to any number of prompts in a fixed number of slots, refilled as they become free.

Lengths of sampled answers have a long tail: a batch that waits for its longest answer leaves most
of its rows idle. Here the host looks after every few tokens which groups have ended, hands them
out, and puts the next prompts into their slots. It also reads the text and ends an answer at a
stop string. A group is done when all of its answers are. On one device; a mesh takes `generate`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from tgvlm_jax.models.parameters import Blueprint, Params
from tgvlm_jax.models.vlm import PromptState, for_answers
from tgvlm_jax.rollout.sampler import Generation, Settings, advance, empty_cache, unstack
from tgvlm_jax.schema import SamplingConfig
from tgvlm_jax.types import InputError, Prompt, pytree

_CHUNK = 16  # tokens between two looks of the host


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """The answers to one prompt.

    Attributes:
        number: of the prompt, in the order in which they came.
        found: one row an answer, on the host; its mask ends with the end token, the token that
            completed a stop string, or `max_tokens`.
    """

    number: int
    found: Generation


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Slots:
    """What is on the device: `s` prompts with `g` answers each."""

    prompt: PromptState
    ages: Annotated[Any, "int32 s"]
    index: Annotated[Any, "int32"]
    done: Annotated[Any, "bool s * g"]
    final: Annotated[Any, "float s * g 1 d"]
    query: Annotated[Any, "float s * g 1 d"]
    cache: Annotated[Any, "KeyValues"]


class _Group:
    """A prompt in its slot, on the host: its number, what it has so far, and what has ended."""

    def __init__(self, number: int, samples: int):
        self.number = number
        self.parts: list[Generation] = []
        self.lengths = np.zeros(samples, np.int64)
        self.done = np.zeros(samples, bool)


def refill(
    params: Params,
    prompts: Iterable[Prompt],
    *,
    blueprint: Blueprint,
    max_tokens: int,
    end_id: int,
    pad_id: int,
    evidence_id: int = -1,
    sampling: SamplingConfig,
    key: jax.Array,
    slots: int,
    samples: int = 1,
    stop: Sequence[str] = (),
    text: Callable[[Sequence[int]], str] | None = None,
) -> Iterator[Finished]:
    """Answers prompts, in the order in which their answers are complete.

    Args:
        prompts: of one row each and all of one shape.
        slots: prompts that are answered at a time. samples: answers to each.
        stop: strings that end an answer. text: makes text of ids; needed for them.

    Raises:
        InputError: a repetition penalty, which is not there yet for refilled slots, or stop
            strings without `text`.
    """
    _check(sampling, stop, text)
    run = functools.partial(
        _chunk,
        params,
        blueprint=blueprint,
        sampling=sampling,
        evidence_id=evidence_id,
        pad_id=pad_id,
        end_id=end_id,
        steps=min(_CHUNK, max_tokens),
    )
    waiting = enumerate(prompts)
    state, groups = None, dict.fromkeys(range(slots))
    while True:
        for place, group in groups.items():
            if group is None and (coming := next(waiting, None)) is not None:
                read = _read(params, coming[1], blueprint=blueprint)
                if state is None:
                    state = _empty(read, slots=slots, samples=samples, length=max_tokens)
                state, groups[place] = _insert(state, read, place), _Group(coming[0], samples)
        if state is None or not any(groups.values()):
            return
        state, made = run(state, key)
        _share_out(jax.device_get(made), groups, samples)
        for place, group in groups.items():
            if group is not None:
                _look(group, max_tokens, end_id, stop, text)
                if group.done.all():
                    yield Finished(number=group.number, found=_whole(group, max_tokens, pad_id))
                    groups[place] = None
        done = [group is None or group.done for group in groups.values()]
        rows = np.concatenate([np.broadcast_to(one, samples) for one in done])
        state = dataclasses.replace(state, done=jnp.asarray(rows))


def _check(sampling: SamplingConfig, stop: Sequence[str], text: Callable | None) -> None:
    if sampling.repetition_penalty != 1.0:
        raise InputError("sampling.repetition_penalty: refilled slots have none; set it to 1")
    if stop and text is None:
        raise InputError("stop strings need `text`, which makes text of ids")


def _share_out(made: Generation, groups: Mapping[int, _Group | None], samples: int) -> None:
    """Gives each group what was generated for it."""
    for place, group in groups.items():
        if group is not None:
            rows = slice(place * samples, (place + 1) * samples)
            group.parts.append(jax.tree.map(lambda x, rows=rows: x[rows], made))


def _look(
    group: _Group,
    most: int,
    end_id: int,
    stop: Sequence[str],
    text: Callable[[Sequence[int]], str] | None,
) -> None:
    """Which answers of a group have ended by now, and how long they are."""
    tokens = np.concatenate([part.tokens for part in group.parts], axis=1)[:, :most]
    for row in np.flatnonzero(~group.done):
        ids, before = tokens[row].tolist(), int(group.lengths[row])
        length = ids.index(end_id) + 1 if end_id in ids else len(ids)
        ended = end_id in ids or len(ids) == most
        if text is not None and any(one in text(ids[:length]) for one in stop):
            # The first length whose text has a stop string; none had one at the last look.
            length = next(
                n
                for n in range(before + 1, length + 1)
                if any(one in text(ids[:n]) for one in stop)
            )
            ended = True
        group.lengths[row], group.done[row] = length, ended


def _whole(group: _Group, most: int, pad_id: int) -> Generation:
    """The parts together, `most` tokens long, with padding behind each answer's end."""
    joined = jax.tree.map(lambda *x: np.concatenate(x, axis=1)[:, :most], *group.parts)
    missing = most - joined.tokens.shape[1]

    def fill(x):
        return np.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2)))

    joined = jax.tree.map(fill, joined)
    mask = np.arange(most) < group.lengths[:, None]
    return dataclasses.replace(joined, tokens=np.where(mask, joined.tokens, pad_id), mask=mask)


@functools.partial(jax.jit, static_argnames="blueprint")
def _read(params: Params, prompt: Prompt, *, blueprint: Blueprint) -> PromptState:
    return blueprint.build(params).prefill(prompt)


@functools.partial(jax.jit, static_argnames=("slots", "samples", "length"))
def _empty(read: PromptState, *, slots: int, samples: int, length: int) -> _Slots:
    """Slots shaped for prompts like this one, with nothing in them."""
    wide = jax.tree.map(lambda x: jnp.zeros((slots, *x.shape[1:]), x.dtype), read)
    kv = jax.tree.map(lambda x: jnp.zeros((len(x), slots, *x.shape[2:]), x.dtype), read.earlier.kv)
    wide = dataclasses.replace(wide, earlier=dataclasses.replace(wide.earlier, kv=kv))
    rows = for_answers(wide, samples)
    layers = range(jax.tree.leaves(kv)[0].shape[0])
    return _Slots(
        prompt=wide,
        ages=jnp.zeros(slots, jnp.int32),
        index=jnp.zeros((), jnp.int32),
        done=jnp.ones(slots * samples, bool),
        final=rows.final,
        query=rows.query,
        cache=[empty_cache(rows, length) for _ in layers],
    )


@functools.partial(jax.jit, donate_argnums=0)
def _insert(state: _Slots, read: PromptState, place: jax.Array | int) -> _Slots:
    """Puts a prompt into a slot."""
    put = jax.lax.dynamic_update_slice_in_dim
    samples = len(state.done) // len(state.ages)
    prompt = jax.tree.map(lambda old, new: put(old, new, place, axis=0), state.prompt, read)
    kv = jax.tree.map(
        lambda old, new: put(old, new, place, axis=1), state.prompt.earlier.kv, read.earlier.kv
    )
    rows, first = for_answers(read, samples), place * samples
    return dataclasses.replace(
        state,
        prompt=dataclasses.replace(prompt, earlier=dataclasses.replace(prompt.earlier, kv=kv)),
        ages=put(state.ages, jnp.zeros(1, jnp.int32), place, axis=0),
        done=put(state.done, jnp.zeros(samples, bool), first, axis=0),
        final=put(state.final, rows.final, first, axis=0),
        query=put(state.query, rows.query, first, axis=0),
    )


@functools.partial(
    jax.jit,
    static_argnames=("blueprint", "sampling", "evidence_id", "pad_id", "end_id", "steps"),
    donate_argnums=1,
)
def _chunk(
    params: Params,
    state: _Slots,
    key: jax.Array,
    *,
    blueprint: Blueprint,
    sampling: SamplingConfig,
    evidence_id: int,
    pad_id: int,
    end_id: int,
    steps: int,
) -> tuple[_Slots, Generation]:
    """A few tokens of every answer."""
    model = blueprint.build(params)
    read = for_answers(state.prompt, len(state.done) // len(state.ages))
    weights = unstack(model, read)
    settings = Settings(
        end_id=end_id,
        pad_id=pad_id,
        evidence_id=evidence_id,
        sampling=sampling,
        key=key,
        sample_spans=False,
    )

    def step(state, _):
        names = ("index", "done", "final", "query", "cache")
        loop = {"used": None, **{name: getattr(state, name) for name in names}}
        drawn, moved = advance(model, weights, read, loop, settings, ages=state.ages)
        state = dataclasses.replace(state, ages=state.ages + 1, index=state.index + 1, **moved)
        return state, drawn

    state, drawn = jax.lax.scan(step, state, length=steps)
    return state, jax.tree.map(lambda x: jnp.moveaxis(x[:, :, 0], 0, 1), drawn)
