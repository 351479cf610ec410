"""MVBench and Video-MME: what the published scripts read from an answer, accuracy by task.

    questions = read_videomme("videomme.json").records
    print(score_videomme(questions, answers).text())

Both scripts have quirks that are part of published figures: MVBench counts an empty answer and a
lone "(" as right, Video-MME leaves answers without a letter out of the denominator and reads
"Because" as B. D2VLM's copies delete "</evi>" first, which changes nothing for other models.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tgvlm_jax.evaluation.records import Fields, Loaded, read_json, read_records
from tgvlm_jax.text.tables import Table
from tgvlm_jax.types import InputError

LETTERS = "ABCDEFGHIJKLMN"
_EVIDENCE_END = "</evi>"

# Deleted wherever they occur, in this order. The fifth is two phrases run together, as published.
_VIDEOMME_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:",
    "Best option: ",
    "Answer:",
    "Option:",
    "The correct answer",
    "The correct option",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MvbenchQuestion:
    """One question of MVBench.

    Attributes:
        answer: index of the right candidate. bounds: seconds of the clip, None for the whole video.
    """

    task: str
    video: str
    question: str
    candidates: tuple[str, ...]
    answer: int
    bounds: tuple[float, float] | None

    @property
    def gold(self) -> str:
        """The right candidate as the script compares it: "(A) text"."""
        return f"({LETTERS[self.answer]}) {self.candidates[self.answer]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideommeQuestion:
    """One question of Video-MME.

    Attributes:
        name: its id. file: the video's file without its ending.
        duration: short, medium or long. answer: a letter.
    """

    name: str
    file: str
    video: str
    duration: str
    domain: str
    sub_category: str
    task_type: str
    question: str
    options: tuple[str, ...]
    answer: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceResult:
    """Accuracy in percent.

    Attributes:
        overall: of all counted answers. tables: by task and other groups. unread: answers that the
            script leaves out of the denominator.
    """

    benchmark: str
    overall: float
    tables: tuple[Table, ...]
    unread: int

    def text(self) -> str:
        """All tables and the overall accuracy."""
        return "\n\n".join([*(table.text() for table in self.tables), self.summary()])

    def summary(self) -> str:
        """The overall accuracy, in one line."""
        return f"{self.benchmark} overall: {self.overall:.2f}%; answers not counted: {self.unread}"

    def to_json(self) -> dict[str, Any]:
        """Every figure."""
        tables = {table.title: table.to_json() for table in self.tables}
        return {
            "benchmark": self.benchmark,
            "overall": self.overall,
            "unread": self.unread,
            "tables": tables,
        }


def read_mvbench(path: str | os.PathLike[str]) -> Loaded[MvbenchQuestion]:
    """Reads one of the 20 annotation files; its name is the task.

    Raises:
        InputError: the file cannot be read. What is wrong with single records is in the result.
    """
    task = Path(path).stem

    def read(fields: Fields) -> MvbenchQuestion:
        candidates = fields.texts("candidates")
        answer = fields.choice("answer", candidates)
        bounded = "start" in fields.row and "end" in fields.row
        return MvbenchQuestion(
            task=task,
            video=fields.word("video"),
            question=fields.word("question"),
            candidates=tuple(candidates),
            answer=candidates.index(answer),
            bounds=(fields.number("start"), fields.number("end")) if bounded else None,
        )

    return read_records(path, read_json(path), read=read)


def read_videomme(path: str | os.PathLike[str]) -> Loaded[VideommeQuestion]:
    """Reads a JSON list of questions, one record a question; raises what `read_mvbench` raises."""

    def read(fields: Fields) -> VideommeQuestion:
        options = fields.texts("options")
        if len(options) != 4:
            raise fields.problem(f"'options' must be 4, found {len(options)}")
        return VideommeQuestion(
            name=fields.word("question_id"),
            file=fields.word("videoID" if "videoID" in fields.row else "video_id"),
            video=fields.word("video_id"),
            duration=fields.choice("duration", ("short", "medium", "long")),
            domain=fields.word("domain"),
            sub_category=fields.word("sub_category"),
            task_type=fields.word("task_type"),
            question=fields.word("question"),
            options=tuple(options),
            answer=fields.choice("answer", "ABCD"),
        )

    return read_records(path, read_json(path), read=read)


def mvbench_right(answer: str, gold: str) -> bool:
    """MVBench: whether the first word of an answer and "(a)" contain each other.

    Args:
        answer: what the model said. gold: "(A) text".
    """
    option = answer.replace(_EVIDENCE_END, "").lower().split(" ")[0].replace(".", "")
    truth = gold.lower().split(" ")[0]
    return option in truth or truth in option


def mvbench_right_timechat(answer: str, gold: str) -> bool:
    """TimeChat's variant: what stands in the first parentheses; without any it is option A."""
    _, parenthesis, rest = answer.lower().partition("(")
    option = rest.partition(")")[0] if parenthesis else "a"
    return f"({option})" == gold.lower().split(" ")[0]


