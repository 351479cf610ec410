"""VSI-Bench, VideoMMMU, MMVU, VCR-Bench and the files of Video-R1: questions to be thought about.

Each reader takes one annotation file as it is released. What only a judge could score is None: the
released scorers of MMVU and VCR-Bench ask a language model, VideoP2R scores the multiple choice
among them by the letter.
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from tgvlm_jax.evaluation import choice_rules, number_rules, prompts
from tgvlm_jax.evaluation.item_rules import (
    LMMS_EVAL,
    VIDEOMTR,
    VIDEOR1,
    is_number,
    lettered,
    letters_of,
    videor1,
)
from tgvlm_jax.evaluation.items import Item, Kind, Scoring, with_constants
from tgvlm_jax.evaluation.records import Fields, Loaded, read_json, read_list, read_rows

_FilePath = str | os.PathLike[str]

# ----------------------------------------------------------------------------- VSI-Bench

_DIRECTION = "object_rel_direction"
VSI_CHOICES = (
    *(f"{_DIRECTION}_{level}" for level in ("easy", "medium", "hard")),
    "object_rel_distance",
    "route_planning",
    "obj_appearance_order",
)
VSI_NUMBERS = (
    "object_abs_distance",
    "object_counting",
    "object_size_estimation",
    "room_size_estimation",
)


def read_vsibench(path: _FilePath) -> Loaded[Item]:
    """Reads VSI-Bench's test.jsonl, or a JSON list of its rows.

    The fields are those that lmms-eval reads: id, dataset, scene_name, question_type, question,
    options, ground_truth. Videos are DATASET/SCENE.mp4.

    Raises:
        InputError: the file cannot be read. What is wrong with single records is in the result.
    """
    loaded = read_rows(read_list(path), read=_vsibench)
    return Loaded(records=with_constants(loaded.records, "question type"), problems=loaded.problems)


def _vsibench(row: Fields) -> Item:
    kind = row.choice("question_type", (*VSI_CHOICES, *VSI_NUMBERS))
    question, truth = row.word("question"), row.word("ground_truth").strip()
    groups = {
        "type": (_DIRECTION if kind.startswith(_DIRECTION) else kind,),
        "question type": (kind,),
        "metric": ("MRA" if kind in VSI_NUMBERS else "accuracy",),
        "dataset": (row.word("dataset"),),
    }
    shared: dict[str, Any] = {
        "name": str(row.integer("id")),
        "video": f"{row.word('dataset')}/{row.word('scene_name')}.mp4",
        "question": question,
        "groups": groups,
    }
    if kind in VSI_NUMBERS:
        if not is_number(truth) or truth.startswith("-"):
            raise row.problem(f"'ground_truth' must be a number from 0, found {truth!r}")
        return Item(
            answer=truth.replace(",", ""), kind="number", prompt=prompts.number(question), **shared
        )
    lines = lettered(row.texts("options"))
    letters = letters_of(row, lines)
    return Item(
        answer=row.choice("ground_truth", letters),
        kind="choice",
        prompt=prompts.lettered_options(question, lines),
        options=tuple(lines),
        constants=tuple(letters),
        **shared,
    )


def _vsibench_mark(item: Item, text: str) -> float:
    if item.kind == "number":
        return number_rules.vsibench_number(text, item.answer)
    return float(choice_rules.vsibench_right(text, item.answer))


# Directions count once, as the mean of their three levels. VideoP2R: the mean of MRA and accuracy.
VSIBENCH = {
    "official": Scoring(rule=_vsibench_mark, over=("type", "question type")),
    "videor1": Scoring(rule=videor1, over=("metric",)),
}

# ----------------------------------------------------------------------------- VideoMMMU

DISCIPLINES = {
    "Art": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Science": "Biology Chemistry Geography Math Physics",
    "Medicine": "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine "
    "Pharmacy Public_Health",
    "Humanities": "History Literature Sociology Psychology",
    "Engineering": "Agriculture Architecture_and_Engineering Computer_Science Electronics "
    "Energy_and_Power Materials Mechanical_Engineering",
}
_DISCIPLINE = {
    subject: name for name, subjects in DISCIPLINES.items() for subject in subjects.split()
}
_TRACKS = ("Perception", "Comprehension", "Adaptation")


def read_videommmu(path: _FilePath) -> Loaded[Item]:
    """Reads VideoMMMU: {track: {number: row}}, or a list of rows of the track the file is named by.

    Rows have id, question, options, answer and, in Adaptation, question_type. Videos lie as
    lmms-eval unpacks them, DISCIPLINE/ID.mp4; the picture an Adaptation question is about is the
    end of its video. Raises what `read_vsibench` raises.
    """
    whole = read_json(path) if not str(path).endswith(".jsonl") else None
    if isinstance(whole, dict):
        rows = [
            (f"{path}: {track}/{number}", (track, row))
            for track, inside in whole.items()
            for number, row in Fields(inside, where=f"{path}: {track}").row.items()
        ]
    else:
        rows = [(where, (Path(path).stem, row)) for where, row in read_list(path)]
    named = [(where, {"track": track, "row": row}) for where, (track, row) in rows]
    return read_rows(named, read=_videommmu)


def _videommmu(pair: Fields) -> Item:
    track, row = pair.text("track").capitalize(), Fields(pair.any("row"), where=pair.where)
    if track not in _TRACKS:
        raise row.problem(f"is in no track of {', '.join(_TRACKS)}, but {track!r}")
    name = row.word("id")
    subject = "_".join(name.split("_")[1:-1])
    if subject not in _DISCIPLINE:
        raise row.problem(f"'id' names no subject of VideoMMMU, found {name!r}")
    question, options = row.word("question"), row.texts("options")
    said = row.row.get("question_type", "")
    opened = said == "open" or not options
    if track == "Adaptation":
        question = f"The picture that the question is about is the end of the video.\n{question}"
    lines = [] if opened else lettered(options)
    letters = "" if opened else letters_of(row, lines)
    answer = row.word("answer") if opened else row.choice("answer", letters)
    kind: Kind = "choice" if letters else "numerical" if is_number(answer) else "text"
    return Item(
        name=f"{track}/{name}",
        video=f"{_DISCIPLINE[subject]}/{name}.mp4",
        prompt=prompts.short(question) if opened else prompts.lettered_options(question, lines),
        question=question,
        options=tuple(options),
        answer=answer,
        kind=kind,
        groups={"track": (track,), "discipline": (_DISCIPLINE[subject],), "subject": (subject,)},
        constants=tuple(letters),
    )


def _videommmu_mark(item: Item, text: str) -> float | None:
    """The official script leaves answers without a word out of its averages."""
    if not text:
        return None
    if item.kind == "choice":
        return float(choice_rules.videommmu_option(text, item.options) == item.answer)
    return float(number_rules.videommmu_open_right(text, item.answer))


def _videommmu_strict(item: Item, text: str) -> float:
    return _videommmu_mark(item, text) or 0.0


VIDEOMMMU = {
    "official": Scoring(rule=_videommmu_mark, over=("track",)),
    "strict": Scoring(rule=_videommmu_strict, over=("track",)),
    "videor1": VIDEOR1,
}

# ---------------------------------------------------------------------------------- MMVU


def read_mmvu(path: _FilePath) -> Loaded[Item | None]:
    """Reads MMVU's validation.json; open-ended questions are None. Raises as `read_vsibench` does.

    `video` is an address that ends in videos/SUBJECT/NUMBER.mp4, which is where it is looked for
    below the folder of videos, without the first part.
    """
    return read_rows(read_list(path), read=_mmvu)


def _mmvu(row: Fields) -> Item | None:
    if row.choice("question_type", ("multiple-choice", "open-ended")) == "open-ended":
        return None
    options = [text for text in _options(row) if text]
    letters = letters_of(row, options)
    question, video = row.word("question"), urlparse(row.word("video")).path
    return Item(
        name=row.word("id"),
        video=video.split("/videos/")[-1].lstrip("/"),
        prompt=prompts.lettered_options(question, prompts.letters(options)),
        question=question,
        options=tuple(options),
        answer=row.choice("answer", letters),
        kind="choice",
        groups={"subject": (row.inside("metadata").word("subject"),)},
        constants=tuple(letters),
    )


def _options(row: Fields) -> list[str]:
    choices = row.inside("choices")
    return [choices.text(letter) for letter in sorted(choices.row)]


MMVU = {"videor1": VIDEOR1, "lmms-eval": LMMS_EVAL}

# ----------------------------------------------------------------------------- VCR-Bench


def read_vcrbench(path: _FilePath) -> Loaded[Item | None]:
    """Reads VCR-Bench's list of questions (its eval_code/input.json, meta_info_video.json).

    Multiple choice, and answers that are stretches of time or boxes; other open questions are None.
    The words of a question may hold its options already. Raises as `read_vsibench` does.
    """
    return read_rows(read_list(path), read=_vcrbench)


def _vcrbench(row: Fields) -> Item | None:
    question, answer = row.word("question").strip(), row.word("answer").strip()
    seconds = row.number("duration")
    several = row.any("multiple-choice")
    if not isinstance(several, bool):
        raise row.problem("'multiple-choice' must be true or false")
    listed = number_rules.vcrbench_lists(answer, answer).kind
    if not several and listed == "llm_judge":
        return None
    groups = {
        "dimension": (row.word("dimension"),),
        "duration": ("0-60" if seconds <= 60 else "60-300" if seconds <= 300 else "300+",),
        "form": ("choice" if several else listed,),
    }
    shared: dict[str, Any] = {
        "name": str(row.integer("id")),
        "video": row.word("video_path"),
        "question": question,
        "groups": groups,
    }
    if not several:
        return Item(answer=answer, kind="list", prompt=prompts.interval(question), **shared)
    options = [text for text in _options(row) if text]
    letters = letters_of(row, options)
    told = all(option in question for option in options)
    lines = [] if told else prompts.letters(options)
    return Item(
        options=tuple(options),
        answer=row.choice("answer", letters),
        kind="choice",
        prompt=prompts.lettered_options(question, lines),
        constants=tuple(letters),
        **shared,
    )


def _vcrbench_mark(item: Item, text: str) -> float:
    """The official rule for lists, where its judge has found one; else the letter."""
    if item.kind == "list":
        start, end = text.rfind("["), text.rfind("]") + 1
        return float(
            bool(number_rules.vcrbench_lists(text[max(start, 0) : end], item.answer).right)
        )
    letters = "".join(item.constants)
    return float(choice_rules.lmms_eval_letter(text, letters) == item.answer)


VCRBENCH = {"videor1": VIDEOR1, "rules": Scoring(rule=_vcrbench_mark)}

# ------------------------------------------------------------------------------ Video-R1

_VIDEOR1_KINDS: dict[str, Kind] = {
    "multiple choice": "choice",
    "numerical": "numerical",
    "regression": "number",
    "free-form": "text",
    "OCR": "text",
}


def read_videor1(path: _FilePath) -> Loaded[Item]:
    """Reads a file of Video-R1's layout, in which it, VideoP2R and Video-MTR repack benchmarks.

    Records have problem_id, problem, data_type, problem_type, options, solution, path and
    data_source; images are refused. Raises as `read_vsibench` does.
    """
    stem = Path(path).stem
    loaded = read_rows(read_list(path), read=lambda row: _videor1(row, stem))
    return Loaded(records=with_constants(loaded.records, "source"), problems=loaded.problems)


def _videor1(row: Fields, stem: str) -> Item:
    row.choice("data_type", ("video",))
    kind = _VIDEOR1_KINDS[row.choice("problem_type", _VIDEOR1_KINDS)]
    question, number = row.word("problem"), row.any("problem_id")
    if not isinstance(number, int | str):
        raise row.problem("'problem_id' must be a number or a string")
    solution = row.word("solution")
    answer = choice_rules.tagged_answer(solution) or solution.strip()
    if kind in ("number", "numerical") and not is_number(answer):
        raise row.problem(f"'solution' must be a number, found {answer!r}")
    letters, lines, prompt = "", [], prompts.short(question)
    if kind == "choice":
        lines = lettered(row.texts("options"))
        letters, prompt = letters_of(row, lines), prompts.lettered_options(question, lines)
        if answer not in tuple(letters):
            raise row.problem(f"'solution' must be one of {', '.join(letters)}, found {answer!r}")
    elif kind in ("number", "numerical"):
        prompt = prompts.number(question)
    return Item(
        name=f"{stem}/{number}",
        video=row.word("path").removeprefix("./"),
        prompt=prompt,
        question=question,
        options=tuple(lines),
        answer=answer.replace(",", "") if kind == "number" else answer,
        kind=kind,
        groups={
            "source": (row.word("data_source"),),
            "problem type": (row.text("problem_type"),),
            "metric": ("MRA" if kind == "number" else "accuracy",),
        },
        constants=tuple(letters),
    )


VIDEOR1_FILES = {"videor1": Scoring(rule=videor1, over=("metric",)), "videomtr": VIDEOMTR}
