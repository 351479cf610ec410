"""The training set of Video-MTR out of the annotations of NExT-GQA and QVHighlights (Video-MTR 4).

    python -m tgvlm_jax.data.curation --nextgqa DIR --qvhighlights highlight_train_release.jsonl \
        --written written.jsonl --out looking_8k.json

NExT-GQA is multiple choice already: `val.csv` and `test.csv` have the questions, `gsub_val.json`
and `gsub_test.json` the seconds that matter, `map_vid_vidorID.json` (if there) the videos' paths.
QVHighlights has sentences, which a language model turns into questions: `--requests FILE` writes
what to ask it, one JSON object a line, and `--written` reads what it said,
{"qid", "suitable", "question", "options", "answer"} a line; the paper took GPT-4o. A second judge
may set "discriminative" to false where the options give the answer away.

From both, videos longer than 30 s are kept whose relevant part is less than half of them. What is
left out is counted by reason.
"""

import argparse
import collections
import csv
import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tgvlm_jax import files
from tgvlm_jax.data import record_files
from tgvlm_jax.data.looking import enough
from tgvlm_jax.types import InputError

_LETTERS = "ABCDEFGH"
_SPLITS = ("val", "test")

REQUEST = """A sentence describes a part of a video: "{query}"
1. Is it suited to a question with options about that part? It is not if it is short, or has no \
detail that wrong options could differ in.
2. If so, write a question that begins with Where, How, Why, What, When or Who and that the \
sentence answers.
3. Write one right option and three wrong ones of the same kind, in an order of your choice, each \
beginning with "A. ", "B. ", "C. " or "D. ".
4. Say which letter is right.
Reply with JSON only: {{"suitable": true or false, "question": "...", "options": ["A. ...", ...], \
"answer": "A"}}"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curated:
    """Records that are kept, and how many were not, by reason."""

    records: list[dict[str, Any]]
    left_out: dict[str, int]


def nextgqa(folder: Path) -> Iterator[dict[str, Any]]:
    """Records of both annotated splits, before any filter.

    Raises:
        InputError: a file is missing or not in its format.
    """
    found = False
    paths = folder / "map_vid_vidorID.json"
    names = record_files.read_json(paths) if paths.exists() else {}
    for split in _SPLITS:
        table, spans = folder / f"{split}.csv", folder / f"gsub_{split}.json"
        if not table.exists():
            continue
        found, located = True, record_files.read_json(spans)
        with files.disk_errors(table), table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield _choice(row, located, names, where=str(table))
    if not found:
        raise InputError(f"{folder}: neither val.csv nor test.csv of NExT-GQA is there")


def _choice(
    row: dict[str, str], located: dict[str, Any], names: dict[str, str], *, where: str
) -> dict[str, Any]:
    try:
        video, number = row["video_id"], row["qid"]
        options = [row[key] for key in sorted(key for key in row if re.fullmatch(r"a\d", key))]
        place = options.index(row["answer"])
        question = row["question"]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{where}: no row of NExT-GQA ({error!r}); it has video_id, question, answer, qid and "
            "a0 to a4, and the answer is one of these"
        ) from error
    about = located.get(video, {})
    return _record(
        f"nextgqa_{video}_{number}",
        question=question.strip().rstrip("?").capitalize() + "?",
        options=[f"{_LETTERS[i]}. {text}" for i, text in enumerate(options)],
        answer=_LETTERS[place],
        path=f"NExTVideo/{names.get(video, video)}.mp4",
        source="NExT-GQA",
        duration=float(about.get("duration", 0.0)),
        windows=about.get("location", {}).get(number, []),
    )


def highlights(path: Path) -> list[dict[str, Any]]:
    """Sentences of QVHighlights as they are published, one JSON object a line.

    Raises:
        InputError: the file cannot be read, or lacks a key.
    """
    found = record_files.read(path)
    for number, one in enumerate(found):
        missing = {"qid", "query", "duration", "vid", "relevant_windows"} - set(one)
        if missing:
            raise InputError(f"{path}, line {number + 1}: no {', '.join(sorted(missing))}")
    return found


def requests(sentences: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What to ask a language model, for sentences about videos that would be kept."""
    return [
        {"qid": one["qid"], "prompt": REQUEST.format(query=one["query"])}
        for one in sentences
        if not enough(float(one["duration"]), _windows(one["relevant_windows"]))
    ]


