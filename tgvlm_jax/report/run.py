"""The report of a run: what was reached, against what, how it got there, and examples."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64

from tgvlm_jax.report.charts import Chart, Number, histogram, line_chart
from tgvlm_jax.report.page import escape, page, write_page
from tgvlm_jax.report.timeline import Answer, timeline
from tgvlm_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """One line of a table of results.

    Attributes:
        name: what was scored.
        mean_iou: mean over all clips, misses count 0.
        recall: share of clips with IoU >= threshold, by threshold; the same thresholds in a table.
        role: "model" in the end, "before" that, a "blind" baseline, or a "part" of the clips.
        spread: standard deviation of `mean_iou` over seeds, if there were several.
        count: number of clips, where it differs from line to line.
    """

    name: str
    mean_iou: float
    recall: Mapping[float, float] = dataclasses.field(default_factory=dict)
    role: Literal["model", "before", "blind", "part"] = "part"
    spread: float | None = None
    count: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunReport:
    """All that the report of a run shows; text is plain and gets escaped.

    Attributes:
        title, summary: a headline, and a sentence or two on model, data and time taken.
        scores: lines of the main table, in order; exactly one has the role "model".
        parts: the model's score on parts of the clips, e.g. by kind of event.
        ious: IoU of every evaluated clip, from which `examples` were chosen.
        metrics: the training log, records with "step".
        charts: which numbers of `metrics` are drawn, in order.
        examples: answers to show, best chosen by `choose_examples`.
        config: the configuration as text.
        versions: package -> version.
        credit: who made the video, and under what licence.
    """

    title: str
    summary: str
    scores: tuple[Score, ...]
    parts: tuple[Score, ...] = ()
    ious: tuple[float, ...] = ()
    metrics: Sequence[Mapping[str, Number]] = ()
    charts: tuple[Chart, ...] = ()
    examples: tuple[Answer, ...] = ()
    config: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    credit: str = ""


def choose_examples(ious: Float[np.ndarray, "b"], count: int) -> Int64[np.ndarray, "chosen"]:
    """Clips to show: even ranks of IoU from the worst to the best, with the median among them.

    A fair cross-section: nobody picks what looks good. At most `count` (three or more) distinct
    indices, from the worst to the best.
    """
    ranked = np.argsort(ious, kind="stable")
    if len(ranked) <= count:
        return ranked
    ranks = np.round(np.linspace(0, len(ranked) - 1, count)).astype(np.int64)
    ranks[count // 2] = (len(ranked) - 1) // 2
    return ranked[np.unique(ranks)]


def write_report(path: str | os.PathLike[str], report: RunReport) -> None:
    """Write the report as one HTML file.

    Raises:
        InputError: `path` cannot be written, or `scores` do not have one line of the model.
    """
    body = "\n".join(
        part
        for part in (
            _header(report),
            _results(report),
            _parts(report),
            _training(report),
            _examples(report),
            _footer(report),
        )
        if part
    )
    write_page(path, page(report.title, body))


def _header(report: RunReport) -> str:
    model = [score for score in report.scores if score.role == "model"]
    if len(model) != 1:
        raise InputError(f"a report needs one score of the model, got {len(model)}")
    spread = "" if model[0].spread is None else f" <small>± {model[0].spread:.2f}</small>"
    figures = [_figure(f"{model[0].mean_iou:.2f}{spread}", "mean IoU on held-out clips")]
    blind = [score for score in report.scores if score.role == "blind"]
    if blind:
        best = max(blind, key=lambda score: score.mean_iou)
        figures.append(_figure(f"{best.mean_iou:.2f}", f"best blind answer: {best.name}"))
        if best.mean_iou > 0:
            ratio = model[0].mean_iou / best.mean_iou
            figures.append(
                _figure(f"{ratio:.1f}<small> ×</small>", "the model over the best blind")
            )
    return f"""<p class="eyebrow">tgvlm_jax · run report</p>
<h1>{escape(report.title)}</h1>
<p class="lead">{escape(report.summary)}</p>
<div class="figures">{"".join(figures)}</div>"""


def _figure(value: str, caption: str) -> str:
    return f'<div class="figure"><b>{value}</b><span>{escape(caption)}</span></div>'


def _results(report: RunReport) -> str:
    distribution = ""
    if report.ious:
        title = f"IoU of each of the {len(report.ious)} held-out clips"
        distribution = histogram(report.ious, title=title)
    return f"""<h2>Against answers that never look</h2>
