"""Records of VideoP2R as they are released: a question, its truth, and how the answer was found.

    problem       question, for multiple choice without its options    options    texts, or none
    solution      the truth in answer tags            answer     what the trace answers
    path          video or image below the data folder                 data_type  video, image
    problem_type  one of the types that are scored    data_source, problem_id
    observation, process, output                      parts of the trace, and all of it
    reward, select, clean_version                     kept as they come

A data set is a list of them (`record_files.py`). The file for reinforcement learning holds every
value as text (VideoP2R 2.5).
"""

import ast
import dataclasses
import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from tgvlm_jax.types import InputError

KINDS = ("multiple choice", "numerical", "OCR", "free-form", "regression")
_TEXTS = ("problem", "solution", "path", "problem_type")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessRecord:
    """One record; `rest` has all of its keys as they came."""

    problem: str
    options: tuple[str, ...]
    solution: str
    path: str
    data_type: str
    kind: str
    output: str
    rest: Mapping[str, Any]

    @property
    def question(self) -> str:
        """As it is asked: options on lines of their own (Video-R1's form)."""
        if self.kind != "multiple choice" or not self.options:
            return self.problem
        return f"{self.problem}Options:\n" + "\n".join(self.options)

    @property
    def truth(self) -> str:
        """The right answer without its tags."""
        inside = self.solution.partition("<answer>")[2] or self.solution
        return inside.partition("</answer>")[0].strip()


def is_record(record: Any) -> bool:
    """Whether a JSON value is of this schema and not of another."""
    return isinstance(record, dict) and "problem" in record and "problem_type" in record


def parse(record: Any) -> ProcessRecord:
    """One record.

    Raises:
        InputError: what is wrong with it, in words that name the key.
    """
    if not isinstance(record, dict):
        raise InputError(f"is a {type(record).__name__}, not an object")
    for key in _TEXTS:
        if not isinstance(record.get(key), str):
            raise InputError(f"{key} is {'missing' if key not in record else 'no text'}")
        if not record[key].strip():
            raise InputError(f"{key} is empty")
    kind, path = record["problem_type"], record["path"].removeprefix("./")
    if kind not in KINDS:
        raise InputError(f"problem_type {kind!r} is none of {', '.join(KINDS)}")
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise InputError(f"path {path!r} is no path below the data folder")
    data_type = record.get("data_type") or "video"
    if data_type not in ("video", "image"):
        raise InputError(f"data_type {data_type!r} is neither video nor image")
    output = record.get("output") or ""
    if not isinstance(output, str):
        raise InputError("output is no text")
    return ProcessRecord(
        problem=record["problem"],
        options=_options(record.get("options")),
        solution=record["solution"],
        path=path,
        data_type=data_type,
        kind=kind,
        output=output.strip(),
        rest=record,
    )


def _options(value: Any) -> tuple[str, ...]:
    """A list of texts, which may itself be written as text, in JSON or as Python prints it."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                raise InputError(f"options {value[:40]!r} is no list") from None
    value = value or []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InputError("options is no list of texts")
    return tuple(value)
