"""Ego-Exo4D demonstrator proficiency: accuracy of logits by view, and labels read from text.

The challenge's script (github.com/EGO4D/ego-exo4d-proficiency) takes the egocentric view, the mean
of the exocentric views' probabilities, or the mean over all views; ties go to the lower label.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy import special

from tgvlm_jax.evaluation.records import Fields, read_json
from tgvlm_jax.text.tables import Table
from tgvlm_jax.types import InputError

LABELS = ("Novice", "Early Expert", "Intermediate Expert", "Late Expert")
_EXO_VIEWS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProficiencyTruth:
    """Takes with the index of their label and the name of their scenario."""

    takes: tuple[str, ...]
    labels: tuple[int, ...]
    scenarios: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProficiencyLogits:
    """Logits of every take, for the egocentric and the four exocentric views."""

    takes: tuple[str, ...]
    ego: Float64[np.ndarray, "takes 4"]
    exo: Float64[np.ndarray, "takes v 4"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Share of right labels, overall and by scenario."""

    overall: float
    by_scenario: Mapping[str, float]


def read_truth(path: str | os.PathLike[str]) -> ProficiencyTruth:
    """Reads the ground truth; raises InputError naming what is wrong with the file."""
    fields = Fields(read_json(path), where=str(path))
    labels = fields.items("gt_annotations")
    truth = ProficiencyTruth(
        takes=tuple(fields.texts("videos")),
        labels=tuple(
            Fields({"label": label}, where=f"{path}: record {index}").index("label", len(LABELS))
            for index, label in enumerate(labels)
        ),
        scenarios=tuple(fields.texts("scenario_names")),
    )
    if not len(truth.takes) == len(truth.labels) == len(truth.scenarios) > 0:
        raise fields.problem("'videos', 'gt_annotations', 'scenario_names' must be equally long")
    return truth


def read_logits(path: str | os.PathLike[str]) -> ProficiencyLogits:
    """Reads a submission; raises InputError naming what is wrong with the file."""
    fields = Fields(read_json(path), where=str(path))
    takes = tuple(fields.texts("videos"))
    return ProficiencyLogits(
        takes=takes,
        ego=_array(fields, "ego_model_predictions", (len(takes), len(LABELS))),
        exo=_array(fields, "exo_model_predictions", (len(takes), _EXO_VIEWS, len(LABELS))),
    )


def _array(fields: Fields, name: str, shape: tuple[int, ...]) -> Float64[np.ndarray, "..."]:
    try:
        values = np.array(fields.items(name), np.float64)
    except (ValueError, TypeError) as error:
        raise fields.problem(f"{name!r} must be numbers of shape {shape}") from error
    if values.shape != shape:
        raise fields.problem(f"{name!r} must have the shape {shape}, found {values.shape}")
    return values


def score_views(truth: ProficiencyTruth, logits: ProficiencyLogits) -> dict[str, Accuracy]:
    """Accuracy of `ego`, `exo` and `combined`.

    Raises:
        InputError: the takes are not the same, in the same order.
    """
    if truth.takes != logits.takes:
        raise InputError("the submission's videos are not those of the ground truth, in its order")
    views = special.softmax(np.concatenate([logits.ego[:, None], logits.exo], axis=1), axis=-1)
    chosen = {
        "ego": logits.ego.argmax(axis=-1),
        "exo": views[:, 1:].mean(axis=1).argmax(axis=-1),
        "combined": views.mean(axis=1).argmax(axis=-1),
    }
    return {name: accuracy(truth, labels.tolist()) for name, labels in chosen.items()}


def accuracy(truth: ProficiencyTruth, chosen: Sequence[int | None]) -> Accuracy:
    """Share of takes with the right label; None (no label stated) is wrong."""
    if len(chosen) != len(truth.labels):
        raise InputError(f"one label a take is needed: {len(chosen)} for {len(truth.labels)}")
    hits: dict[str, list[bool]] = {}
    for label, found, scenario in zip(truth.labels, chosen, truth.scenarios, strict=True):
        hits.setdefault(scenario, []).append(label == found)
    everything = [hit for part in hits.values() for hit in part]
    return Accuracy(
        overall=sum(everything) / len(everything),
        by_scenario={scenario: sum(part) / len(part) for scenario, part in hits.items()},
    )


def stated_label(text: str, labels: Sequence[str] = LABELS) -> str | None:
    """The label that a generated text states: after "Proficiency:" or anywhere, the longest first.

    ProfVLM does not publish its reader; case is ignored and None means that no label is named.
    """
    _, marked, rest = text.lower().partition("proficiency:")
    for part in (rest, text.lower()) if marked else (text.lower(),):
        places = {name: part.find(name.lower()) for name in labels}
        found = [name for name, place in places.items() if place >= 0]
        if found:
            return min(found, key=lambda name: (places[name], -len(name)))
    return None


def table(scores: Mapping[str, Accuracy]) -> Table:
    """One row a view: overall and every scenario."""
    scenarios = list(next(iter(scores.values())).by_scenario)
    rows: list[tuple[Any, ...]] = [
        (view, found.overall, *(found.by_scenario[name] for name in scenarios))
        for view, found in scores.items()
    ]
    columns = ("view", "overall", *scenarios)
    return Table(title="Ego-Exo4D proficiency", columns=columns, rows=tuple(rows), decimals=3)