def written(
    sentences: Sequence[dict[str, Any]], replies: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any] | str]:
    """Records of the sentences that became questions, before any filter; or why one did not."""
    by_number = {str(one.get("qid")): one for one in replies}
    for one in sentences:
        reply = by_number.get(str(one["qid"]))
        if reply is None:
            yield "nobody wrote a question"
        elif not reply.get("suitable"):
            yield "sentence not suited to a question"
        elif reply.get("discriminative") is False:
            yield "options give the answer away"
        elif reason := _unusable(reply):
            yield reason
        else:
            yield _record(
                f"qvhighlights_{one['qid']}",
                question=reply["question"].strip(),
                options=[str(option) for option in reply["options"]],
                answer=reply["answer"].strip()[:1],
                path=f"QVHighlights/{one['vid']}.mp4",
                source="QVHighlights",
                duration=float(one["duration"]),
                windows=one["relevant_windows"],
            )


def _unusable(reply: dict[str, Any]) -> str:
    """Why a written question cannot be used."""
    options, answer = reply.get("options"), reply.get("answer")
    if not isinstance(reply.get("question"), str) or not isinstance(answer, str):
        return "written question is broken"
    if not isinstance(options, list) or len(set(map(str, options))) != 4:
        return "written question has not four options"
    letters = [str(option)[:3] for option in options]
    if letters != ["A. ", "B. ", "C. ", "D. "] or answer.strip()[:1] not in "ABCD":
        return "written options or answer have other letters"
    return ""


def _record(
    number: str,
    *,
    question: str,
    options: list[str],
    answer: str,
    path: str,
    source: str,
    duration: float,
    windows: Any,
) -> dict[str, Any]:
    return {
        "problem_id": number,
        "problem": question,
        "data_type": "video",
        "problem_type": "multiple choice",
        "options": options,
        "solution": f"<answer>{answer}</answer>",
        "path": path,
        "data_source": source,
        "duration": duration,
        "relevant_windows": [[float(start), float(end)] for start, end in windows],
    }


def curate(records: Iterator[dict[str, Any] | str]) -> Curated:
    """The paper's filters; a text in the place of a record is a reason to count."""
    kept: list[dict[str, Any]] = []
    left_out: collections.Counter[str] = collections.Counter()
    for one in records:
        if isinstance(one, str):
            left_out[one] += 1
        elif reason := enough(one["duration"], _windows(one["relevant_windows"])):
            left_out[reason] += 1
        else:
            kept.append(one)
    return Curated(records=kept, left_out=dict(left_out))


def _windows(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(-1, 2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the set, or what to ask a language model, and says what was left out."""
    parser = argparse.ArgumentParser(description="The training set of Video-MTR.")
    parser.add_argument("--nextgqa", type=Path)
    parser.add_argument("--qvhighlights", type=Path)
    parser.add_argument("--written", type=Path)
    parser.add_argument("--requests", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    sentences = highlights(options.qvhighlights) if options.qvhighlights else []
    if options.requests:
        asked = requests(sentences)
        lines = "".join(json.dumps(one) + "\n" for one in asked)
        files.write_text(options.requests, lines)
        print(f"{options.requests}: {len(asked)} of {len(sentences)} sentences to ask about")
    if not options.out:
        return
    sources = {}
    if options.nextgqa:
        sources["NExT-GQA"] = nextgqa(options.nextgqa)
    if options.written:
        sources["QVHighlights"] = written(sentences, record_files.read(options.written))
    records = []
    for name, source in sources.items():
        found = curate(source)
        records += found.records
        reasons = "; ".join(f"{reason}: {n}" for reason, n in found.left_out.items())
        print(f"{name}: {len(found.records)} kept; {reasons}")
    files.write_text(options.out, json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
