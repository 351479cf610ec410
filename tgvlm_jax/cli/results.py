"""Writes what an evaluation found: metrics.json for programs, report.html for people."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tgvlm_jax import files
from tgvlm_jax.cli.session import drawn
from tgvlm_jax.config import dump, to_config_dict
from tgvlm_jax.data.annotated import SKIPPED
from tgvlm_jax.evaluation.runner import HeldOut, held_out_samples
from tgvlm_jax.evaluation.temporal import Scores
from tgvlm_jax.grounding.timecode import format_clock
from tgvlm_jax.report.charts import Chart
from tgvlm_jax.report.run import RunReport, Score, choose_examples, write_report
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train.metrics import read_metrics
from tgvlm_jax.types import Sample

CREDIT = (
    "Big Buck Bunny: (c) copyright 2008, Blender Foundation / www.bigbuckbunny.org, "
    "CC BY 3.0, re-encoded."
)
_CHARTS = (
    Chart(key="loss", title="Loss"),
    Chart(key="grounding", title="Grounding loss"),
    Chart(key="language", title="Language loss"),
    Chart(key="consistency", title="Consistency loss"),
    Chart(key="frames_per_second", title="Throughput", unit="frames/s"),
    Chart(key="step_time", title="Time of a step", unit="s"),
    Chart(key="mfu", title="Model FLOPs", unit="% of the peak", scale=100.0),
    Chart(key="input_wait", title="Waiting for input", unit="% of the step", scale=100.0),
)
_EXAMPLES = 9
_LARGE = (90, 160)  # pixels of an example's frames


def write(
    out: Path,
    found: HeldOut,
    *,
    experiment: Experiment,
    run: Path,
    before: Mapping[str, Scores] | None = None,
    spread: float | None = None,
    summary: str = "",
    more: dict[str, Any] | None = None,
) -> None:
    """Writes both files into `out`.

    Args:
        out: folder, made if need be. found: the evaluation of the model of `run`.
        before: scores of earlier stages. spread: of the mean IoU over seeds.
        summary: a sentence for the report. more: further figures for metrics.json.

    Raises:
        InputError: `out` cannot be written.
    """
    files.make_folder(out)
    files.write_text(out / "metrics.json", json.dumps(found.to_json() | (more or {}), indent=1))
    scores = [_score("after training", found.scores, role="model", spread=spread)]
    scores += [_score(name, one, role="before") for name, one in (before or {}).items()]
    scores += [_score(name, blind, role="blind") for name, blind in found.blind.items()]
    if found.skipped:
        found.skipped.write(out / SKIPPED)
    report = RunReport(
        title="When does the picture change?",
        summary=summary or f"Held-out clips, asked of the model in {run}.",
        scores=tuple(scores),
        parts=tuple(_score(kind, part, role="part") for kind, part in found.kinds.items()),
        ious=tuple(found.ious.tolist()),
        metrics=read_metrics(run / "metrics.jsonl"),
        charts=_CHARTS,
        examples=_examples(found, experiment),
        config=dump(to_config_dict(experiment)),
        versions=_versions(),
        credit=CREDIT,
    )
    write_report(out / "report.html", report)


def _score(name: str, scores: Scores, *, role: Any, spread: float | None = None) -> Score:
    return Score(
        name=name.replace("_", " "),
        mean_iou=scores.mean_iou,
        recall=scores.recall,
        role=role,
        spread=spread,
        count=scores.count if role == "part" else None,
    )


def _examples(found: HeldOut, experiment: Experiment) -> tuple:
    """A cross-section of the answers, drawn with the frames at the size they are stored in."""
    large = held_out_samples(experiment, size=_LARGE)
    chosen = choose_examples(found.ious, _EXAMPLES)
    return tuple(_example(found, large, int(index)) for index in np.asarray(chosen))


def _example(found: HeldOut, large: Sequence[Sample], index: int):
    sample = large[index]
    note = f"{sample.kind.replace('_', ' ')} · {sample.video} {format_clock(sample.seconds[0])}"
    return drawn(found.answered[index], pixels=sample.frames, note=note)


def _versions() -> dict[str, str]:
    names = ("tgvlm_jax", "jax", "flax", "optax", "orbax-checkpoint", "grain")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }
