"""A page of sampled answers: for each question its truth, and the answers with their rewards."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tgvlm_jax.report.charts import Chart, Number, line_chart
from tgvlm_jax.report.page import escape, page, write_page

_CHARTS = (
    Chart(title="Reward", key="reward"),
    Chart(title="Spread of rewards in a group", key="reward_spread"),
    Chart(title="Groups with equal rewards", key="equal_groups"),
    Chart(title="Tokens of an answer", key="answer_tokens"),
)


def write_rollouts(
    path: str | os.PathLike[str],
    groups: Sequence[Mapping[str, Any]],
    *,
    metrics: Sequence[Mapping[str, Number]],
    title: str,
) -> None:
    """Writes one HTML file; text is plain and gets escaped.

    Args:
        groups: records of `rollouts.jsonl`, the oldest first; shown the newest first.
        metrics: the training log, records with "step".

    Raises:
        InputError: `path` cannot be written.
    """
    drawn = "".join(line_chart(metrics, chart) for chart in _CHARTS)
    body = f"""<p class="eyebrow">tgvlm_jax · rollouts</p>
<h1>{escape(title)}</h1>
<p class="lead">Answers that were sampled in training, and what they earned.</p>
<div class="charts">{drawn}</div>
{"".join(map(_group, reversed(groups)))}"""
    write_page(path, page(title, body))


def _group(group: Mapping[str, Any]) -> str:
    ranked = sorted(group["answers"], key=lambda one: -(one["reward"] or 0.0))
    rows = "".join(
        f'<tr><th scope="row">{escape(one["text"]) or "(nothing)"}</th><td>{_reward(one)}</td></tr>'
        for one in ranked
    )
    failed = "".join(f'<p class="why">{escape(line)}</p>' for line in group["failures"])
    return f"""<h2>Step {group["step"]}: {escape(group["kind"])}</h2>
<p>{escape(group["question"])}</p>
<p class="why">{escape(group["video"])}; the truth: {escape(group["truth"])}</p>
<table><thead><tr><th scope="col">answer</th><th scope="col">reward</th></tr></thead>
<tbody>{rows}</tbody></table>{failed}"""


def _reward(answer: Mapping[str, Any]) -> str:
    return "failed" if answer["reward"] is None else f"{answer['reward']:.3f}"
