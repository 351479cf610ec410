"""What a benchmark is, whichever it is: questions, a scorer, and answers to be scored."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tgvlm_jax.evaluation.etbench_captioning import CaptionScorers
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
        plain: the question and its options alone, for a run that has an instruction of its own on
            how to answer (`data.instruction`). kind: its type, as that instruction knows it.
    """

    name: str
    video: str
    text: str
    sources: tuple[Span, ...] = ()
    bounds: Span | None = None
    choice: bool = False
    plain: str = ""
    kind: str = "asked"


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


def read_answers(path: str | Path, suite: Suite) -> dict[str, str]:
    """Answers by question: JSON lines of `question` and `answer`, or the usual results file.

    The latter is a JSON list of the benchmark's own records with the answer in `a`. Further fields
    are not looked at, such as the turns that came before an answer.

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


def read_all(paths: Sequence[str | Path], read: Callable[[Any], Loaded[T]]) -> list[T]:
    """Records of all files; raises InputError for the first bad one, with the number of others."""
    return records_of([read(path) for path in paths])


def records_of(loaded: Sequence[Loaded[T]]) -> list[T]:
    """Like `read_all`, of what has been read."""
    problems = [problem for one in loaded for problem in one.problems]
    if problems:
        more = f" (and {len(problems) - 1} more bad records)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}")
    return [record for one in loaded for record in one.records]
