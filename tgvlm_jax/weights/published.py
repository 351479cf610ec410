"""Folders of safetensors files: headers checked before anything is read, tensors read by row.

A file is a length of 8 bytes, a JSON header, and the tensors one behind the other. It is read by
position and never mapped into memory, so that what was read counts as memory only while it is kept.
"""

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tgvlm_jax.types import InputError

# The types that weights have; integers and 8-bit floats with scales apart are another format.
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_LONGEST_HEADER = 100 * 2**20  # as the format has it
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a tensor lies, in bytes, and what it is."""

    path: Path
    start: int
    code: str
    shape: tuple[int, ...]


class Published:
    """The tensors of a folder, by name; nothing is read before it is asked for."""

    def __init__(self, folder: Path, *, single: str = _SINGLE):
        """Finds the files as transformers does: the single one, else those of the index.

        Raises:
            InputError: no safetensors file there, one of the index is missing, or one is damaged.
        """
        self.folder = folder
        self._places: dict[str, _Place] = {}
        for path in _files(folder, single):
            for name, place in _header(path).items():
                if name in self._places:
                    both = f"{self._places[name].path.name} and {path.name}"
                    raise InputError(f"{folder}: {name} is in {both}; keep one of the two files")
                self._places[name] = place

    def __contains__(self, name: str) -> bool:
        return name in self._places

    @property
    def names(self) -> set[str]:
        """All there are."""
        return set(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one."""
        return self._places[name].shape

    def is_float(self, name: str) -> bool:
        """Whether it is of a type that `read` reads."""
        return self._places[name].code in _DTYPES

    def dtype(self, name: str) -> str:
        """Type of one, as safetensors calls it: "BF16", "F8_E4M3", ..."""
        return self._places[name].code

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """A tensor, or some rows of it.

        Raises:
            InputError: the file has become shorter, or cannot be read.
        """
        place = self._places[name]
        dtype, shape, start = _DTYPES[place.code], place.shape, place.start
        if shape:
            first, last, _ = rows.indices(shape[0])
            shape = (last - first, *shape[1:])
            start += first * math.prod(shape[1:]) * dtype.itemsize
        size = math.prod(shape) * dtype.itemsize
        try:
            data = np.fromfile(place.path, np.uint8, size, offset=start)
        except OSError as error:
            raise InputError(f"{place.path}: cannot be read ({error.strerror})") from error
        if len(data) != size:
            raise InputError(f"{place.path}: became shorter while it was read; fetch it again")
        return data.view(dtype).reshape(shape)


def _files(folder: Path, single: str) -> list[Path]:
    if (folder / single).is_file():
        return [folder / single]
    index = folder / _INDEX
    if single != _SINGLE or not index.is_file():
        raise InputError(f"{folder}: no {single} there; give a folder in Hugging Face format")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError("no list of files in this folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: damaged ({_words(error)}); fetch it again") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: {', '.join(missing)} not there, which the index names; fetch it again"
        )
    return [folder / name for name in names]


def _header(path: Path) -> dict[str, _Place]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size - 8, _LONGEST_HEADER):
                raise ValueError("it has no whole header")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        return {
            name: _place(path, name, entry, data=8 + length, size=size)
            for name, entry in entries.items()
        }
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: cut off or no safetensors file ({_words(error)}); fetch it again"
        ) from error


def _place(path: Path, name: str, entry: Any, *, data: int, size: int) -> _Place:
    start, end = entry["data_offsets"]
    shape, code = tuple(entry["shape"]), entry["dtype"]
    if data + end > size:
        raise ValueError(f"{name} lies behind its end")
    if code in _DTYPES and end - start != math.prod(shape) * _DTYPES[code].itemsize:
        raise ValueError(f"{name} has not the bytes of its shape")
    return _Place(path=path, start=data + start, code=code, shape=shape)


def _words(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """A tensor that is to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write(
    folder: Path,
    specs: Sequence[Spec],
    values: Iterable[np.ndarray],
    *,
    single: str = _SINGLE,
    shard_bytes: int,
) -> None:
    """Writes tensors into one file, or into several of about `shard_bytes` with an index.

    One value is in memory at a time.

    Args:
        folder: is there. specs: what comes. values: in the same order.
        single: name of the one file, where it is one.

    Raises:
        OSError: what the disk objects to.
    """
    shards: list[list[Spec]] = [[]]
    room = shard_bytes
    for spec in specs:
        if shards[-1] and spec.size > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(spec)
        room -= spec.size
    several, values = len(shards) > 1, iter(values)
    name = f"model-{{:05d}}-of-{len(shards):05d}.safetensors" if several else single
    for number, shard in enumerate(shards, start=1):
        _write_file(folder / name.format(number), shard, itertools.islice(values, len(shard)))
    if several:
        index = {
            "metadata": {"total_size": sum(spec.size for spec in specs)},
            "weight_map": {
                spec.name: name.format(number)
                for number, shard in enumerate(shards, start=1)
                for spec in shard
            },
        }
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_file(path: Path, specs: Sequence[Spec], values: Iterable[np.ndarray]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    start = 0
    for spec in specs:
        offsets = [start, start := start + spec.size]
        shape = list(spec.shape)
        header[spec.name] = {
            "dtype": _CODES[spec.dtype],
            "shape": shape,
            "data_offsets": offsets,
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for spec, value in zip(specs, values, strict=True):
            assert (value.shape, value.dtype) == (spec.shape, spec.dtype), spec.name
            file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
