"""What a model is told in each turn of looking again (Video-MTR 1.5): texts and frames in order.

Whole numbers stand for frames, by their index in the pool. The forms that are asked for are those
that `retrieval.parse` accepts.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from tgvlm_jax.rollout.retrieval import Budget, Task, Turn

Part = str | int

_ANSWER = "<think>your thoughts</think><answer>your answer</answer>"
_RETRIEVE = "<think>your thoughts</think><retrieve>start,end</retrieve>"
_WANTED = {
    "multiple choice": "answer with the letter of one option only",
    "numerical": "answer with a number only",
    "free-form": "answer in at most twenty words",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A question and the pool that it is about."""

    question: str
    task: Task


def system(budget: Budget) -> str:
    """What stands before the first turn."""
    return (
        "A user asks about a video and you find the answer by looking at its frames. "
        f"You have at most {budget.turns} turns."
    )


def observation(
    asked: Asked, turn: Turn, budget: Budget, *, style: Literal["full", "short"]
) -> tuple[Part, ...]:
    """What the model reads before its next answer; `turn` is what its last one led to."""
    if style == "short":
        return _short(asked, turn)
    number = turn.number + 1
    if turn.action is not None and not turn.action.valid:
        head: list[Part] = [
            f"{turn.action.message}\nTurn {number}. Go on with the frames that you have seen.\n"
        ]
    else:
        listed = ", ".join(map(str, turn.frames))
        head = [f"Turn {number}. {len(turn.frames)} frames with these indices: {listed}\n"]
        for frame in turn.frames:
            head += [f"frame_idx:{frame}, ", frame, "\n"]
    return (*head, _question(asked) + _rules(asked.task, budget, number))


def _question(asked: Asked) -> str:
    options = "".join(f"\n{option}" for option in asked.task.options)
    return f"Question: {asked.question}{options}\n"


def _rules(task: Task, budget: Budget, number: int) -> str:
    wanted = _WANTED.get(task.kind, "answer in a few words")
    think = "Think aloud as a person does: pause, doubt what you first thought, and look again."
    if number >= budget.turns:
        return f"This is the last turn: answer now, as {_ANSWER}\n{think} Then {wanted}."
    return (
        f"You may answer, as {_ANSWER}\nor ask for more frames, as {_RETRIEVE}\n{think} If you "
        f"know enough, {wanted}. If not, find the range of indices that matters most and ask for "
        f"its frames: start and end are whole numbers from 0 to {task.pool - 1}."
    )


def _short(asked: Asked, turn: Turn) -> tuple[Part, ...]:
    """Frames with their numbers; the question at first, and what was wrong where something was."""
    parts: list[Part] = []
    for frame in turn.frames:
        parts += [f"{frame}", frame]
    if turn.number == 0:
        return (*parts, f"\n{asked.question}")
    return tuple(parts) or (_told(turn),)


def _told(turn: Turn) -> str:
    return "" if turn.action is None else turn.action.error


def script(task: Task, *, look: tuple[int, int] | None, answer: str) -> Sequence[str]:
    """Answers of a scripted conversation, with nothing thought: a look, if any, and the answer."""
    told = [f"<think></think><answer>{answer}</answer>"]
    if look is None:
        return told
    assert 0 <= look[0] <= look[1] < task.pool
    return [f"<think></think><retrieve>{look[0]},{look[1]}</retrieve>", *told]
