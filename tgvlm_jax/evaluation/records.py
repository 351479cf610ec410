"""Reading annotation files: every bad record is named with file, record and reason, none is fatal.

A benchmark's loader gives `read_records` a function from `Fields` to its own record. What `Fields`
objects to becomes one `InputError` in `Loaded.problems`; the other records are read all the same.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from tgvlm_jax.types import InputError

T = TypeVar("T")
Span = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded(Generic[T]):
    """Records that could be read, and one error for each that could not, in the file's order."""

    records: list[T]
    problems: list[InputError]


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file; raises InputError when it cannot be read or is no JSON."""
    return _decoded(path, read_text(path))


def read_json_lines(path: str | os.PathLike[str]) -> list[Any]:
    """The content of a JSON-lines file, blank lines left out; raises what `read_json` raises."""
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [_decoded(f"{path}: line {i}", line) for i, line in lines if line.strip()]


def read_text(path: str | os.PathLike[str]) -> str:
    """A text file; raises InputError when it cannot be read or is no UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); name an existing file"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text in UTF-8 ({error.reason})") from error


def _decoded(where: str | os.PathLike[str], text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: is no JSON ({error}); write it again") from error


def read_records(
    path: str | os.PathLike[str], rows: Any, *, read: Callable[["Fields"], T]
) -> Loaded[T]:
    """Reads a list of JSON objects one by one.

    Args:
        path: where they come from, for messages. rows: the list. read: makes one record.

    Raises:
        InputError: `rows` is no list.
    """
    if not isinstance(rows, list):
        raise InputError(f"{path}: must hold a list of records, found {_kind(rows)}")
    return read_rows(_numbered(path, rows), read=read)


def read_rows(rows: Iterable[tuple[str, Any]], *, read: Callable[["Fields"], T]) -> Loaded[T]:
    """Reads objects one by one; with each comes where it stands, for messages."""
    records: list[T] = []
    problems: list[InputError] = []
    for where, row in rows:
        try:
            records.append(read(Fields(row, where=where)))
        except InputError as error:
            problems.append(error)
    return Loaded(records=records, problems=problems)


def read_list(path: str | os.PathLike[str]) -> list[tuple[str, Any]]:
    """The records of a JSON list, or of JSON lines (.jsonl), and where each stands.

    Raises:
        InputError: the file cannot be read, is no JSON or no list.
    """
    if not str(path).endswith(".jsonl"):
        rows = read_json(path)
        if not isinstance(rows, list):
            raise InputError(f"{path}: must hold a list of records, found {_kind(rows)}")
        return _numbered(path, rows)
    lines = enumerate(read_text(path).splitlines(), start=1)
    named = [(f"{path}: line {number}", line) for number, line in lines if line.strip()]
    return [(where, _decoded(where, line)) for where, line in named]


def _numbered(path: str | os.PathLike[str], rows: list[Any]) -> list[tuple[str, Any]]:
    return [(f"{path}: record {index}", row) for index, row in enumerate(rows)]


class Fields:
    """One JSON object whose fields are asked for by name and kind.

    Every method raises InputError with the file, the record and the reason when the field is not
    there or not of its kind.
    """

    def __init__(self, row: Any, *, where: str):
        """Takes the object; `where` names file and record."""
        self.where = where
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: must be an object, found {_kind(row)}")
        self.row = row

    def problem(self, reason: str) -> InputError:
        """An error about this record."""
        return InputError(f"{self.where}: {reason}")

    def any(self, name: str) -> Any:
        """The field, whatever it is."""
        if name not in self.row:
            raise self.problem(f"has no {name!r}")
        return self.row[name]

    def text(self, name: str) -> str:
        """A string."""
        value = self.any(name)
        if not isinstance(value, str):
            raise self.problem(f"{name!r} must be a string, found {_kind(value)}")
        return value

    def word(self, name: str) -> str:
        """A string that is not blank."""
        value = self.text(name)
        if not value.strip():
            raise self.problem(f"{name!r} is blank")
        return value

    def choice(self, name: str, allowed: Iterable[str]) -> str:
        """One of several strings."""
        value, allowed = self.text(name), list(allowed)
        if value not in allowed:
            raise self.problem(f"{name!r} must be one of {', '.join(allowed)}, found {value!r}")
        return value

    def integer(self, name: str) -> int:
        """A whole number."""
        value = self.any(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.problem(f"{name!r} must be a whole number, found {_kind(value)}")
        return value

    def index(self, name: str, count: int) -> int:
        """An index into `count` things."""
        value = self.integer(name)
        if not 0 <= value < count:
            raise self.problem(f"{name!r} must be in 0..{count - 1}, found {value}")
        return value

    def number(self, name: str) -> float:
        """A finite number."""
        return self._number(name, self.any(name))

    def items(self, name: str) -> list[Any]:
        """A list of whatever."""
        value = self.any(name)
        if not isinstance(value, list):
            raise self.problem(f"{name!r} must be a list, found {_kind(value)}")
        return value

    def inside(self, name: str) -> "Fields":
        """An object, its own fields to be asked for."""
        return Fields(self.any(name), where=f"{self.where}: {name!r}")

    def texts(self, name: str) -> list[str]:
        """A list of strings."""
        value = self.items(name)
        if not all(isinstance(item, str) for item in value):
            raise self.problem(f"{name!r} must hold strings only")
        return value

    def span(self, name: str) -> Span:
        """[start, end] in seconds, start <= end."""
        return self._span(name, self.any(name))

    def spans(self, name: str) -> list[Span]:
        """A list of [start, end], at least one."""
        value = self.items(name)
        if not value:
            raise self.problem(f"{name!r} is empty")
        return [self._span(name, item) for item in value]

    def _span(self, name: str, value: Any) -> Span:
        if not isinstance(value, list) or len(value) != 2:
            raise self.problem(f"{name!r} must hold pairs [start, end], found {_short(value)}")
        start, end = (self._number(name, item) for item in value)
        if not 0 <= start <= end:
            raise self.problem(f"{name!r} needs 0 <= start <= end, found {_short(value)}")
        return start, end

    def _number(self, name: str, value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.problem(f"{name!r} must be a number, found {_kind(value)}")
        if not math.isfinite(value):
            raise self.problem(f"{name!r} must be finite, found {value}")
        return float(value)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    kinds |= {int: "a number", float: "a number", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
