"""Scores of held-out pretext tasks (VideoSSR 3), each beside those of answers that never look."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tgvlm_jax.rewards import videossr
from tgvlm_jax.text.tables import Table
from tgvlm_jax.types import InputError, Sample

_BLIND = ("constant", "whole", "random")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskScores:
    """Means over the questions of one sort, from 0 to 1.

    Attributes:
        smooth, strict, readable: what `tgvlm_jax.rewards.videossr` says of the answers.
        blind: the smooth reward of blind answers to the same questions, by the sort of answer.
    """

    questions: int
    smooth: float
    strict: float
    readable: float
    blind: Mapping[str, float]

    @property
    def best_blind(self) -> float:
        """What a model has to beat."""
        return max(self.blind.values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretextScores:
    """Scores by task and by kind, such as "grounding/mirror"."""

    tasks: Mapping[str, TaskScores]
    kinds: Mapping[str, TaskScores]

    def table(self) -> Table:
        """A row for each task, and under it those of its kinds."""
        rows = {}
        for task, scores in self.tasks.items():
            rows[task] = scores
            kinds = {name: one for name, one in self.kinds.items() if name.startswith(f"{task}/")}
            rows |= kinds
        return Table(
            title="held-out pretext tasks",
            columns=(
                "",
                "questions",
                "reward",
                "exact",
                "readable",
                *(f"blind: {b}" for b in _BLIND),
            ),
            rows=tuple(
                (
                    name,
                    one.questions,
                    one.smooth,
                    one.strict,
                    one.readable,
                    *map(one.blind.get, _BLIND),
                )
                for name, one in rows.items()
            ),
            decimals=3,
        )

    def to_json(self) -> dict[str, Any]:
        """Every figure."""
        tables = {"tasks": self.tasks, "kinds": self.kinds}
        return {
            table: {
                name: dataclasses.asdict(one) | {"best_blind": one.best_blind}
                for name, one in rows.items()
            }
            for table, rows in tables.items()
        }


def score(samples: Sequence[Sample], texts: Sequence[str]) -> PretextScores:
    """Scores answers to samples of `data.tasks`.

    Raises:
        InputError: there are none.
    """
    if not samples:
        raise InputError("no held-out questions: give evaluation.samples")
    pairs = list(zip(samples, texts, strict=True))
    kinds = sorted({sample.kind for sample in samples})
    tasks = [task for task in videossr.TASKS if any(k.startswith(f"{task}/") for k in kinds)]

    def chosen(name: str) -> list[tuple[Sample, str]]:
        return [pair for pair in pairs if f"{pair[0].kind}/".startswith(f"{name}/")]

    return PretextScores(
        tasks={task: _mean(task, chosen(task)) for task in tasks},
        kinds={kind: _mean(kind.partition("/")[0], chosen(kind)) for kind in kinds},
    )


def _mean(task: str, pairs: Sequence[tuple[Sample, str]]) -> TaskScores:
    rewards = [videossr.TASKS[task](text, sample.answer) for sample, text in pairs]
    names = ("smooth", "strict", "readable")
    means = {name: float(np.mean([reward[name] for reward in rewards])) for name in names}
    blind = videossr.blind([sample for sample, _ in pairs])[task]
    return TaskScores(questions=len(pairs), blind=blind, **means)
