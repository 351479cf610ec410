"""MLVU, EgoSchema, LVBench and LongVideoBench: multiple choice about long videos.

Each reader takes the annotation files as they are released. Video-MTR reports all four by its own
rule, in which the last turn of a trajectory must have its form and name the letter ("videomtr").
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tgvlm_jax.evaluation import choice_rules, prompts
from tgvlm_jax.evaluation.item_rules import LMMS_EVAL, VIDEOMTR, lettered, letters_of
from tgvlm_jax.evaluation.items import LETTERS, Item, Scoring
from tgvlm_jax.evaluation.records import Fields, Loaded, read_json, read_list, read_rows
from tgvlm_jax.types import InputError

_FilePath = str | os.PathLike[str]

# ---------------------------------------------------------------------------------- MLVU


def read_mlvu(path: _FilePath) -> Loaded[Item]:
    """Reads one of MLVU's files of multiple choice, of the dev or the test set.

    Rows have video, question, candidates, answer (the text of a candidate) and question_type; those
    of the test set question_id as well. Videos of the dev set lie in a folder named like the file
    (1_plotQA.json, 1_plotQA/), as released.

    Raises:
        InputError: the file cannot be read. What is wrong with single records is in the result.
    """
    stem = Path(path).stem
    rows = [
        (where, {"number": number, "row": row})
        for number, (where, row) in enumerate(read_list(path))
    ]
    return read_rows(rows, read=lambda row: _mlvu(row, stem))


def _mlvu(named: Fields, stem: str) -> Item:
    row = Fields(named.any("row"), where=named.where)
    if "candidates" not in row.row:
        raise row.problem("has no 'candidates': only a judge can score it; leave this file out")
    options = row.texts("candidates")
    letters = letters_of(row, options)
    test = "question_id" in row.row
    question, video = row.word("question"), row.word("video")
    return Item(
        name=row.word("question_id") if test else f"{stem}/{named.integer('number')}",
        video=video if test else f"{stem}/{video}",
        prompt=prompts.options(question, options),
        question=question,
        options=tuple(options),
        answer=letters[options.index(row.choice("answer", options))],
        kind="choice",
        groups={"type": (row.word("question_type"),)},
        constants=tuple(letters),
    )


def _mlvu_mark(item: Item, text: str) -> float:
    return float(choice_rules.mlvu_right(text, f"({item.answer})"))


# Its M-Avg counts types alike; Video-MTR and lmms-eval's letters are counted by question.
MLVU = {
    "official": Scoring(rule=_mlvu_mark, over=("type",)),
    "lmms-eval": Scoring(rule=LMMS_EVAL.rule, over=("type",)),
    "videomtr": VIDEOMTR,
}

# ----------------------------------------------------------------------------- EgoSchema


def read_egoschema(paths: Sequence[_FilePath]) -> Loaded[Item]:
    """Reads EgoSchema: questions.json and subset_answers.json, or rows that hold their answers.

    Questions have q_uid, question and "option 0" to "option 4"; answers are {q_uid: 0..4}, and what
    has none is not asked. The other form has video_idx, question, option and answer. Videos are
    UID.mp4. Raises what `read_mlvu` raises, and InputError without any answers.
    """
    answers: dict[str, Any] = {}
    rows: list[tuple[str, Any]] = []
    for path in paths:
        whole = read_json(path) if not str(path).endswith(".jsonl") else None
        if isinstance(whole, dict):
            answers |= whole
        else:
            rows += read_list(path)
    public = [(where, _answered(row, answers)) for where, row in rows]
    kept = [(where, row) for where, row in public if not isinstance(row, dict) or "answer" in row]
    if rows and not kept:
        raise InputError(f"{paths[0]}: has no answers; add subset_answers.json to the files")
    return read_rows(kept, read=_egoschema)


def _answered(row: Any, answers: dict[str, Any]) -> Any:
    known = isinstance(row, dict) and row.get("q_uid") in answers
    return row | {"answer": answers[row["q_uid"]]} if known else row


def _egoschema(row: Fields) -> Item:
    name = row.word("q_uid" if "q_uid" in row.row else "video_idx")
    listed = "option" in row.row
    options = row.texts("option") if listed else [row.word(f"option {i}") for i in range(5)]
    if len(options) != 5:
        raise row.problem(f"needs 5 options, found {len(options)}")
    answer, question = str(row.any("answer")).strip(), row.word("question")
    if answer not in tuple("01234"):
        raise row.problem(f"'answer' must be in 0..4, found {answer!r}")
    return Item(
        name=name,
        video=f"{name}.mp4",
        prompt=prompts.lettered_options(question, lettered(options)),
        question=question,
        options=tuple(options),
        answer=LETTERS[int(answer)],
        kind="choice",
        groups={"set": ("public subset",)},
        constants=tuple(LETTERS[:5]),
    )


EGOSCHEMA = {"lmms-eval": LMMS_EVAL, "videomtr": VIDEOMTR}

# ------------------------------------------------------------------------------- LVBench


def read_lvbench(path: _FilePath) -> Loaded[Item]:
    """Reads LVBench's video_info.meta.jsonl: a video a line, with its questions in `qa`.

    A question's lines "(A) ..." are its options; it may be of several types. Videos are KEY.mp4.
    Raises what `read_mlvu` raises.
    """
    rows = []
    for where, line in read_list(path):
        video = Fields(line, where=where)
        about = {"key": video.word("key"), "type": video.word("type")}
        for number, row in enumerate(video.items("qa")):
            rows.append((f"{where}, question {number}", about | {"row": row}))
    return read_rows(rows, read=_lvbench)


def _lvbench(named: Fields) -> Item:
    row = Fields(named.any("row"), where=named.where)
    question, types = row.word("question"), row.texts("question_type")
    options = tuple(re.findall(r"^\([A-Z]\) ?(.*)$", question, re.MULTILINE))
    letters = letters_of(row, options)
    if not types:
        raise row.problem("'question_type' is empty")
    return Item(
        name=str(row.any("uid")),
        video=f"{named.text('key')}.mp4",
        prompt=prompts.lettered_options(question, []),
        question=question,
        options=options,
        answer=row.choice("answer", letters),
        kind="choice",
        groups={"question type": tuple(types), "video type": (named.text("type"),)},
        constants=tuple(letters),
    )


def _lvbench_mark(item: Item, text: str) -> float:
    return float(choice_rules.lvbench_letter(text) == item.answer)


LVBENCH = {
    "official": Scoring(rule=_lvbench_mark),
    "lmms-eval": LMMS_EVAL,
    "videomtr": VIDEOMTR,
}

# ------------------------------------------------------------------------ LongVideoBench


def read_longvideobench(path: _FilePath) -> Loaded[Item]:
    """Reads LongVideoBench's lvb_val.json; the answers of its test set are not public.

    Rows have id, video_path, question, candidates (or option0 to option4, "N/A" where there is
    none), correct_choice, duration_group, question_category and level. Subtitles are not shown.
    Raises what `read_mlvu` raises.
    """
    return read_rows(read_list(path), read=_longvideobench)


def _longvideobench(row: Fields) -> Item:
    if "candidates" in row.row:
        options = row.texts("candidates")
    else:
        given = [row.text(f"option{number}") for number in range(5)]
        options = [text for text in given if text != "N/A"]
    letters = letters_of(row, options)
    if "correct_choice" not in row.row:
        raise row.problem("has no 'correct_choice': only the validation set has public answers")
    question = row.word("question")
    return Item(
        name=row.word("id"),
        video=row.word("video_path"),
        prompt=prompts.lettered_options(question, prompts.letters(options)),
        question=question,
        options=tuple(options),
        answer=letters[row.index("correct_choice", len(options))],
        kind="choice",
        groups={
            "duration": (f"up to {row.integer('duration_group')} s",),
            "category": (row.word("question_category"),),
            "level": (row.word("level"),),
        },
        constants=tuple(letters),
    )


def _longvideobench_mark(item: Item, text: str) -> float:
    """The script draws a letter where it reads none; this is what that scores on average."""
    letter = choice_rules.longvideobench_letter(text)
    return float(letter == item.answer) if letter else 1 / len(item.options)


LONGVIDEOBENCH = {
    "official": Scoring(rule=_longvideobench_mark),
    "lmms-eval": LMMS_EVAL,
    "videomtr": VIDEOMTR,
}