def videomme_letter(answer: str) -> str:
    """Video-MME: the first capital A to D before the first period; "" where there is none."""
    text = answer.replace(_EVIDENCE_END, "").strip()
    for prefix in _VIDEOMME_PREFIXES:
        text = text.replace(prefix, "")
    found = re.search("[ABCD]", text.split(".")[0])
    return found[0] if found else ""


def score_mvbench(
    questions: Sequence[MvbenchQuestion],
    answers: Sequence[str],
    *,
    right: Callable[[str, str], bool] = mvbench_right,
) -> ChoiceResult:
    """Accuracy of each task and of all questions; raises InputError on unequal numbers."""
    golds = [(question.task, question.gold) for question in questions]
    return mvbench_accuracy(golds, answers, right=right)


def mvbench_accuracy(
    golds: Sequence[tuple[str, str]],
    answers: Sequence[str],
    *,
    right: Callable[[str, str], bool] = mvbench_right,
) -> ChoiceResult:
    """`score_mvbench` of (task, "(A) text") pairs, as results files hold them."""
    _as_many(golds, answers)
    groups: dict[str, list[bool]] = {}
    for (task, gold), answer in zip(golds, answers, strict=True):
        groups.setdefault(task, []).append(right(answer, gold))
    everything = [hit for hits in groups.values() for hit in hits]
    return ChoiceResult(
        benchmark="MVBench",
        overall=_percent(everything),
        tables=(_table("MVBench", "task", groups),),
        unread=0,
    )


def score_videomme(
    questions: Sequence[VideommeQuestion],
    answers: Sequence[str],
    *,
    letter: Callable[[str], str] = videomme_letter,
) -> ChoiceResult:
    """Accuracy by duration, domain, sub-category and task, over answers that name a letter.

    Raises:
        InputError: not one answer a question, or no questions.
    """
    _as_many(questions, answers)
    letters = [letter(answer) for answer in answers]
    read = [(q, found == q.answer) for q, found in zip(questions, letters, strict=True) if found]
    parts = {"": read}
    for length in ("short", "medium", "long"):
        parts[f", {length}"] = [(q, hit) for q, hit in read if q.duration == length]
    tables = [_by(read, "duration", "Video-MME by duration")]
    for suffix, part in parts.items():
        for field in ("domain", "sub_category", "task_type"):
            title = f"Video-MME by {field.replace('_', ' ')}{suffix}"
            tables.append(_by(part, field, title))
    return ChoiceResult(
        benchmark="Video-MME",
        overall=_percent([hit for _, hit in read]),
        tables=tuple(tables),
        unread=len(questions) - len(read),
    )


def _as_many(questions: Sequence[Any], answers: Sequence[str]) -> None:
    if len(questions) != len(answers) or not questions:
        raise InputError(f"one answer a question is needed: {len(answers)} for {len(questions)}")


def _by(read: Sequence[tuple[VideommeQuestion, bool]], field: str, title: str) -> Table:
    groups: dict[str, list[bool]] = {}
    for question, hit in read:
        groups.setdefault(getattr(question, field), []).append(hit)
    return _table(title, field, groups)


def _table(title: str, name: str, groups: Mapping[str, Sequence[bool]]) -> Table:
    rows = tuple((group, _percent(hits), len(hits)) for group, hits in groups.items())
    return Table(title=title, columns=(name, "accuracy", "answers"), rows=rows, decimals=2)


def _percent(hits: Sequence[bool]) -> float:
    return 100 * sum(hits) / len(hits) if hits else 0.0
