"""The benchmarks whose questions are `Item`s, as suites: readers and scorings by name."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tgvlm_jax.evaluation import long_video_items as long
from tgvlm_jax.evaluation import prompts, tempcompass
from tgvlm_jax.evaluation import reasoning_items as reasoning
from tgvlm_jax.evaluation.etbench_answers import DELIMITER
from tgvlm_jax.evaluation.etbench_captioning import CaptionScorers
from tgvlm_jax.evaluation.item_rules import lettered
from tgvlm_jax.evaluation.items import Item, Scoring, score_items
from tgvlm_jax.evaluation.records import Fields, Loaded
from tgvlm_jax.evaluation.suite import Question, Scored, Suite, records_of

Paths = Sequence[str | Path]
_Read = Callable[[Paths], Loaded[Any]]


_KINDS: dict[str, str] = {
    "choice": "multiple choice",
    "number": "regression",
    "numerical": "numerical",
    "text": "free-form",
}


def _spoken(text: str) -> str:
    """What follows the evidence, of models that ground their answers first (D2VLM 4)."""
    return text.split(DELIMITER)[-1].strip() if DELIMITER in text else text


def _plain(item: Item) -> str:
    """The question, with its options where it does not bring them in its own words."""
    if item.kind != "choice" or all(option in item.question for option in item.options):
        return item.question
    return prompts.plain(item.question, lettered(item.options))


def _suite(
    paths: Paths,
    *,
    title: str,
    read: _Read,
    scorings: Mapping[str, Scoring],
    row_name: Callable[[Fields], str] | None = None,
) -> Suite:
    found = records_of([read(paths)])
    items: list[Item] = [item for item in found if item is not None]
    judged = len(found) - len(items)

    def score(texts: Sequence[str], scoring: str, _: CaptionScorers) -> Scored:
        spoken = [_spoken(text) for text in texts]
        scores = score_items(title, items, spoken, scoring=scorings[scoring])
        notes = [scores.summary()]
        if judged:
            notes.append(f"{judged} questions that only a judge can score are not asked")
        figures = scores.to_json() | {"judged": judged}
        return Scored(tables=scores.tables, notes=tuple(notes), figures=figures)

    return Suite(
        title=title,
        scorings=tuple(scorings),
        questions=[
            Question(
                name=item.name,
                video=item.video,
                text=item.prompt,
                plain=_plain(item),
                kind=_KINDS.get(item.kind, "asked"),
            )
            for item in items
        ],
        captions=False,
        row_name=row_name,
        scorer=score,
    )


def _each(read: Callable[[Any], Loaded[Any]]) -> _Read:
    """A reader of several files out of one of a single file."""

    def several(paths: Paths) -> Loaded[Any]:
        loaded = [read(path) for path in paths]
        return Loaded(
            records=[record for one in loaded for record in one.records],
            problems=[problem for one in loaded for problem in one.problems],
        )

    return several


def _of(
    title: str, read: _Read, scorings: Mapping[str, Scoring], row: str | None = None
) -> Callable[[Paths], Suite]:
    row_name = None if row is None else lambda fields: str(fields.any(row))
    return functools.partial(_suite, title=title, read=read, scorings=scorings, row_name=row_name)


ITEM_SUITES: dict[str, Callable[[Paths], Suite]] = {
    "vsibench": _of("VSI-Bench", _each(reasoning.read_vsibench), reasoning.VSIBENCH, "id"),
    "videommmu": _of("VideoMMMU", _each(reasoning.read_videommmu), reasoning.VIDEOMMMU),
    "mmvu": _of("MMVU", _each(reasoning.read_mmvu), reasoning.MMVU, "id"),
    "vcrbench": _of("VCR-Bench", _each(reasoning.read_vcrbench), reasoning.VCRBENCH, "id"),
    "tempcompass": _of("TempCompass", tempcompass.read_tempcompass, tempcompass.SCORINGS),
    "videor1": _of("Video-R1's files", _each(reasoning.read_videor1), reasoning.VIDEOR1_FILES),
    "mlvu": _of("MLVU", _each(long.read_mlvu), long.MLVU),
    "egoschema": _of("EgoSchema", long.read_egoschema, long.EGOSCHEMA),
    "lvbench": _of("LVBench", _each(long.read_lvbench), long.LVBENCH),
    "longvideobench": _of(
        "LongVideoBench", _each(long.read_longvideobench), long.LONGVIDEOBENCH, "id"
    ),
}
