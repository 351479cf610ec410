"""Questions whose answers are a letter, a number, a word: one form for many benchmarks.

    items = read_vsibench("test.jsonl")
    found = score_items("VSI-Bench", items, texts, scoring=Scoring(rule=..., over=("type",)))

A benchmark brings a reader of its annotation files and rules that mark one answer from 0 to 1. The
tables by group are the same for all, and so are blind answers: what one and the same answer to
every question would score, by the very same rule.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tgvlm_jax.text.tables import Table
from tgvlm_jax.types import InputError

LETTERS = "ABCDEFGHIJKLMN"
Kind = Literal["choice", "number", "numerical", "text", "list", "yes_no", "caption"]
_CONSTANTS = 32  # blind numbers that are tried


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """One question.

    Attributes:
        name: identifies it in its benchmark. video: path below the folder of videos.
        prompt: what a model is asked. question: as the file has it.
        options: as the file has them; () where there are none, or in the question's words only.
        answer: the letter of a "choice"; as the file has it otherwise.
        kind: of a "number" the error counts, a "numerical" answer is right or wrong; a "list" is
            a stretch of time or a box, a "caption" the better one of several.
        groups: what tables are made by; a question may be in several groups of a field.
        constants: blind answers worth trying, as many and in the same order for all of a kind.
    """

    name: str
    video: str
    prompt: str
    question: str
    answer: str
    kind: Kind
    groups: Mapping[str, tuple[str, ...]]
    options: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()

    @property
    def chance(self) -> float | None:
        """What guessing scores; None for what cannot be guessed."""
        countable = self.constants and self.kind in ("choice", "yes_no", "caption")
        return 1 / len(self.constants) if countable else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scoring:
    """How answers are marked and averaged.

    Attributes:
        rule: from 0 to 1 for an answer; None leaves it out of all averages.
        over: fields whose groups count alike in the overall score, whatever their sizes: the mean
            over the groups of the first of the means over the groups of the second ...; () is the
            mean over questions.
        form: how a blind answer is written.
    """

    rule: Callable[[Item, str], float | None]
    over: tuple[str, ...] = ()
    form: str = "{}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemScores:
    """Scores in percent.

    Attributes:
        overall: of the answers. blind: of the best constant answer of each kind, averaged alike.
        over: as in `Scoring`. left_out: answers without a mark.
    """

    title: str
    overall: float
    blind: float
    over: tuple[str, ...]
    tables: tuple[Table, ...]
    left_out: int

    def summary(self) -> str:
        """The overall score, in one line."""
        mean = f"mean over {', then '.join(self.over)}" if self.over else "mean over questions"
        return (
            f"{self.title} overall: {self.overall:.2f}% ({mean}), best constant answer "
            f"{self.blind:.2f}%; answers not counted: {self.left_out}"
        )

    def to_json(self) -> dict[str, Any]:
        """Every figure."""
        return {
            "benchmark": self.title,
            "overall": self.overall,
            "blind": self.blind,
            "unread": self.left_out,
            "tables": {table.title: table.to_json() for table in self.tables},
        }


def score_items(
    title: str, items: Sequence[Item], texts: Sequence[str], *, scoring: Scoring
) -> ItemScores:
    """Marks answers in the order of the questions.

    Raises:
        InputError: not one answer a question, no questions, or none that the scoring counts.
    """
    if len(items) != len(texts) or not items:
        raise InputError(f"one answer a question is needed: {len(texts)} for {len(items)}")
    marks = _marks(items, texts, scoring)
    counted = np.flatnonzero(~np.isnan(marks))
    if not len(counted):
        raise InputError(f"{title}: none of {len(items)} answers is counted by this scoring")
    blind = _blind_marks(items, scoring)
    score = _Leaf(items=items, marks=marks, blind=blind)
    fields = dict.fromkeys(field for index in counted.tolist() for field in items[index].groups)
    return ItemScores(
        title=title,
        overall=100 * _nested(items, counted, scoring.over, score.mean),
        blind=100 * _nested(items, counted, scoring.over, score.best_constant),
        over=scoring.over,
        tables=tuple(_table(title, field, items, counted, score) for field in fields),
        left_out=len(items) - len(counted),
    )


def with_constants(items: Sequence[Item], field: str) -> list[Item]:
    """Blind numbers for number questions: true ones of the same group of `field`, low to high."""
    truths: dict[tuple[str, ...], list[float]] = collections.defaultdict(list)
    for item in items:
        if item.kind == "number":
            truths[item.groups[field]].append(float(item.answer))
    ranks = np.linspace(0, 1, _CONSTANTS)
    tried = {
        group: tuple(f"{value:g}" for value in np.quantile(values, ranks, method="nearest"))
        for group, values in truths.items()
    }
    return [
        dataclasses.replace(item, constants=tried[item.groups[field]])
        if item.kind == "number"
        else item
        for item in items
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Leaf:
    """Averages over some of the questions, all alike; `blind` is by constant and question."""

    items: Sequence[Item]
    marks: np.ndarray
    blind: np.ndarray

    def mean(self, chosen: np.ndarray) -> float:
        return float(self.marks[chosen].mean())

    def best_constant(self, chosen: np.ndarray) -> float:
        total = 0.0
        kinds = np.array([self.items[index].kind for index in chosen])
        for kind in np.unique(kinds):
            total += self.blind[:, chosen[kinds == kind]].sum(axis=1).max()
        return total / len(chosen)

    def chance(self, chosen: np.ndarray) -> float | None:
        chances = [self.items[index].chance for index in chosen]
        known = [chance for chance in chances if chance is not None]
        return sum(known) / len(known) if len(known) == len(chances) else None


def _marks(items: Sequence[Item], texts: Sequence[str], scoring: Scoring) -> np.ndarray:
    marks = [scoring.rule(item, text) for item, text in zip(items, texts, strict=True)]
    return np.array([np.nan if mark is None else mark for mark in marks], np.float64)


def _blind_marks(items: Sequence[Item], scoring: Scoring) -> np.ndarray:
    """Of every constant, by question; 0 where a question has none of that number."""
    most = max(1, *(len(item.constants) for item in items))
    rows = []
    for place in range(most):
        given = [place < len(item.constants) for item in items]
        texts = [
            scoring.form.format(item.constants[place]) if there else ""
            for item, there in zip(items, given, strict=True)
        ]
        rows.append(np.where(given, np.nan_to_num(_marks(items, texts, scoring)), 0.0))
    return np.stack(rows)


def _groups(items: Sequence[Item], chosen: np.ndarray, field: str) -> dict[str, np.ndarray]:
    """Questions by group, in the order in which the groups come."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    for index in chosen:
        for group in items[index].groups.get(field, ()):
            found[group].append(index)
    return {group: np.array(places) for group, places in found.items()}


def _nested(
    items: Sequence[Item],
    chosen: np.ndarray,
    over: Sequence[str],
    leaf: Callable[[np.ndarray], float],
) -> float:
    if not over:
        return leaf(chosen)
    groups = _groups(items, chosen, over[0])
    return float(np.mean([_nested(items, part, over[1:], leaf) for part in groups.values()]))


def _table(title: str, field: str, items: Sequence[Item], chosen: np.ndarray, leaf: _Leaf) -> Table:
    rows = []
    for group, part in _groups(items, chosen, field).items():
        chance = leaf.chance(part)
        percents = 100 * leaf.mean(part), 100 * leaf.best_constant(part)
        rows.append((group, *percents, None if chance is None else 100 * chance, len(part)))
    return Table(
        title=f"{title} by {field}",
        columns=(field, "score", "best constant", "chance", "answers"),
        rows=tuple(rows),
        decimals=2,
    )
