"""E.T. Bench: twelve tasks of event-level and time-sensitive understanding, in four scorings.

    samples = read_etbench("predictions.json").records
    with CaptionMetrics() as metrics:
        scorers = CaptionScorers(similarity=best_similarity(), metrics=metrics)
        print(score_etbench(samples, "new", scorers=scorers).text())

`original` is the benchmark's own scoring (arXiv 2409.18111). D2VLM (arXiv 2512.24097) publishes
three more: `strict_rvq` (a stated letter decides), `new` (the paper's numbers: evidence and answer
apart, best of all spans in tvg and epm) and `looser` (`new` with lenient letters). They differ by
many points, so name the one that a figure was made with.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tgvlm_jax.evaluation import captioning
from tgvlm_jax.evaluation.etbench_captioning import CaptionScorers, prepare, score_dense_captions
from tgvlm_jax.evaluation.etbench_choice import score_choice, score_grounded_choice
from tgvlm_jax.evaluation.etbench_data import CAPTIONING, CHOICE, TASKS, EtSample, Task
from tgvlm_jax.evaluation.etbench_grounding import (
    GroupScores,
    Metrics,
    Variant,
    score_highlight,
    score_localisation,
    score_moment,
    score_summary,
)
from tgvlm_jax.text.tables import Table
from tgvlm_jax.types import InputError

# What the benchmark's table shows of each task, in its order ("EVC" is its name for eca there).
_COLUMNS: tuple[tuple[str, Task, str], ...] = (
    ("RAR (Acc)", "rar", "Acc"),
    ("EVC (Acc)", "eca", "Acc"),
    ("RVQ (Acc)", "rvq", "Acc"),
    ("TVG (F1)", "tvg", "F1"),
    ("EPM (F1)", "epm", "F1"),
    ("TAL (F1)", "tal", "F1"),
    ("EVS (F1)", "evs", "F1"),
    ("VHD (F1)", "vhd", "F1"),
    ("DVC (F1)", "dvc", "F1"),
    ("DVC (Sim)", "dvc", "SentSim"),
    ("SLC (F1)", "slc", "F1"),
    ("SLC (Sim)", "slc", "SentSim"),
    ("TEM (Rec)", "tem", "mRec"),
    ("GVQ (Rec)", "gvq", "mRec"),
)
_MERGED = {
    "Acc (ref)": ("RAR (Acc)", "EVC (Acc)", "RVQ (Acc)"),
    "F1 (gnd)": ("TVG (F1)", "EPM (F1)", "TAL (F1)", "EVS (F1)", "VHD (F1)"),
    "F1 (cap)": ("DVC (F1)", "SLC (F1)"),
    "Sim (cap)": ("DVC (Sim)", "SLC (Sim)"),
    "Rec (com)": ("TEM (Rec)", "GVQ (Rec)"),
}
_CAPABILITIES: dict[str, tuple[Task, ...]] = {
    "Referring": CHOICE,
    "Grounding": ("tvg", "epm", "tal", "evs", "vhd"),
    "Captioning": CAPTIONING,
    "Complex": ("tem", "gvq"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EtBenchResult:
    """Scores of one model.

    Attributes:
        variant: the scoring. similarity, captions: what compared sentences and captions.
        collected: metrics by task and source, with the scripts' names and 5 decimals.
        overall: the benchmark's 14 figures in percent, those of missing tasks left out.
        merged: its 5 summary figures, where all of their tasks are there.
        aborted: answers on which the published script stops with an error; here they are failures.
    """

    variant: Variant
    similarity: str
    captions: str
    collected: Mapping[Task, Mapping[str, Metrics]]
    overall: Mapping[str, float]
    merged: Mapping[str, float]
    aborted: tuple[str, ...]

    def tables(self) -> list[Table]:
        """One table for each capability, then overall and merged."""
        found = [self._capability(title, tasks) for title, tasks in _CAPABILITIES.items()]
        summaries = (("Overall", self.overall), ("Merged", self.merged))
        found += [
            Table(title=title, columns=tuple(row), rows=(tuple(row.values()),), decimals=1)
            for title, row in summaries
            if row
        ]
        return [table for table in found if table.rows]

    def _capability(self, title: str, tasks: Sequence[Task]) -> Table:
        groups = [(t, s, m) for t in tasks for s, m in self.collected.get(t, {}).items()]
        names = list(dict.fromkeys(name for _, _, metrics in groups for name in metrics))
        rows = tuple(
            (task, source, *(metrics.get(name) for name in names))
            for task, source, metrics in groups
        )
        return Table(title=title, columns=("Task", "Source", *names), rows=rows)

    def text(self) -> str:
        """All tables, and what the figures were made with."""
        return "\n\n".join([*(table.text() for table in self.tables()), self.made()])

    def made(self) -> str:
        """What the figures were made with."""
        return (
            f"scoring: {self.variant}; sentence similarity: {self.similarity}; "
            f"captions: {self.captions}; answers that the published script stops at: "
            f"{len(self.aborted)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return dataclasses.asdict(self)


def score_etbench(
    samples: Sequence[EtSample], variant: Variant, *, scorers: CaptionScorers
) -> EtBenchResult:
    """Scores answered samples by (task, source).

    Raises:
        InputError: there are no samples.
    """
    if not samples:
        raise InputError("no samples of E.T. Bench to score")
    captioned = [sample for sample in samples if sample.task in CAPTIONING]
    if captioned and scorers.metrics:
        prepare(captioned, variant, metrics=scorers.metrics)
    groups: dict[Task, dict[str, list[EtSample]]] = {}
    for sample in samples:
        groups.setdefault(sample.task, {}).setdefault(sample.source, []).append(sample)
    collected: dict[Task, dict[str, Metrics]] = {}
    aborted: list[str] = []
    for task in sorted(groups, key=TASKS.index):
        scored = {
            source: score_group(group, variant, scorers=scorers)
            for source, group in groups[task].items()
        }
        collected[task] = {source: scores.metrics for source, scores in scored.items()}
        aborted += [line for scores in scored.values() for line in scores.aborted]
    overall = _overall(collected)
    return EtBenchResult(
        variant=variant,
        similarity=scorers.similarity.name,
        captions=scorers.metrics.name if scorers.metrics else _no_captions(),
        collected=collected,
        overall={name: round(100 * value, 1) for name, value in overall.items()},
        merged={
            name: round(100 * sum(overall[part] for part in parts) / len(parts), 1)
            for name, parts in _MERGED.items()
            if all(part in overall for part in parts)
        },
        aborted=tuple(aborted),
    )


def score_group(
    samples: Sequence[EtSample], variant: Variant, *, scorers: CaptionScorers
) -> GroupScores:
    """Scores samples of one task and one source."""
    match samples[0].task:
        case "rar" | "eca" | "rvq":
            return score_choice(samples, variant, similarity=scorers.similarity)
        case "tvg" | "epm" | "tem":
            return score_moment(samples, variant)
        case "tal":
            return score_localisation(samples, variant)
        case "evs":
            return score_summary(samples, variant)
        case "vhd":
            return score_highlight(samples, variant)
        case "gvq":
            return score_grounded_choice(samples, variant, similarity=scorers.similarity)
        case "dvc" | "slc":
            return score_dense_captions(samples, variant, scorers=scorers)


def _no_captions() -> str:
    return f"not scored: {captioning.missing() or 'not asked for'}"


def _overall(collected: Mapping[Task, Mapping[str, Metrics]]) -> dict[str, float]:
    """The mean over sources of each column's metric, 5 decimals."""
    found = {}
    for name, task, metric in _COLUMNS:
        groups = collected.get(task, {}).values()
        values = [metrics[metric] for metrics in groups if metric in metrics]
        if values and len(values) == len(groups):
            found[name] = round(sum(values) / len(values), 5)
    return found
