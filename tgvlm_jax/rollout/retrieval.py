"""Looking again: a model sees a few frames of a video, and asks for more or answers (Video-MTR 1).

The rules of that game, without any model: which frames are shown, what counts as an action, when
it ends. Frames are indices into a pool of candidates; times are never shown. Every response takes
a turn, valid or not.
"""

import dataclasses
import re
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int64

from tgvlm_jax.types import InputError

Error = Literal["none", "format_error", "retrieve_format_error", "retrieve_range_error", "answer_error"]  # fmt: skip  # noqa: E501

_FORMS = {
    kind: re.compile(rf"<think>(.*?)</think>\s*<{kind}>(.*?)</{kind}>", re.DOTALL)
    for kind in ("answer", "retrieve")
}
_RANGE = re.compile(r"\s*(\d+)\s*,\s*(\d+)\s*")
_LONGEST = 50  # characters of a free-form answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How many frames are shown at first and for each retrieval, and how many turns there are."""

    first: int = 16
    each: int = 8
    turns: int = 3


BUDGETS = {
    32: Budget(),
    64: Budget(first=32, each=16),
    80: Budget(first=40, each=20),
}
"""By frames in all: half of them at first, a quarter each time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A question about a pool of frames.

    Attributes:
        pool: number of candidate frames.
        kind: "multiple choice", "numerical" or "free-form".
        options: texts that begin with their letters.
        relevant: pool indices that matter, None where nobody said.
    """

    pool: int
    kind: str = "multiple choice"
    options: tuple[str, ...] = ()
    relevant: frozenset[int] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Action:
    """What a response asks for.

    Attributes:
        kind: None where the response has no such form.
        valid: it can be carried out. formatted: it has the form, whatever is in it.
        think, content: texts inside the tags, as written.
        start, end: of a valid retrieval, both inclusive.
        message: what to tell the model; "" for a valid action.
    """

    kind: Literal["retrieve", "answer"] | None
    valid: bool
    formatted: bool
    error: Error = "none"
    think: str = ""
    content: str = ""
    start: int = -1
    end: int = -1
    message: str = ""

    @property
    def text(self) -> str:
        """The response, blanks removed, or what is left of it."""
        if self.kind is None:
            return ""
        inside = f"<{self.kind}>{self.content.strip()}</{self.kind}>"
        return f"<think>{self.think.strip()}</think>{inside}"


def parse(response: str, task: Task) -> Action:
    """Reads a response: thoughts, then exactly one retrieval or answer, and nothing else.

    What stands between the first pair of tags counts. So after a well-formed first pair there may
    be more of them, as long as the whole ends like one.

    Raises:
        InputError: the task's kind has no rule for valid answers.
    """
    response = response.strip()
    for kind, form in _FORMS.items():
        if form.fullmatch(response):
            found = form.search(response)
            assert found is not None
            think, content = found.groups()
            if kind == "answer":
                return _answer(think, content, task)
            return _retrieval(think, content, task)
    return Action(
        kind=None,
        valid=False,
        formatted=False,
        error="format_error",
        message="The response must be <think>...</think> and then either <answer>...</answer> or "
        "<retrieve>start,end</retrieve>, and nothing else.",
    )


def _retrieval(think: str, content: str, task: Task) -> Action:
    found = _RANGE.fullmatch(content)
    start, end = (int(part) for part in found.groups()) if found else (1, 0)
    if start > end:
        return Action(
            kind="retrieve",
            valid=False,
            formatted=False,
            error="retrieve_format_error",
            message="A retrieval is two whole numbers with a comma, the smaller one first.",
        )
    inside = end < task.pool
    return Action(
        kind="retrieve",
        valid=inside,
        formatted=True,
        error="none" if inside else "retrieve_range_error",
        think=think,
        content=content,
        start=start,
        end=end,
        message="" if inside else f"There are frames from 0 to {task.pool - 1} only.",
    )


def _answer(think: str, content: str, task: Task) -> Action:
    text = content.strip()
    match task.kind:
        case "multiple choice":
            letters = [option[:1] for option in task.options]
            valid = text.upper() in letters
            wanted = f"one letter of {', '.join(letters)}"
        case "numerical":
            valid, wanted = _is_number(text), "a number"
        case "free-form":
            valid, wanted = len(content) <= _LONGEST, f"at most {_LONGEST} characters"
        case _:
            raise InputError(
                f"no rule for {task.kind!r} answers; there are multiple choice, numerical and "
                "free-form"
            )
    return Action(
        kind="answer",
        valid=valid,
        formatted=True,
        error="none" if valid else "answer_error",
        think=think,
        content=content,
        message="" if valid else f"The answer must be {wanted}.",
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def uniform(pool: int, count: int) -> Int64[np.ndarray, "f"]:
    """`count` indices spread over the pool, cut to whole ones; a small pool repeats some."""
    return np.linspace(0, pool - 1, count).astype(np.int64)


def interval(pool: int, start: int, end: int, *, most: int) -> Int64[np.ndarray, "f"]:
    """Up to `most` indices spread from `start` to `end`, both inclusive and clamped to the pool.

    Raises:
        InputError: nothing is left of the range.
    """
    first, last = max(start, 0), min(end, pool - 1)
    if first > last:
        raise InputError(f"no frame from {start} to {end} in a pool of {pool}")
    return np.linspace(first, last, max(1, min(last - first + 1, most))).astype(np.int64)


def frame_iou(a: Collection[int], b: Collection[int]) -> float:
    """Intersection over union of two sets of frames; two empty ones are the same."""
    one, other = set(a), set(b)
    return len(one & other) / len(one | other) if one or other else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """What a response led to.

    Attributes:
        number: turns taken, from 1; 0 before any.
        action: None before any.
        frames: pool indices shown now, empty where none are.
        seen: all that were shown so far.
        iou: of `frames` with the relevant ones, None where there are none.
        done: a valid answer, or no turn left.
    """

    number: int
    action: Action | None
    frames: tuple[int, ...]
    seen: frozenset[int]
    iou: float | None
    done: bool


def begin(task: Task, budget: Budget) -> Turn:
    """What is shown before the first response."""
    return _show(uniform(task.pool, budget.first), task, number=0, action=None)


def step(task: Task, budget: Budget, *, before: Turn, response: str) -> Turn:
    """Carries out a response. A retrieval in the last turn is shown, and then it is over.

    Raises:
        InputError: it is over already.
    """
    if before.done:
        raise InputError(f"the episode was over after turn {before.number}")
    action, number = parse(response, task), before.number + 1
    over = number >= budget.turns
    if action.valid and action.kind == "retrieve":
        frames = interval(task.pool, action.start, action.end, most=budget.each)
        return _show(frames, task, number=number, action=action, seen=before.seen, done=over)
    return Turn(
        number=number,
        action=action,
        frames=(),
        seen=before.seen,
        iou=None,
        done=over or action.valid,
    )


def _show(
    frames: Int64[np.ndarray, "f"],
    task: Task,
    *,
    number: int,
    action: Action | None,
    seen: frozenset[int] = frozenset(),
    done: bool = False,
) -> Turn:
    shown: Sequence[int] = frames.tolist()
    iou = None if task.relevant is None else frame_iou(shown, task.relevant)
    return Turn(
        number=number,
        action=action,
        frames=tuple(shown),
        seen=seen | frozenset(shown),
        iou=iou,
        done=done,
    )
