"""Rejected answers made from good ones, each worse in one known way (D2VLM 3.4).

The generator of the paper was never released; its kinds are known, its magnitudes are ours. Time:
an event is shifted, or one is added, deleted, or two neighbours are merged. Text: the key words of
an event are distorted with those of others, or a phrase is said twice. Everything else of the
answer stays as it was, so what is preferred about the good one is known without any filter.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64

from tgvlm_jax.data.annotations import EVIDENCE, EVIDENCE_END
from tgvlm_jax.grounding import spans as span_lib
from tgvlm_jax.schema import PerturbationConfig

Spans = Float64[np.ndarray, "e 2"]
TEMPORAL = ("shift", "add", "delete", "merge")
TEXTUAL = ("distort", "repeat")
_TRIES = 20
_WORD = re.compile(r"[^\W\d_]{3,}")
_SMALL_WORDS = """
the and but for nor not with from into onto over under after before then than that this these those
his her its their our your him she they them was were are has have had been being while who which
what when where event events happen happens happening occurs step
"""
_SMALL = frozenset(_SMALL_WORDS.split())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grounded:
    """A good answer: text with its evidence, spans, and the seconds that events may lie in."""

    answer: str
    spans: Spans
    start: float = 0.0
    end: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejection:
    """An answer that is worse than the good one, in one way."""

    kind: str
    answer: str
    spans: Spans


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Spoken:
    """The spoken part of an answer: a head, and for every event what follows its `<evi>`.

    `captions` says that what follows an event is about that event, and goes with it.
    """

    head: str
    tails: tuple[str, ...]

    @property
    def captions(self) -> bool:
        return any(len(_WORD.findall(tail)) > 1 for tail in self.tails)

    def answer(self) -> str:
        text = self.head + "".join(EVIDENCE + tail for tail in self.tails)
        return f"{EVIDENCE * len(self.tails)}{EVIDENCE_END}{text}"


def _spoken(answer: str) -> _Spoken:
    head, *tails = answer.partition(EVIDENCE_END)[2].split(EVIDENCE)
    return _Spoken(head=head, tails=tuple(tails))


def reject(
    good: Grounded,
    config: PerturbationConfig,
    *,
    seed: int | Sequence[int],
    words: Sequence[str] = (),
) -> Rejection | None:
    """One rejected answer, never equal to the good one; None where no kind applies.

    Args:
        good: what is preferred. config: kinds and strength.
        seed: the same seed makes the same answer.
        words: words of other answers, that a distortion may put in.
    """
    rng = np.random.default_rng(seed)
    order = rng.choice(
        len(config.kinds),
        len(config.kinds),
        replace=False,
        p=_chances(config),
    )
    for number in order:
        kind = config.kinds[number]
        if not len(good.spans):  # nothing is grounded: text is all that can be worse
            if kind not in TEXTUAL:
                continue
            made = _textual_alone(good, config, rng, kind, words)
        elif kind in TEMPORAL:
            made = _TEMPORAL[kind](good, config, rng)
        else:
            made = _TEXTUAL[kind](good, config, rng, words)
        if made is not None and not _same(good, made):
            return dataclasses.replace(made, kind=kind)
    return None


def _chances(config: PerturbationConfig) -> np.ndarray | None:
    if not config.probabilities:
        return None
    chances = np.asarray(config.probabilities, np.float64) + 1e-9
    return chances / chances.sum()


def _same(good: Grounded, made: Rejection) -> bool:
    return made.answer == good.answer and np.array_equal(made.spans, good.spans)


def _made(spoken: _Spoken, spans: Spans) -> Rejection:
    return Rejection(kind="", answer=spoken.answer(), spans=np.asarray(spans, np.float64))


# ---------------------------------------------------------------------------------- time


def _shift(
    good: Grounded, config: PerturbationConfig, rng: np.random.Generator
) -> Rejection | None:
    """One event elsewhere, with another length: it overlaps little with where it was."""
    spans = good.spans.copy()
    number = int(rng.integers(len(spans)))
    moved = _elsewhere(spans[number : number + 1], good, config, rng)
    if moved is None:
        return None
    spans[number] = moved
    return Rejection(kind="", answer=good.answer, spans=spans)


def _add(good: Grounded, config: PerturbationConfig, rng: np.random.Generator) -> Rejection | None:
    """An event that is none, between the others in time, with the words of one of them."""
    spans = good.spans
    new = _elsewhere(spans, good, config, rng)
    if new is None:
        return None
    place = int(np.searchsorted(spans[:, 0], new[0]))
    spoken = _spoken(good.answer)
    tails = list(spoken.tails)
    if spoken.captions:
        tails.insert(place, tails[int(rng.integers(len(tails)))])
    else:
        tails.insert(0, tails[0] if len(tails) > 1 else " and ")
    return _made(dataclasses.replace(spoken, tails=tuple(tails)), np.insert(spans, place, new, 0))


def _delete(
    good: Grounded, config: PerturbationConfig, rng: np.random.Generator
) -> Rejection | None:
    """One event is left out; at least one stays."""
    if len(good.spans) < 2:
        return None
    number = int(rng.integers(len(good.spans)))
    spoken = _without(_spoken(good.answer), number)
    return _made(spoken, np.delete(good.spans, number, 0))


def _merge(
    good: Grounded, config: PerturbationConfig, rng: np.random.Generator
) -> Rejection | None:
    """Two neighbours become one event that spans both, with the words of the first."""
    if len(good.spans) < 2:
        return None
    number = int(rng.integers(len(good.spans) - 1))
    spans = np.delete(good.spans, number + 1, 0)
    spans[number, 1] = good.spans[number : number + 2, 1].max()
    spans[number, 0] = good.spans[number : number + 2, 0].min()
    return _made(_without(_spoken(good.answer), number + 1), spans)


def _without(spoken: _Spoken, number: int) -> _Spoken:
    """Without one event; a plain list ("a, b and c.") loses its first separator, whichever goes."""
    place = number if spoken.captions else 0
    tails = (*spoken.tails[:place], *spoken.tails[place + 1 :])
    return dataclasses.replace(spoken, tails=tails)


def _elsewhere(
    spans: Spans, good: Grounded, config: PerturbationConfig, rng: np.random.Generator
) -> np.ndarray | None:
    """An interval in whole seconds, if the others are, that overlaps with none of them by much."""
    whole = bool(np.all(spans == np.round(spans)))
    longest = max(float(np.max(spans[:, 1] - spans[:, 0])), config.moment)
    room = good.end - good.start
    for _ in range(_TRIES):
        length = float(rng.uniform(0.5, 1.5)) * longest
        length = float(np.clip(length, config.moment, max(room, config.moment)))
        start = good.start + float(rng.uniform(0, max(room - length, 0)))
        found = np.asarray([start, min(start + length, good.end)])
        found = np.round(found) if whole else found
        if found[1] > good.end or found[0] > found[1]:
            continue
        overlaps = span_lib.pairwise_iou(found[None], spans)
        if float(overlaps.max()) <= 1 - config.strength and not np.any(np.all(spans == found, 1)):
            return found
    return None


# ---------------------------------------------------------------------------------- text


def _distort(
    good: Grounded, config: PerturbationConfig, rng: np.random.Generator, words: Sequence[str]
) -> Rejection | None:
    """Key words of one event give way to others."""
    spoken = _spoken(good.answer)
    number = int(rng.integers(len(spoken.tails)))
    parts = [spoken.head, *spoken.tails]
    place = number + 1 if spoken.captions else 0
    changed = _distorted(parts[place], config, rng, words)
    if changed is None:
        return None
    parts[place] = changed
    return _made(_Spoken(head=parts[0], tails=tuple(parts[1:])), good.spans)


def _repeat(
    good: Grounded, config: PerturbationConfig, rng: np.random.Generator, words: Sequence[str]
) -> Rejection | None:
    """What is said of one event is said of all of them, or twice where there is only one."""
    spoken = _spoken(good.answer)
    number = int(rng.integers(len(spoken.tails)))
    tail = spoken.tails[number]
    if spoken.captions and len(set(spoken.tails)) > 1:
        tails = (tail,) * len(spoken.tails)
        return _made(dataclasses.replace(spoken, tails=tails), good.spans)
    parts = [spoken.head, *spoken.tails]
    place = max(range(len(parts)), key=lambda i: len(_WORD.findall(parts[i])))
    if not _WORD.search(parts[place]):
        return None
    parts[place] = f"{parts[place].rstrip()} {parts[place].strip()} "
    return _made(_Spoken(head=parts[0], tails=tuple(parts[1:])), good.spans)


def _textual_alone(
    good: Grounded,
    config: PerturbationConfig,
    rng: np.random.Generator,
    kind: str,
    words: Sequence[str],
) -> Rejection | None:
    """A worse text for an answer that grounds nothing."""
    head, end, text = good.answer.partition(EVIDENCE_END)
    text = text if end else head
    made = f"{text} {text.strip()}" if kind == "repeat" else _distorted(text, config, rng, words)
    if made is None:
        return None
    return Rejection(kind=kind, answer=f"{end}{made}", spans=good.spans)


def _distorted(
    text: str, config: PerturbationConfig, rng: np.random.Generator, words: Sequence[str]
) -> str | None:
    """A share of the key words replaced by other ones; None where there is nothing to replace."""
    found = [match for match in _WORD.finditer(text) if match[0].lower() not in _SMALL]
    known = {match[0].lower() for match in found}
    others = sorted({word for word in words if word.lower() not in known | _SMALL})
    if not found or not others:
        return None
    count = max(1, round(config.strength * len(found)))
    for number in sorted(rng.choice(len(found), count, replace=False).tolist(), reverse=True):
        match = found[number]
        word = others[int(rng.integers(len(others)))]
        text = f"{text[: match.start()]}{word}{text[match.end() :]}"
    return text


def key_words(answers: Sequence[str]) -> list[str]:
    """Words that distortions may put in: those of all spoken answers, without the small ones."""
    found = {
        word
        for answer in answers
        for word in _WORD.findall(answer.partition(EVIDENCE_END)[2].replace(EVIDENCE, " "))
        if word.lower() not in _SMALL and word.islower()
    }
    return sorted(found)


_TEMPORAL: dict[str, Callable] = {
    "shift": _shift,
    "add": _add,
    "delete": _delete,
    "merge": _merge,
}
_TEXTUAL: dict[str, Callable] = {"distort": _distort, "repeat": _repeat}
