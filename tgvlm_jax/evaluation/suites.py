"""The benchmarks of `tgvlm eval --benchmark`: questions out of files, scores out of answers.

    suite = open_suite("charades", ["charades_sta_test.txt"])
    answers = read_answers("answers.jsonl", suite)
    print(suite.score(answers, scoring="papers", scorers=scorers).text())

A new one is a function from its files to a `Suite` and an entry in `SUITES`; where questions have
letters or numbers for answers, a reader and a table of scorings in `item_suites.py` will do.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, get_args

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
from tgvlm_jax.evaluation.item_suites import ITEM_SUITES
from tgvlm_jax.evaluation.records import Span
from tgvlm_jax.evaluation.suite import Question, Scored, Suite, read_all
from tgvlm_jax.types import InputError


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


# ----------------------------------------------------------------------------- E.T. Bench


def _etbench(paths: Sequence[str | Path]) -> Suite:
    samples = read_all(paths, lambda path: read_etbench(path, answered=False))

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
    queries = read_all(paths, charades.read_charades)
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
    videos = read_all(paths, youcook2.read_youcook2)

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
    questions = read_all(paths, choices.read_mvbench)
    numbers: collections.Counter[str] = collections.Counter()
    asked = []
    for one in questions:
        asked.append(
            Question(
                name=f"{one.task}/{numbers[one.task]}",
                video=one.video,
                text=prompts.options(one.question, one.candidates),
                plain=prompts.plain(one.question, prompts.letters(one.candidates)),
                kind="multiple choice",
                bounds=one.bounds,
                choice=True,
            )
        )
        numbers[one.task] += 1

    def score(texts: Sequence[str], scoring: str, _: CaptionScorers) -> Scored:
        rules = {
            "official": choices.mvbench_right,
            "timechat": choices.mvbench_right_timechat,
            "videor1": _videor1_right,
        }
        score = functools.partial(choices.score_mvbench, questions, right=rules[scoring])
        letters = choices.LETTERS[: max(len(one.candidates) for one in questions)]
        form = "{}" if scoring == "videor1" else "({})"
        return _chosen(score, texts, [form.format(letter) for letter in letters])

    return Suite(
        title="MVBench",
        scorings=("official", "timechat", "videor1"),
        questions=asked,
        captions=False,
        row_name=None,
        scorer=score,
    )


def _videomme(paths: Sequence[str | Path]) -> Suite:
    questions = read_all(paths, choices.read_videomme)

    def score(texts: Sequence[str], scoring: str, _: CaptionScorers) -> Scored:
        rules = {
            "official": choices.videomme_letter,
            "lmms-eval": choice_rules.lmms_eval_letter,
            "videor1": lambda text: (choice_rules.tagged_answer(text) or text).strip(),
            "videomtr": choice_rules.videomtr_answer,
        }
        # Of these only the official script leaves out what it cannot read.
        unread = "" if scoring == "official" else "?"
        letter = rules[scoring]
        score = functools.partial(
            choices.score_videomme, questions, letter=lambda text: letter(text) or unread
        )
        form = "<think></think><answer>{}</answer>" if scoring == "videomtr" else "{}"
        return _chosen(score, texts, [form.format(letter) for letter in "ABCD"])

    return Suite(
        title="Video-MME",
        scorings=("official", "lmms-eval", "videor1", "videomtr"),
        questions=[
            Question(
                name=one.name,
                video=f"{one.file}.mp4",
                text=prompts.lettered_options(one.question, one.options),
                plain=prompts.plain(one.question, one.options),
                kind="multiple choice",
                choice=True,
            )
            for one in questions
        ],
        captions=False,
        row_name=lambda row: row.word("question_id"),
        scorer=score,
    )


def _videor1_right(text: str, gold: str) -> bool:
    """`gold` is "(A) text"; the answer must be the letter."""
    return choice_rules.videor1_right(text, gold[1])


def _chosen(
    score: Callable[[Sequence[str]], choices.ChoiceResult],
    texts: Sequence[str],
    constants: Sequence[str],
) -> Scored:
    """Scores of the answers, and of the best one that says the same to every question."""
    found = score(texts)
    blind = max(score([constant] * len(texts)).overall for constant in constants)
    notes = (found.summary(), f"best constant answer: {blind:.2f}%")
    return Scored(tables=found.tables, notes=notes, figures=found.to_json() | {"blind": blind})


# ------------------------------------------------------------------------------- VIUBench


def _viubench(paths: Sequence[str | Path]) -> Suite:
    questions = read_all(paths, viubench.read_viubench)

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
    **ITEM_SUITES,
}
