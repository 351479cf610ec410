"""Hugging Face folders in and out: sharded safetensors straight onto a mesh, and back.

Files are read by position and never mapped into memory, one of our parameters at a time, and of it
only what a device holds: host memory stays near the largest single parameter, not the model.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, SingleDeviceSharding
from safetensors.numpy import save_file
from tqdm import tqdm

from tgvlm_jax import files
from tgvlm_jax.types import InputError
from tgvlm_jax.weights.mapping import (
    Shapes,
    Tensor,
    numbered,
    published_shape,
    rows_to_ours,
    to_theirs,
)

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_SHARD_BYTES = 4 * 2**30
_INDEX = "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileNames:
    """What a folder calls its config and its one weight file."""

    config: str
    weights: str


MODEL_FILES = FileNames(config="config.json", weights="model.safetensors")
ADAPTER_FILES = FileNames(config="adapter_config.json", weights="adapter_model.safetensors")


class Published:
    """The tensors of a folder, by name; nothing is read before it is asked for."""

    def __init__(self, folder: Path):
        """Raises InputError where there is no safetensors file or one is cut off."""
        self.folder = folder
        self._where: dict[str, tuple[Path, int, np.dtype, tuple[int, ...]]] = {}
        for path in _shards(folder):
            self._read_header(path)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    @property
    def names(self) -> set[str]:
        """All there are."""
        return set(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one."""
        return self._where[name][3]

    def dtype(self, name: str) -> np.dtype:
        """Type of one."""
        return self._where[name][2]

    def read(self, name: str) -> np.ndarray:
        """One whole tensor."""
        path, start, dtype, shape = self._where[name]
        count = int(np.prod(shape))
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(count * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(shape)

    def _read_header(self, path: Path) -> None:
        size = path.stat().st_size
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 0 < length <= size - 8:
                    raise ValueError("no header")
                header = json.loads(file.read(length))
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                start, end = entry["data_offsets"]
                if 8 + length + end > size:
                    raise ValueError(f"{name} lies behind its end")
                dtype = _DTYPES[entry["dtype"]]
                self._where[name] = (path, 8 + length + start, dtype, tuple(entry["shape"]))
        except (ValueError, KeyError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path}: cut off or no safetensors file ({error}); fetch it again"
            ) from error


