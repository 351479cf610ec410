"""The annotation file of E.T. Bench, with a model's answers in it.

One JSON list of objects; a model adds its response as `a`. The `txt`, `vid` and `evi` flavours
differ in the prompt only. Fields: arXiv 2409.18111 and its published files.
"""

import dataclasses
import os
from typing import Any, Literal, get_args

from tgvlm_jax.evaluation.records import Fields, Loaded, Span, read_json, read_records

Task = Literal["rar", "eca", "rvq", "tvg", "epm", "tal", "evs", "vhd", "dvc", "slc", "tem", "gvq"]
TASKS: tuple[Task, ...] = get_args(Task)

CHOICE: tuple[Task, ...] = ("rar", "eca", "rvq")
CAPTIONING: tuple[Task, ...] = ("dvc", "slc")

_FLAT_SPAN: tuple[Task, ...] = ("tvg", "epm", "gvq")
_OPTION_COUNTS = (4, 5)
_EVIDENCE = "<evi>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EtSample:
    """One sample of E.T. Bench.

    Attributes:
        task, source, index: scores are taken by (task, source); `index` counts within one.
        video: "source/file.mp4"; dense captioning keeps one answer a video. duration: seconds.
        spans: the truth in seconds; for `vhd` of all annotators, one after the other.
        options: of the question; a span as "start - end". option: index of the right one.
        captions: parallel to `spans` (dvc, slc).
        question: the prompt; its `<evi>` stand for `sources`, in seconds.
        answer: what the model said, None before it was asked.
    """

    task: Task
    source: str
    index: int
    video: str
    duration: float
    spans: tuple[Span, ...] = ()
    options: tuple[str, ...] = ()
    option: int = 0
    captions: tuple[str, ...] = ()
    question: str
    sources: tuple[Span, ...] = ()
    answer: str | None = None


def read_etbench(path: str | os.PathLike[str], *, answered: bool = True) -> Loaded[EtSample]:
    """Reads an annotation file, or with `answered` a file of predictions, which holds answers too.

    Raises:
        InputError: the file cannot be read or holds no list. What is wrong with single records is
            in the result.
    """
    return read_records(path, read_json(path), read=lambda fields: _sample(fields, answered))


def _sample(fields: Fields, answered: bool) -> EtSample:
    task: Any = fields.choice("task", TASKS)
    options = _options(fields) if task in (*CHOICE, "gvq") else ()
    spans = () if task in CHOICE else _spans(fields, task)
    captions = tuple(fields.texts("g")) if task in CAPTIONING else ()
    if task in CAPTIONING and len(captions) != len(spans):
        raise fields.problem(f"'g' has {len(captions)} captions for {len(spans)} spans in 'tgt'")
    return EtSample(
        task=task,
        source=fields.word("source"),
        index=fields.integer("idx"),
        video=fields.word("video"),
        duration=fields.number("duration"),
        spans=spans,
        options=options,
        option=fields.index("p", len(options)) if options else 0,
        captions=captions,
        question=fields.text("q"),
        sources=_sources(fields),
        answer=fields.text("a") if answered else None,
    )


def _sources(fields: Fields) -> tuple[Span, ...]:
    """The intervals of `<evi>`; the other flavours have their times in words, or `<vid>`."""
    count = fields.text("q").count(_EVIDENCE)
    if not count:
        return ()
    numbers = fields.items("src")
    if len(numbers) == 1:  # a moment
        numbers = numbers * 2
    if len(numbers) != 2 * count:
        raise fields.problem(f"'src' has {len(numbers)} numbers for {count} {_EVIDENCE} in 'q'")
    pairs = [list(pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    return tuple(Fields({"src": pairs}, where=fields.where).spans("src"))


def _options(fields: Fields) -> tuple[str, ...]:
    options = fields.items("o")
    if len(options) not in _OPTION_COUNTS:
        raise fields.problem(f"'o' must have 4 or 5 options, found {len(options)}")
    return tuple(_option(option, fields) for option in options)


def _option(option: Any, fields: Fields) -> str:
    if isinstance(option, str):
        return option
    Fields({"o": option}, where=fields.where).span("o")
    return f"{option[0]} - {option[1]}"  # numbers as the file writes them: they are compared


def _spans(fields: Fields, task: Task) -> tuple[Span, ...]:
    if task in _FLAT_SPAN:
        return (fields.span("tgt"),)
    if task != "vhd":
        return tuple(fields.spans("tgt"))
    nested: list[Any] = []
    for item in fields.items("tgt"):
        deeper = isinstance(item, list) and item and isinstance(item[0], list)
        nested += item if deeper else [item]
    return tuple(Fields({"tgt": nested}, where=fields.where).spans("tgt"))
