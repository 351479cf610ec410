"""VIUBench's scores (VideoSSR 3.2): nine columns, their averages, and what blind answers score.

Grounding is the mean overlap (IoU), counting the share of shapes whose number is exactly right,
jigsaw the share of orders that are right as a whole; all in percent. Overall is the plain mean of
the nine columns.
"""

import collections
import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tgvlm_jax.evaluation.records import Fields, Loaded, read_json, read_records
from tgvlm_jax.rewards import videossr
from tgvlm_jax.text.tables import Table
from tgvlm_jax.types import InputError

Scoring = Literal["form", "anywhere"]
Scores = Mapping[str, float | None]

COLUMNS = {
    "counting_easy": "Ce",
    "counting_hard": "Ch",
    "channel_swap": "Chan",
    "rotate180": "Rot",
    "zoom_out": "ZOut",
    "mirror": "Mirr",
    "shuffle": "Shuf",
    "jigsaw_6": "Je",
    "jigsaw_8": "Jh",
}
"""Subsets, in the order of the paper's table, and their short names."""
_AVERAGES = {"C": slice(0, 2), "G": slice(2, 7), "J": slice(7, 9), "All": slice(0, 9)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """One question with its answer; `duration` is that of the clip, in seconds."""

    id: str
    subset: str
    video: str
    question: str
    answer: str
    duration: float

    @property
    def task(self) -> str:
        """ "grounding", "counting" or "jigsaw"."""
        task = self.subset.partition("_")[0]
        return task if task in videossr.TASKS else "grounding"


def read_viubench(path: str | os.PathLike[str]) -> Loaded[Question]:
    """Reads questions.json. Raises InputError where it is none; bad records are problems."""
    whole = Fields(read_json(path), where=str(path))
    return read_records(path, whole.items("questions"), read=_question)


def _question(row: Fields) -> Question:
    question = Question(
        id=row.word("id"),
        subset=row.choice("subset", COLUMNS),
        video=row.word("video"),
        question=row.word("question"),
        answer=row.word("answer"),
        duration=row.number("duration"),
    )
    # An answer that its own parser does not read would score 0 whatever is said.
    if not videossr.TASKS[question.task](question.answer, question.answer)["strict"]:
        raise row.problem(f"'answer' is none of its task, found {question.answer!r}")
    if question.duration <= 0:
        raise row.problem(f"'duration' must be positive, found {question.duration}")
    return question


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Scores by subset, in percent.

    Attributes:
        scores: the benchmark's. rewards: partial credit, as it is trained on.
        readable: answers in the form that was asked for.
        blind: the benchmark's scores of blind answers, by the sort of answer; None where a task has
            none of the sort. blind_rewards: the greatest partial credit of a blind answer.
    """

    scores: Scores
    rewards: Scores
    readable: Scores
    blind: Mapping[str, Scores]
    blind_rewards: Scores

    def tables(self) -> tuple[Table, Table]:
        """The paper's table with rows for blind answers, and one of partial credit."""
        best = _best(self.blind)
        main = {"this model": self.scores, **self.blind, "best blind answer": best}
        more = {
            "partial credit": self.rewards,
            "best blind answer's": self.blind_rewards,
            "in the form asked for": self.readable,
        }
        return _table("VIUBench (%)", main), _table("Rewards (%)", more)

    def to_json(self) -> dict[str, Any]:
        """Every figure, with the averages."""
        named = {"scores": self.scores, "rewards": self.rewards, "readable": self.readable}
        named["blind_rewards"] = self.blind_rewards
        plain = {name: _with_averages(row) for name, row in named.items()}
        return plain | {"blind": {name: _with_averages(row) for name, row in self.blind.items()}}


def score_viubench(
    questions: Sequence[Question], texts: Sequence[str], *, scoring: Scoring = "form"
) -> Result:
    """Scores answers in the order of the questions.

    Args:
        scoring: "form" reads an interval as training does, where the whole answer is one;
            "anywhere" takes the first "number - number" of an answer, as the released evaluation
            of grounding does.

    Raises:
        InputError: there are no questions.
    """
    if not questions:
        raise InputError("VIUBench: no questions to score")
    found: dict[str, list[dict[str, float]]] = collections.defaultdict(list)
    truths: dict[str, list[Question]] = collections.defaultdict(list)
    for question, text in zip(questions, texts, strict=True):
        found[question.subset].append(_score(question, text, scoring))
        truths[question.subset].append(question)

    def mean(name: str) -> Scores:
        return {
            subset: 100 * float(np.mean([one[name] for one in rows]))
            for subset, rows in found.items()
        }

    blind = {subset: _BLIND[rows[0].task](subset, rows) for subset, rows in truths.items()}
    sorts = ("constant answer", "whole video", "at random")
    return Result(
        scores=mean("score"),
        rewards=mean("smooth"),
        readable=mean("readable"),
        blind={
            sort: {subset: _percent(row.get(sort)) for subset, row in blind.items()}
            for sort in sorts
        },
        blind_rewards={
            subset: 100 * _blind_reward(subset, rows) for subset, rows in truths.items()
        },
    )


def _score(question: Question, text: str, scoring: Scoring) -> dict[str, float]:
    if question.task == "grounding" and scoring == "anywhere":
        interval = videossr.find_interval(text)
        text = f"{interval[0]}-{interval[1]}" if interval else ""
    reward = videossr.TASKS[question.task](text, question.answer)
    match question.task:
        case "grounding":
            score = reward["smooth"]
        case "counting":
            score = _exact_counts(text, question.answer)
        case _:
            score = reward["strict"]
    return reward | {"score": score}


def _exact_counts(text: str, truth: str) -> float:
    wanted = tuple(map(float, truth.split(",")))
    found = videossr.read_counts(text, kinds=len(wanted)) or ()
    return sum(p == y for p, y in zip(found, wanted, strict=False)) / len(wanted)


def _blind_grounding(subset: str, questions: Sequence[Question]) -> dict[str, float]:
    found = videossr.blind_grounding(
        [one.answer for one in questions], [one.duration for one in questions]
    )
    sorts = {"constant": "constant answer", "whole": "whole video", "random": "at random"}
    return {sort: found[name] for name, sort in sorts.items()}


def _blind_counting(subset: str, questions: Sequence[Question]) -> dict[str, float]:
    shapes = zip(*(one.answer.split(",") for one in questions), strict=True)
    commonest = [max(collections.Counter(counts).values()) for counts in shapes]
    constant = float(np.mean(commonest)) / len(questions)
    return {"constant answer": constant, "at random": 1 / _most(subset)}


def _blind_jigsaw(subset: str, questions: Sequence[Question]) -> dict[str, float]:
    """The constant answer is the order that is shown."""
    shown = np.mean([list(one.answer) == sorted(one.answer) for one in questions])
    random = np.mean([1 / math.factorial(len(one.answer)) for one in questions])
    return {"constant answer": float(shown), "at random": float(random)}


_BLIND: dict[str, Callable[[str, Sequence[Question]], dict[str, float]]] = {
    "grounding": _blind_grounding,
    "counting": _blind_counting,
    "jigsaw": _blind_jigsaw,
}


def _blind_reward(subset: str, questions: Sequence[Question]) -> float:
    answers = [one.answer for one in questions]
    match questions[0].task:
        case "grounding":
            durations = [one.duration for one in questions]
            return max(videossr.blind_grounding(answers, durations).values())
        case "counting":
            return max(videossr.blind_counting(answers, most=_most(subset)).values())
        case _:
            return max(videossr.blind_jigsaw(answers).values())


def _most(subset: str) -> int:
    return videossr.MOST[subset.partition("_")[2]]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _best(blind: Mapping[str, Scores]) -> Scores:
    found: dict[str, float] = {}
    for row in blind.values():
        for subset, score in row.items():
            found[subset] = max(found.get(subset, 0.0), score or 0.0)
    return found


def _with_averages(row: Scores) -> dict[str, float | None]:
    """Columns, then means of those of a task and of all; None where one of them is missing."""
    values = [row.get(subset) for subset in COLUMNS]
    named: dict[str, float | None] = dict(zip(COLUMNS.values(), values, strict=True))
    for name, part in _AVERAGES.items():
        there = [value for value in values[part] if value is not None]
        whole = len(there) == len(values[part])
        named[name] = float(np.mean(there)) if whole else None
    return named


def _table(title: str, rows: Mapping[str, Scores]) -> Table:
    named = {name: _with_averages(row) for name, row in rows.items()}
    return Table(
        title=title,
        columns=("", *COLUMNS.values(), *_AVERAGES),
        rows=tuple((name, *row.values()) for name, row in named.items()),
        decimals=1,
    )