def _shards(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (json.JSONDecodeError, KeyError) as error:
            raise InputError(f"{index}: damaged ({error}); fetch it again") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise InputError(f"{folder}: {', '.join(missing)} of its index is not there")
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise InputError(f"{folder}: no .safetensors file there; give a Hugging Face folder")
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`; raises InputError where it is missing or damaged."""
    path = folder / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{folder}: no config.json; give a Hugging Face folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged ({error})") from error


def load(
    folder: Path,
    tensors: Sequence[Tensor],
    *,
    like: Mapping[str, Any],
    ignore: Callable[[str], bool] = lambda name: False,
) -> dict[str, jax.Array]:
    """Our parameters from a published folder, laid out and typed as `like`.

    Args:
        folder: with safetensors files. tensors: the map of its names.
        like: dotted path -> array or ShapeDtypeStruct, whose sharding and dtype are taken.
        ignore: published names that are no error when the map does not know them.

    Raises:
        InputError: every missing, unexpected and misshapen name, in one message.
    """
    published = Published(folder)
    shapes = {path: tuple(leaf.shape) for path, leaf in like.items()}
    _check(published, tensors, shapes, ignore)
    sources: dict[str, list[tuple[Tensor, int]]] = {}
    for entry in tensors:
        for place, part in enumerate(entry.parts):
            sources.setdefault(part.path, []).append((entry, place))
    loaded = {}
    for path in tqdm(sorted(like), desc=f"loading {folder.name}", unit="tensor", disable=None):
        loaded[path] = _place(published, sources[path], like[path], shapes)
    return loaded


def _place(
    published: Published, sources: list[tuple[Tensor, int]], like: Any, shapes: Shapes
) -> jax.Array:
    """One parameter, each device's slice made from the published tensors it needs."""
    sharding = getattr(like, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        sharding = SingleDeviceSharding(jax.devices()[0])
    stacked = "{i}" in sources[0][0].name
    own = like.shape[1:] if stacked else like.shape
    names = {entry.name: numbered(entry, shapes) for entry, _ in sources}

    def layer(number: int, index: tuple[slice, ...]) -> np.ndarray:
        """One layer's slice; put together first where it has several sources."""
        found = [
            (
                entry.parts[place],
                rows_to_ours(
                    entry, place, published.read(names[entry.name][number]), shapes=shapes
                ),
            )
            for entry, place in sources
        ]
        if len(found) == 1:
            return found[0][1][index]
        whole = np.empty(own, like.dtype)
        for part, rows in found:
            whole[part.cut(own)] = rows
        return whole[index]

    def device_slice(index: Any) -> np.ndarray:
        if not stacked:
            return np.ascontiguousarray(layer(0, index), like.dtype)
        layers = range(*index[0].indices(like.shape[0]))
        sizes = [len(range(*s.indices(n))) for s, n in zip(index, like.shape, strict=True)]
        out = np.empty(sizes, like.dtype)
        for row, number in enumerate(layers):
            out[row] = layer(number, index[1:])
        return out

    return jax.make_array_from_callback(tuple(like.shape), sharding, device_slice)


def _check(
    published: Published,
    tensors: Sequence[Tensor],
    shapes: Shapes,
    ignore: Callable[[str], bool],
) -> None:
    wanted = {name: entry for entry in tensors for name in numbered(entry, shapes)}
    missing = sorted(wanted.keys() - published.names)
    unexpected = sorted(n for n in published.names - wanted.keys() if not ignore(n))
    misshapen = [
        f"{name} is {published.shape(name)}, not {expected}"
        for name, entry in sorted(wanted.items())
        if name in published
        and published.shape(name) != (expected := published_shape(entry, shapes))
    ]
    mapped = {part.path for entry in tensors for part in entry.parts}
    assert mapped == shapes.keys(), sorted(mapped ^ shapes.keys())
    problems = [("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen)]
    told = [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in problems if names]
    if told:
        raise InputError(f"{published.folder} is not this model; {'; '.join(told)}")


def save(
    folder: Path,
    tensors: Sequence[Tensor],
    params: Mapping[str, jax.Array],
    *,
    config: Mapping[str, Any],
    beside: Sequence[Path] = (),
    names: FileNames = MODEL_FILES,
    shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Writes a folder that `transformers` loads with `from_pretrained`; it appears whole or not.

    Args:
        folder: must not exist. tensors: the map. params: ours.
        config: for config.json. beside: further files, such as the tokenizer's.
        names: of the files; PEFT has its own.

    Raises:
        InputError: the folder exists or cannot be written.
    """
    if folder.exists():
        raise InputError(f"{folder}: exists already; name another folder")
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with files.disk_errors(folder):
            scratch.mkdir(parents=True)
            _write_shards(scratch, tensors, params, shard_bytes, names.weights)
            (scratch / names.config).write_text(json.dumps(config, indent=2) + "\n")
            for path in beside:
                shutil.copy(path, scratch / path.name)
            os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_shards(
    folder: Path,
    tensors: Sequence[Tensor],
    params: Mapping[str, jax.Array],
    shard_bytes: int,
    single: str,
) -> None:
    weight_map: dict[str, int] = {}
    shard: dict[str, np.ndarray] = {}
    size, total, number = 0, 0, 0

    def close() -> None:
        nonlocal shard, size, number
        number += 1
        save_file(shard, folder / f"part-{number}", metadata={"format": "pt"})
        shard, size = {}, 0

    for name, value in _theirs(tensors, params):
        if shard and size + value.nbytes > shard_bytes:
            close()
        shard[name] = np.ascontiguousarray(value)
        weight_map[name] = number + 1
        size, total = size + value.nbytes, total + value.nbytes
    close()
    if number == 1:
        os.replace(folder / "part-1", folder / single)
        return
    final = {i: f"model-{i:05d}-of-{number:05d}.safetensors" for i in range(1, number + 1)}
    for i, name in final.items():
        os.replace(folder / f"part-{i}", folder / name)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: final[i] for name, i in sorted(weight_map.items())},
    }
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _theirs(
    tensors: Sequence[Tensor], params: Mapping[str, jax.Array]
) -> Iterator[tuple[str, np.ndarray]]:
    """Published tensors one entry of the map at a time."""
    for entry in tqdm(tensors, desc="saving", unit="tensor", disable=None):
        own = {part.path: np.asarray(jax.device_get(params[part.path])) for part in entry.parts}
        yield from to_theirs([entry], own).items()