<p class="why">IoU is the overlap of the answered and the true interval, from 0 to 1. R@x is the
share of clips with an IoU of at least x.</p>
{_table(report.scores, head="answer")}
{distribution}"""


def _parts(report: RunReport) -> str:
    if not report.parts:
        return ""
    ordered = sorted(report.parts, key=lambda score: -score.mean_iou)
    return f"""<h2>By kind of event</h2>
<p class="why">The same held-out clips, from the easiest kind to the hardest.</p>
{_table(ordered, head="kind")}"""


def _table(scores: Sequence[Score], *, head: str) -> str:
    thresholds = sorted({threshold for score in scores for threshold in score.recall})
    columns = "".join(f'<th scope="col">R@{threshold:g}</th>' for threshold in thresholds)
    rows = []
    for score in scores:
        count = "" if score.count is None else f" <small>{score.count} clips</small>"
        spread = "" if score.spread is None else f" <small>± {score.spread:.2f}</small>"
        cells = "".join(
            f"<td>{score.recall[threshold]:.2f}</td>" if threshold in score.recall else "<td>–</td>"
            for threshold in thresholds
        )
        width = 100 * min(max(score.mean_iou, 0.0), 1.0)
        rows.append(
            f'<tr class="{score.role}"><th scope="row">{escape(score.name)}{count}</th>'
            f'<td class="measure"><div><i><i style="width:{width:.1f}%"></i></i>'
            f"<span>{score.mean_iou:.2f}{spread}</span></div></td>{cells}</tr>"
        )
    spread = ' class="spread"' if any(score.spread is not None for score in scores) else ""
    return f"""<table{spread}>
<thead><tr>
<th scope="col">{head}</th><th class="measure" scope="col">mean IoU</th>{columns}
</tr></thead>
<tbody>
{"".join(rows)}
</tbody>
</table>"""


def _training(report: RunReport) -> str:
    drawn = [line_chart(report.metrics, chart) for chart in report.charts]
    drawn = [figure for figure in drawn if figure]
    if not drawn:
        return ""
    return f"""<h2>Training</h2>
<p class="why">Each curve over the steps of the optimiser; the number is where it ended.</p>
<div class="charts">{"".join(drawn)}</div>"""


def _examples(report: RunReport) -> str:
    if not report.examples:
        return ""
    ious = {i: answer.iou for i, answer in enumerate(report.examples) if answer.iou is not None}
    known = report.ious or tuple(ious.values())
    labels = _labels(ious, known) if len(ious) >= 3 else {}
    typical = sorted(ious, key=lambda i: abs(ious[i] - float(np.median(known))))
    unscored = [i for i in range(len(report.examples)) if i not in ious]
    cards = [timeline(report.examples[i], label=labels.get(i, "")) for i in typical + unscored]
    return f"""<h2>Examples</h2>
<p class="why">A cross-section of the held-out clips, failures included: the most typical first, the
best and the worst last. Blue is the truth, orange the model.</p>
{"".join(cards)}"""


def _labels(ious: Mapping[int, float], known: Sequence[float]) -> dict[int, str]:
    """Which example is the median, the best, the worst: of all clips only if it really is."""
    labels = {}
    for name, goal in (
        ("median", float(np.median(known))),
        ("best", max(known)),
        ("worst", min(known)),
    ):
        nearest = min(ious, key=lambda i: abs(ious[i] - goal))
        exact = abs(ious[nearest] - goal) < 0.01
        labels[nearest] = f"{name} of {len(known)}" if exact else f"{name} shown"
    return labels


def _footer(report: RunReport) -> str:
    parts = []
    if report.credit:
        parts.append(f"<p>{escape(report.credit)}</p>")
    if report.versions:
        versions = " · ".join(f"{name} {version}" for name, version in report.versions.items())
        parts.append(f"<p>{escape(versions)}</p>")
    if report.config:
        parts.append(
            f"<details><summary>Configuration</summary><pre>{escape(report.config)}</pre></details>"
        )
    return f"<footer>{''.join(parts)}</footer>" if parts else ""
