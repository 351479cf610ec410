"""Files of annotations: JSON values, and lists of records whole or in parts.

A list is a JSON list or one record a line (.jsonl), gzipped where the name ends with .gz. Parts
follow one another in the order of their names, and are named together by a `*`.
"""

import glob
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tgvlm_jax import files
from tgvlm_jax.types import InputError


def read_json(path: Path) -> Any:
    """The value in a file.

    Raises:
        InputError: it is missing, cannot be read, or is no JSON.
    """
    return _decoded(path, json.loads)


def read(path: Path) -> list[Any]:
    """All records of a list.

    Raises:
        InputError: a file is missing, cannot be read, or is no such list.
    """
    records: list[Any] = []
    for part in find(path):
        lines = part.name.removesuffix(".gz").endswith(".jsonl")
        found = _decoded(part, _json_lines if lines else json.loads)
        if not isinstance(found, list):
            raise InputError(f"{part}: holds a {type(found).__name__}, not a list of records")
        records += found
    return records


def find(path: Path) -> list[Path]:
    """The files that a path means: itself, or where it has a `*`, its parts in order.

    Raises:
        InputError: there is no such part.
    """
    if "*" not in path.name:
        return [path]
    found = sorted(map(Path, glob.glob(str(path))))
    if not found:
        raise InputError(f"{path}: no such file")
    return found


def _json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _decoded(path: Path, decode: Callable[[str], Any]) -> Any:
    try:
        data = path.read_bytes()
        return decode((gzip.decompress(data) if path.suffix == ".gz" else data).decode())
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason})") from error
    except ValueError as error:
        raise InputError(f"{path}: no JSON ({error}); fetch it again") from error


def write(folder: Path, name: str, *, records: Sequence[Mapping[str, Any]], parts: int) -> None:
    """Writes `NAME.part1ofN.json.gz` and so on, or `NAME.json.gz` for one part.

    Equal records give equal bytes; each file appears whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    each = -(-len(records) // parts) or 1
    for part in range(parts):
        own = list(records[part * each : (part + 1) * each])
        text = json.dumps(own, ensure_ascii=False, indent=1)
        suffix = f".part{part + 1}of{parts}" if parts > 1 else ""
        with files.replacing(folder / f"{name}{suffix}.json.gz") as scratch:
            scratch.write_bytes(gzip.compress(text.encode(), mtime=0))
