"""What a model said of takes against labels and experts (ProfVLM 5): tables for the report.

Accuracy is top-1, overall and by scenario; an answer without a label is wrong and breaks label
compliance. Commentaries are compared by ROUGE-L, METEOR and BERTScore, each beside the same score
of shuffled references, since some of them are high whatever a text says.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from tgvlm_jax.evaluation.bertscore import bertscore
from tgvlm_jax.evaluation.captioning import CaptionMetrics
from tgvlm_jax.evaluation.egoexo4d import ProficiencyTruth, accuracy, stated_label
from tgvlm_jax.evaluation.similarity import MiniLM
from tgvlm_jax.text import rouge
from tgvlm_jax.text.tables import Table
from tgvlm_jax.types import InputError

_LABEL, _TEXT = "proficiency:", "Analysis:"
NO_LABEL = "no label"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rated:
    """An answer about one take, or what should have been said."""

    level: str | None
    commentary: str


def read(text: str, levels: Sequence[str]) -> Rated:
    """The label and the commentary of an answer, whichever stands first.

    Without "Analysis:" all but the line of the label is the commentary.
    """
    head, marked, rest = text.partition(_TEXT)
    said = rest if marked else head
    lines = [line for line in said.splitlines() if not line.strip().lower().startswith(_LABEL)]
    return Rated(level=stated_label(text, levels), commentary=" ".join(" ".join(lines).split()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextScore:
    """Mean over all pairs, and over pairs of shuffled references."""

    name: str
    score: float
    shuffled: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProficiencyScores:
    """All figures of one evaluation.

    Attributes:
        levels: the labels. by_scenario: accuracy, and takes by scenario in `counts`.
        confusion: takes by true label (row) and stated label (column), the last column none.
        majority: share of the most frequent label here, what a constant answer scores.
        labelled, commented: share of answers with a label, and with a commentary.
        texts: of the takes that have a reference, of which there are `references`.
    """

    levels: tuple[str, ...]
    accuracy: float
    by_scenario: Mapping[str, float]
    counts: Mapping[str, int]
    confusion: Int64[np.ndarray, "levels stated"]
    majority: float
    labelled: float
    commented: float
    texts: tuple[TextScore, ...]
    references: int

    def tables(self) -> tuple[Table, ...]:
        """Accuracy by scenario, the confusion matrix and the texts."""
        total = sum(self.counts.values())
        rows = [(name, self.counts[name], found) for name, found in self.by_scenario.items()]
        rows += [("all", total, self.accuracy), ("most frequent level", total, self.majority)]
        rows += [("states a level", total, self.labelled), ("comments", total, self.commented)]
        named = zip(self.levels, self.confusion.tolist(), strict=True)
        found = [
            Table(
                title="proficiency",
                columns=("scenario", "takes", "accuracy"),
                rows=tuple(rows),
                decimals=3,
            ),
            Table(
                title="confusion: true level by stated level",
                columns=("true", *self.levels, NO_LABEL),
                rows=tuple((level, *row) for level, row in named),
            ),
        ]
        if self.texts:
            rows = tuple((one.name, one.score, one.shuffled) for one in self.texts)
            columns = ("", f"{self.references} commentaries", "shuffled references")
            found.append(Table(title="commentary", columns=columns, rows=rows, decimals=4))
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Every figure."""
        texts = {one.name: {"score": one.score, "shuffled": one.shuffled} for one in self.texts}
        return dataclasses.asdict(self) | {"confusion": self.confusion.tolist(), "texts": texts}


def score(
    said: Sequence[str],
    truths: Sequence[str],
    scenarios: Sequence[str],
    *,
    levels: Sequence[str],
    encoder: MiniLM | None = None,
    metrics: CaptionMetrics | None = None,
) -> ProficiencyScores:
    """Scores answers.

    Args:
        said: what the model generated. truths: the answers that were to be learned, each with a
            label. scenarios: of the takes.
        levels: the labels. encoder: for BERTScore. metrics: for METEOR; what is None is left out.

    Raises:
        InputError: not as many of each, or none.
    """
    if not len(said) == len(truths) == len(scenarios) > 0:
        raise InputError(
            f"as many answers as truths are needed: {len(said)}, {len(truths)}, {len(scenarios)}"
        )
    answers, wanted = ([read(text, levels) for text in texts] for texts in (said, truths))
    true = [_place(one.level, levels) for one in wanted]
    stated = [_place(one.level, levels) for one in answers]
    takes = ProficiencyTruth(
        takes=tuple(map(str, range(len(said)))), labels=tuple(true), scenarios=tuple(scenarios)
    )
    found = accuracy(takes, stated)
    confusion = np.zeros((len(levels), len(levels) + 1), np.int64)
    np.add.at(confusion, (true, stated), 1)
    pairs = [(a.commentary, b.commentary) for a, b in zip(answers, wanted, strict=True)]
    pairs = [pair for pair in pairs if pair[1]]
    names = sorted(set(scenarios))
    return ProficiencyScores(
        levels=tuple(levels),
        accuracy=found.overall,
        by_scenario={name: found.by_scenario[name] for name in names},
        counts={name: list(scenarios).count(name) for name in names},
        confusion=confusion,
        majority=float(confusion.sum(axis=1).max() / len(said)),
        labelled=float(np.mean([one.level is not None for one in answers])),
        commented=float(np.mean([bool(one.commentary) for one in answers])),
        texts=tuple(_texts(pairs, encoder, metrics)) if pairs else (),
        references=len(pairs),
    )


def _place(level: str | None, levels: Sequence[str]) -> int:
    """Column of a label, the last for none."""
    return len(levels) if level is None else list(levels).index(level)


def _texts(
    pairs: Sequence[tuple[str, str]], encoder: MiniLM | None, metrics: CaptionMetrics | None
) -> list[TextScore]:
    tests, truths = (list(texts) for texts in zip(*pairs, strict=True))
    # A rotation by half: every reference meets another's answer.
    half = len(truths) // 2
    others = truths[half:] + truths[:half]
    found = [_mean("ROUGE-L", *(_rouge(tests, refs) for refs in (truths, others)))]
    if metrics is not None:
        metrics.learn([*tests, *truths])
        words = [[metrics.tokenised(text) for text in texts] for texts in (tests, truths, others)]
        both = (metrics.meteor(words[0], refs).texts for refs in words[1:])
        found.append(_mean("METEOR", *both))
    if encoder is not None:
        both = (bertscore(tests, refs, encoder=encoder).f1 for refs in (truths, others))
        found.append(_mean("BERTScore F1 (all-MiniLM-L6-v2)", *both))
    return found


def _rouge(tests: Sequence[str], truths: Sequence[str]) -> Float64[np.ndarray, "pairs"]:
    pairs = zip(tests, truths, strict=True)
    return np.array([rouge.rouge_l(rouge.tokens(a), rouge.tokens(b)) for a, b in pairs])


def _mean(
    name: str, score: Float64[np.ndarray, "pairs"], shuffled: Float64[np.ndarray, "pairs"]
) -> TextScore:
    return TextScore(name=name, score=float(score.mean()), shuffled=float(shuffled.mean()))
