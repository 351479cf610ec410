"""TempCompass: the same videos asked about in four ways, of which three have rules.

Multiple choice, yes or no, and caption matching are scored by matching; an answer that no rule
reads would go to a language model and scores 0 here, as in the released scripts with that model
switched off. Captioning is always judged, so its file is refused.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tgvlm_jax.evaluation import choice_rules, prompts
from tgvlm_jax.evaluation.items import Item, Kind, Scoring
from tgvlm_jax.evaluation.records import Fields, Loaded, read_json, read_rows
from tgvlm_jax.types import InputError

_TASKS: dict[str, Kind] = {
    "multi-choice": "choice",
    "yes_no": "yes_no",
    "caption_matching": "caption",
}
_META = "meta_info"
DIMENSIONS = ("action", "direction", "speed", "order", "attribute_change")


def read_tempcompass(paths: Sequence[str | os.PathLike[str]]) -> Loaded[Item]:
    """Reads multi-choice.json, yes_no.json, caption_matching.json, by their names.

    Each is {video: {dimension: [{question, answer}]}}, options and captions in the question's
    lines. With meta_info.json among them there is a table by finer types too. Videos are VIDEO.mp4.

    Raises:
        InputError: a file cannot be read, or is none of these. What is wrong with single records
            is in the result.
    """
    types: dict[tuple[str, str], str] = {}
    rows: list[tuple[str, Any]] = []
    for path in paths:
        stem = Path(path).stem
        if stem == _META:
            types |= _fine_types(path)
        elif stem == "captioning":
            raise InputError(f"{path}: captions can only be scored by a judge; leave the file out")
        elif stem not in _TASKS:
            raise InputError(f"{path}: its name must be one of {', '.join((*_TASKS, _META))}")
        else:
            rows += _rows(path, stem)
    return read_rows(rows, read=lambda row: _item(row, types))


def _fine_types(path: str | os.PathLike[str]) -> dict[tuple[str, str], str]:
    found = {}
    for video, about in Fields(read_json(path), where=str(path)).row.items():
        dimensions = Fields(about, where=f"{path}: {video}").inside("eval_dim")
        for dimension, inside in dimensions.row.items():
            # null where a video is not asked about a dimension
            if isinstance(inside, dict) and isinstance(inside.get("type"), str):
                found[video, dimension] = inside["type"]
    return found


def _rows(path: str | os.PathLike[str], task: str) -> Iterator[tuple[str, Any]]:
    for video, inside in Fields(read_json(path), where=str(path)).row.items():
        dimensions = Fields(inside, where=f"{path}: {video}")
        for dimension in dimensions.row:
            for number, row in enumerate(dimensions.items(dimension)):
                named = {"task": task, "video": video, "dimension": dimension, "number": number}
                yield f"{path}: {video}/{dimension}/{number}", named | {"row": row}


def _item(named: Fields, types: dict[tuple[str, str], str]) -> Item:
    row = Fields(named.any("row"), where=named.where)
    task, video = named.text("task"), named.text("video")
    dimension = named.choice("dimension", DIMENSIONS)
    question, answer = row.word("question").strip(), row.word("answer").strip()
    constants = _constants(row, _TASKS[task], question, answer)
    groups = {"task": (task,), "dimension": (dimension,)}
    groups["task and dimension"] = (f"{task}, {dimension}",)
    if (video, dimension) in types:
        groups["type"] = (types[video, dimension],)
    ask = {
        "choice": lambda text: prompts.lettered_options(text, []),
        "yes_no": prompts.yes_no,
        "caption": prompts.labelled_options,
    }[_TASKS[task]]
    return Item(
        name=f"{task}/{video}/{dimension}/{named.integer('number')}",
        video=f"{video}.mp4",
        prompt=ask(question),
        question=question,
        answer=answer,
        kind=_TASKS[task],
        groups=groups,
        constants=constants,
    )


def _constants(row: Fields, kind: Kind, question: str, answer: str) -> tuple[str, ...]:
    """What may be answered; raises InputError where the true answer is none of it."""
    if kind == "yes_no":
        if answer not in ("yes", "no"):
            raise row.problem(f"'answer' must be yes or no, found {answer!r}")
        return "yes", "no"
    lines = [line.strip() for line in question.split("\n")[1:]]
    if kind == "caption":
        labels = tuple(line.partition(": ")[0] for line in lines)
        answer = answer.partition(": ")[0]
    else:
        labels = tuple(line[0] for line in lines if re.match(r"[A-D]\.", line))
        answer = answer[0]
    if answer not in labels:
        raise row.problem(f"'answer' must begin like an option of the question, found {answer!r}")
    return labels


def _mark(item: Item, text: str) -> float:
    if item.kind == "yes_no":
        return float(choice_rules.tempcompass_yes_no(text) == item.answer)
    if item.kind == "caption":
        return float(bool(choice_rules.tempcompass_caption(text, item.question, item.answer)))
    return float(bool(choice_rules.tempcompass_letter(text, item.answer)))


def _tagged(item: Item, text: str) -> float:
    """Video-R1 has the multiple choice only; the other two by the benchmark's own rule."""
    if item.kind == "choice":
        return float(choice_rules.videor1_right(text, item.answer[0]))
    return _mark(item, choice_rules.tagged_answer(text) or text)


SCORINGS = {
    "official": Scoring(rule=_mark),
    "videor1": Scoring(rule=_tagged),
}
