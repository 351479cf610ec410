"""The benchmarks of `tgvlm eval --benchmark`: questions out of files, scores out of answers.

    suite = open_suite("charades", ["charades_sta_test.txt"])
    answers = read_answers("answers.jsonl", suite)
    print(suite.score(answers, scoring="papers", scorers=scorers).text())

A new one is a function from its files to a `Suite` and an entry in `SUITES`.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, get_args

from tgvlm_jax.evaluation import (
    charades,
    choice_rules,
    choices,
    etbench,
    prompts,
    viubench,
    youcook2,
)
from tgvlm_jax.evaluation.etbench_answers import DELIMITER, ScriptAborts, events, spans
from tgvlm_jax.evaluation.etbench_captioning import CaptionScorers
from tgvlm_jax.evaluation.etbench_data import CHOICE, read_etbench
from tgvlm_jax.evaluation.etbench_grounding import Variant
from tgvlm_jax.evaluation.records import Fields, Loaded, Span, read_json, read_json_lines
from tgvlm_jax.text.tables import Table
from tgvlm_jax.types import InputError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What a model is asked.

    Attributes:
        name: identifies the question in its benchmark. video: path below the folder of videos.
        text: the prompt, with one `<evi>` for each of `sources` (seconds).
        bounds: seconds of the clip; None for the whole video.
        choice: whether options are given, for which D2VLM decodes with a repetition penalty.
    """

    name: str
    video: str
    text: str
    sources: tuple[Span, ...] = ()
    bounds: Span | None = None
    choice: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of one benchmark: tables, sentences on how they were made, and every figure."""

    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    figures: Mapping[str, Any]

    def text(self) -> str:
        """All of it but the figures, to be printed."""
        return "\n\n".join([*(table.text() for table in self.tables), *self.notes])


Scorer = Callable[[Sequence[str], str, CaptionScorers], Scored]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """One benchmark, read.

    Attributes:
        title: for people. scorings: what `score` accepts, the default first.
        questions: in the order of the files. captions: whether captions or sentences are compared.
        row_name: the name of the question that a record of the usual results file answers; None
            where there is no such file.
        changed: whether videos are changed before they are shown, so that files of them do not do.
    """

    title: str
    scorings: tuple[str, ...]
    questions: Sequence[Question]
    captions: bool
    row_name: Callable[[Fields], str] | None
    scorer: Scorer
    changed: bool = False

    def check(self, scoring: str | None) -> str:
        """The scoring, by default the first; raises InputError where there is none such."""
        chosen = self.scorings[0] if scoring is None else scoring
        if chosen not in self.scorings:
            raise InputError(
                f"{self.title} has no scoring {chosen!r}; choose {', '.join(self.scorings)}"
            )
        return chosen

    def score(
        self, answers: Mapping[str, str], *, scoring: str | None, scorers: CaptionScorers
    ) -> Scored:
        """Scores answers by the name of their question; without an answer it is empty.

        Raises:
            InputError: there is no such scoring, or nothing that it can be divided by.
        """
        chosen = self.check(scoring)
        texts = [answers.get(question.name, "") for question in self.questions]
        found = self.scorer(texts, chosen, scorers)
        missing = sum(question.name not in answers for question in self.questions)
        notes = [f"scoring: {chosen}; questions: {len(texts)}, without an answer: {missing}"]
        figures = {"scoring": chosen, "questions": len(texts), "unanswered": missing}
        return dataclasses.replace(
            found, notes=(*notes, *found.notes), figures=figures | dict(found.figures)
        )


def open_suite(name: str, paths: Sequence[str | Path]) -> Suite:
    """Reads the annotation files of a benchmark.

    Raises:
        InputError: no such benchmark; a file cannot be read; or a record is bad, which is named,
            with the number of further ones.
    """
    if name not in SUITES:
        raise InputError(f"no such benchmark: {name!r}; choose {', '.join(SUITES)}")
    suite = SUITES[name](paths)
    if not suite.questions:
        raise InputError(f"{', '.join(map(str, paths))}: no questions in there")
    counts = collections.Counter(question.name for question in suite.questions)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise InputError(f"{paths[0]}: {len(twice)} questions occur twice, the first is {twice[0]}")
    return suite


def read_answers(path: str | Path, suite: Suite) -> dict[str, str]:
    """Answers by question: JSON lines of `question` and `answer`, or the usual results file.

    The latter is a JSON list of the benchmark's own records with the answer in `a`.

    Raises:
        InputError: the file, or a record that is named, is not that, or answers no question of
            the suite.
    """
    lines = str(path).endswith(".jsonl")
    rows = read_json_lines(path) if lines else read_json(path)
    if not isinstance(rows, list):
        raise InputError(f"{path}: must hold a list of records with answers")
    known = {question.name for question in suite.questions}
    found: dict[str, str] = {}
    for number, row in enumerate(rows):
        fields = Fields(row, where=f"{path}: {'line' if lines else 'record'} {number + lines}")
        if lines:
            name, answer = fields.text("question"), fields.text("answer")
        elif suite.row_name is None:
            raise InputError(f"{path}: {suite.title} takes answers as JSON lines (.jsonl)")
        else:
            name, answer = suite.row_name(fields), fields.text("a")
        if name not in known:
            raise fields.problem(f"answers {name!r}, which no annotation file asks")
        found[name] = answer
    return found


def answer_line(question: Question, answer: str) -> str:
    """One line of an answers file."""
    return json.dumps({"question": question.name, "answer": answer}, ensure_ascii=False)


def _all(paths: Sequence[str | Path], read: Callable[[Any], Loaded[T]]) -> list[T]:
    loaded = [read(path) for path in paths]
    problems = [problem for one in loaded for problem in one.problems]
    if problems:
        more = f" (and {len(problems) - 1} more bad records)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}")
    return [record for one in loaded for record in one.records]


# ----------------------------------------------------------------------------- E.T. Bench


def _etbench(paths: Sequence[str | Path]) -> Suite:
    samples = _all(paths, lambda path: read_etbench(path, answered=False))

    def score(texts: Sequence[str], scoring: Any, scorers: CaptionScorers) -> Scored:
        pairs = zip(samples, texts, strict=True)
        answered = [dataclasses.replace(sample, answer=text) for sample, text in pairs]
        found = etbench.score_etbench(answered, scoring, scorers=scorers)
        return Scored(tables=tuple(found.tables()), notes=(found.made(),), figures=found.to_json())

    return Suite(
        title="E.T. Bench",
        scorings=("new", *(name for name in get_args(Variant) if name != "new")),
        questions=[
            Question(
                name=f"{sample.task}/{sample.source}/{sample.index}",
                video=sample.video,
                text=sample.question,
                sources=sample.sources,
                choice=sample.task in CHOICE,
            )
            for sample in samples
        ],
        captions=True,
        row_name=lambda row: f"{row.word('task')}/{row.word('source')}/{row.integer('idx')}",
        scorer=score,
    )


# ------------------------------------------------------------------- Charades-STA, YouCook2


def _charades(paths: Sequence[str | Path]) -> Suite:
    queries = _all(paths, charades.read_charades)
    asked = [prompts.moment(query.sentence) for query in queries]

    def score(texts: Sequence[str], scoring: str, _: CaptionScorers) -> Scored:
        if scoring == "videossr":
            truths = [f"{start}-{end}" for start, end in (query.span for query in queries)]
            found = charades.score_videossr(texts, truths)
        elif scoring == "d2vlm":
            answers = [
                charades.CharadesAnswer(
                    index=i, video=query.video, question=asked[i], answer=texts[i], indexed=True
                )
                for i, query in enumerate(queries)
            ]
            found = charades.score_d2vlm(queries, charades.d2vlm_submission(answers))
        else:
            found = charades.score_charades(queries, [_first_span(text) for text in texts])
        return Scored(tables=(found.table(),), notes=(), figures=found.to_json())

    return Suite(
        title="Charades-STA",
        scorings=("papers", "d2vlm", "videossr"),
        questions=[
            Question(name=str(i), video=f"{query.video}.mp4", text=text)
            for i, (query, text) in enumerate(zip(queries, asked, strict=True))
        ],
        captions=False,
        row_name=lambda row: str(row.integer("idx")),
        scorer=score,
    )


def _first_span(text: str) -> Span | None:
    try:
        return (spans(text.split(DELIMITER)[-1], trailing_periods=True) or [None])[0]
    except ScriptAborts:
        return None


def _youcook2(paths: Sequence[str | Path]) -> Suite:
    videos = _all(paths, youcook2.read_youcook2)

    def score(texts: Sequence[str], scoring: str, scorers: CaptionScorers) -> Scored:
        read = _captions if scoring == "d2vlm" else _plain_captions
        pairs = zip(videos, texts, strict=True)
        given = {video.video: read(text) for video, text in pairs}
        found = youcook2.score_youcook2(videos, given, metrics=scorers.metrics)
        return Scored(tables=(found.table(),), notes=(), figures=found.to_json())

    return Suite(
        title="YouCook2",
        scorings=("d2vlm", "timechat"),
        questions=[
            Question(name=video.video, video=video.video, text=prompts.RECIPE) for video in videos
        ],
        captions=True,
        row_name=lambda row: PurePosixPath(row.word("video")).name,
        scorer=score,
    )


def _captions(text: str) -> list[youcook2.Caption]:
    try:
        return youcook2.d2vlm_captions(text)
    except ScriptAborts:
        return []


def _plain_captions(text: str) -> list[youcook2.Caption]:
    found = events(text)
    pairs = zip(found.spans, found.captions, strict=True) if found else ()
    return [youcook2.Caption(span=span, text=caption) for span, caption in pairs]


# ------------------------------------------------------------------------ multiple choice


def _mvbench(paths: Sequence[str | Path]) -> Suite:
    questions = _all(paths, choices.read_mvbench)
    numbers: collections.Counter[str] = collections.Counter()
    asked = []
    for one in questions:
        asked.append(
            Question(
                name=f"{one.task}/{numbers[one.task]}",
                video=one.video,
                text=prompts.options(one.question, one.candidates),
                bounds=one.bounds,
                choice=True,
            )
        )
        numbers[one.task] += 1

    def score(texts: Sequence[str], scoring: str, _: CaptionScorers) -> Scored:
        rules = {"official": choices.mvbench_right, "timechat": choices.mvbench_right_timechat}
        return _chosen(choices.score_mvbench(questions, texts, right=rules[scoring]))

    return Suite(
        title="MVBench",
        scorings=("official", "timechat"),
        questions=asked,
        captions=False,
        row_name=None,
        scorer=score,
    )


def _videomme(paths: Sequence[str | Path]) -> Suite:
    questions = _all(paths, choices.read_videomme)

    def score(texts: Sequence[str], scoring: str, _: CaptionScorers) -> Scored:
        rules = {"official": choices.videomme_letter, "lmms-eval": choice_rules.lmms_eval_letter}
        # lmms-eval counts what it cannot read as wrong, the official script not at all.
        unread = "" if scoring == "official" else "?"
        letter = rules[scoring]
        return _chosen(
            choices.score_videomme(questions, texts, letter=lambda text: letter(text) or unread)
        )

    return Suite(
        title="Video-MME",
        scorings=("official", "lmms-eval"),
        questions=[
            Question(
                name=one.name,
                video=f"{one.file}.mp4",
                text=prompts.lettered_options(one.question, one.options),
                choice=True,
            )
            for one in questions
        ],
        captions=False,
        row_name=lambda row: row.word("question_id"),
        scorer=score,
    )


def _chosen(found: choices.ChoiceResult) -> Scored:
    return Scored(tables=found.tables, notes=(found.summary(),), figures=found.to_json())


# ------------------------------------------------------------------------------- VIUBench


def _viubench(paths: Sequence[str | Path]) -> Suite:
    questions = _all(paths, viubench.read_viubench)

    def score(texts: Sequence[str], scoring: Any, _: CaptionScorers) -> Scored:
        found = viubench.score_viubench(questions, texts, scoring=scoring)
        about = "A constant answer is the best there is for these questions; of a jigsaw, as shown."
        return Scored(tables=found.tables(), notes=(about,), figures=found.to_json())

    return Suite(
        title="VIUBench",
        scorings=get_args(viubench.Scoring),
        questions=[Question(name=one.id, video=one.video, text=one.question) for one in questions],
        captions=False,
        row_name=None,
        scorer=score,
        changed=True,
    )


SUITES: dict[str, Callable[[Sequence[str | Path]], Suite]] = {
    "etbench": _etbench,
    "charades": _charades,
    "youcook2": _youcook2,
    "mvbench": _mvbench,
    "videomme": _videomme,
    "viubench": _viubench,
}
