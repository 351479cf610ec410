"""A page of sampled answers: for each question its truth, and the answers with their rewards.

Answers of several turns are shown turn by turn, with the frames that were looked at before each.
"""

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
    Chart(title="Right answers", key="accuracy"),
    Chart(title="Turns that look where it matters", key="right_looks"),
    Chart(title="Turns of a conversation", key="turns"),
    # Of answers in segments (VideoP2R); a chart of what was not logged is not drawn.
    Chart(title="Accuracy of perception", key="perception_accuracy"),
    Chart(title="Accuracy of reasoning", key="reasoning_accuracy"),
    Chart(title="Groups that teach nothing", key="silent_groups"),
    Chart(title="Answers against their thoughts", key="mismatch"),
)
_STYLE = """<style>
.looked { display: flex; flex-wrap: wrap; gap: 4px; margin: 6px 0; }
.looked figure { margin: 0; } .looked img { display: block; height: 54px; border-radius: 3px; }
.looked figcaption { color: var(--soft); font-size: 12px; text-align: center; }
.turn { border-left: 3px solid var(--model-wash); padding-left: 12px; margin: 10px 0; }
</style>"""


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
{_STYLE if any("pictures" in group for group in groups) else ""}
{"".join(map(_group, reversed(groups)))}"""
    write_page(path, page(title, body))


def _group(group: Mapping[str, Any]) -> str:
    ranked = sorted(group["answers"], key=lambda one: -(one["reward"] or 0.0))
    if "pictures" in group:
        return _heading(group) + "".join(_conversation(one, group["pictures"]) for one in ranked)
    rows = "".join(
        f'<tr><th scope="row">{escape(one["text"]) or "(nothing)"}</th><td>{_reward(one)}</td></tr>'
        for one in ranked
    )
    failed = "".join(f'<p class="why">{escape(line)}</p>' for line in group["failures"])
    return f"""{_heading(group)}
<table><thead><tr><th scope="col">answer</th><th scope="col">reward</th></tr></thead>
<tbody>{rows}</tbody></table>{failed}"""


def _heading(group: Mapping[str, Any]) -> str:
    return f"""<h2>Step {group["step"]}: {escape(group["kind"])}</h2>
<p>{escape(group["question"])}</p>
<p class="why">{escape(group["video"])}; the truth: {escape(group["truth"])}</p>"""


def _conversation(answer: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """One conversation: for each turn the frames shown before it, what was said, what it earned."""
    turns = "".join(
        f'<div class="turn"><div class="looked">{_frames(turn["frames"], pictures)}</div>'
        f"<p>{escape(turn['text']) or '(nothing)'}</p>"
        f'<p class="why">{_terms(turn["terms"])}</p></div>'
        for turn in answer["turns"]
    )
    return f"<h3>Reward {_reward(answer)}</h3>{turns}"


def _frames(numbers: Sequence[int], pictures: Mapping[str, str]) -> str:
    return "".join(
        f'<figure><img alt="frame {number}" src="data:image/jpeg;base64,{pictures[str(number)]}">'
        f"<figcaption>{number}</figcaption></figure>"
        for number in dict.fromkeys(numbers)
        if str(number) in pictures
    )


def _terms(terms: Mapping[str, float]) -> str:
    return ", ".join(f"{escape(name)} {value:+.2f}" for name, value in terms.items())


def _reward(answer: Mapping[str, Any]) -> str:
    return "failed" if answer["reward"] is None else f"{answer['reward']:.3f}"
