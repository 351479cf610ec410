"""Hugging Face folders in and out: sharded safetensors straight onto a mesh, and back.

Each published tensor is read once, cast and put on the devices that hold a slice of it; stacked
layers are put in place one by one. Host memory stays near the largest published tensor, whatever
the size of the model.
"""

import dataclasses
import functools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from tqdm import tqdm

from tgvlm_jax import files, mesh
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import mapping, published
from tgvlm_jax.weights.mapping import Shapes, Tensor
from tgvlm_jax.weights.published import Published, Spec

_SHARD_BYTES = 4 * 2**30
# Constants that older files carry beside the weights.
_BUFFER = re.compile(r"(rotary_emb\.inv_freq|\bposition_ids|attn\.masked_bias)$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileNames:
    """What a folder calls its config and its one weight file."""

    config: str
    weights: str


MODEL_FILES = FileNames(config="config.json", weights="model.safetensors")
ADAPTER_FILES = FileNames(config="adapter_config.json", weights="adapter_model.safetensors")


class PublishedConfig(dict[str, Any]):
    """A config in which asking for what is not there raises InputError."""

    where: Path | None = None

    def __missing__(self, key: str) -> Any:
        raise InputError(f"{self.where}: has no {key!r}, which this architecture needs")


def read_config(folder: Path, *, names: FileNames = MODEL_FILES) -> PublishedConfig:
    """The folder's config; raises InputError where it is missing or damaged."""
    path = folder / names.config

    def named(values: dict[str, Any]) -> PublishedConfig:
        config = PublishedConfig(values)
        config.where = path
        return config

    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_hook=named)
    except FileNotFoundError:
        raise InputError(
            f"{folder}: no {names.config}; give a folder in Hugging Face format"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}); fetch it again") from error
    if not isinstance(config, PublishedConfig):
        raise InputError(f"{path}: damaged (it holds no settings); fetch it again")
    return config


def is_buffer(name: str) -> bool:
    """Whether a published name is that of a constant, which no parameter of ours holds."""
    return bool(_BUFFER.search(name))


def load(
    folder: Path,
    tensors: Sequence[Tensor],
    *,
    like: Mapping[str, Any],
    ignore: Callable[[str], bool] = is_buffer,
    names: FileNames = MODEL_FILES,
) -> dict[str, jax.Array]:
    """Our parameters from a published folder, laid out and typed as `like`.

    Floats of other types are cast; whatever is no float (integers, 8-bit floats whose scales lie
    elsewhere) is refused.

    Args:
        folder: with safetensors files. tensors: the map of its names.
        like: dotted path -> array or ShapeDtypeStruct, whose sharding and dtype are taken. A
            sharding of an abstract mesh stands for the mesh that is set.
        ignore: published names that are no error when the map does not know them.
        names: of the files; PEFT has its own.

    Raises:
        InputError: every missing, unexpected, misshapen and quantised name, in one message; or a
            file that is damaged; or a parameter that the mesh does not divide.
    """
    found = Published(folder, single=names.weights)
    shapes = {path: tuple(leaf.shape) for path, leaf in like.items()}
    if told := misfits(found, tensors, shapes=shapes, ignore=ignore).told():
        raise InputError(f"{folder} is not this model; {'; '.join(told)}")
    layouts = {path: _layout(path, leaf) for path, leaf in like.items()}
    sources: dict[str, list[_Source]] = {}
    for entry in tensors:
        for place, part in enumerate(entry.parts):
            source = _Source(entry=entry, place=place, names=mapping.numbered(entry, shapes))
            sources.setdefault(part.path, []).append(source)
    # The largest first: what is read beside it then lies in memory while little is loaded.
    order = sorted(like, key=lambda path: -sum(_size(found, s) for s in sources[path]))
    loaded = {}
    for path in tqdm(order, desc=f"loading {folder.name}", unit="tensor", disable=None):
        loaded[path] = _load_one(found, sources[path], like[path], layouts[path], shapes)
    return {path: loaded[path] for path in like}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Source:
    """One of the parts that a parameter is made of; names has one entry a layer."""

    entry: Tensor
    place: int
    names: list[str]

    @property
    def part(self) -> mapping.Part:
        return self.entry.parts[self.place]

    @property
    def stacked(self) -> bool:
        return "{i}" in self.entry.name


def _size(found: Published, source: _Source) -> int:
    return int(np.prod(found.shape(source.names[0])))


def _layout(path: str, leaf: Any) -> NamedSharding | SingleDeviceSharding:
    """Where a parameter goes.

    Raises:
        InputError: the mesh does not divide it.
    """
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.mesh.empty:
        return SingleDeviceSharding(jax.devices()[0])
    if isinstance(sharding.mesh, AbstractMesh):
        sharding = NamedSharding(jax.sharding.get_mesh(), sharding.spec)
    try:
        sharding.shard_shape(tuple(leaf.shape))
    except ValueError as error:
        sizes = " x ".join(f"{name}={size}" for name, size in sharding.mesh.shape.items())
        raise InputError(
            f"{path} {tuple(leaf.shape)} does not divide over the mesh {sizes} as "
            f"{sharding.spec}; choose another mesh"
        ) from error
    return sharding


def _load_one(
    found: Published,
    sources: list[_Source],
    like: Any,
    layout: NamedSharding | SingleDeviceSharding,
    shapes: Shapes,
) -> jax.Array:
    """One parameter, layer by layer where layers are stacked."""
    shape, dtype = tuple(like.shape), np.dtype(like.dtype)
    if not sources[0].stacked:
        return _put(_read(found, sources, 0, dtype, shapes), layout, dtype, dtype)
    inner, bits = layout, np.dtype(np.uint16) if dtype.itemsize == 2 else dtype
    if isinstance(layout, NamedSharding):
        inner = NamedSharding(layout.mesh, PartitionSpec(*layout.spec[1:]))
    concrete = layout.mesh if isinstance(layout, NamedSharding) else None
    assert not isinstance(concrete, AbstractMesh)
    with mesh.use(concrete):
        stack = jnp.zeros(shape, bits, device=layout)
        for number in range(shape[0]):
            layer = _put(_read(found, sources, number, dtype, shapes), inner, dtype, bits)
            # Without waiting the host runs ahead, and layers that are not placed yet pile up.
            stack = jax.block_until_ready(_set_layer(stack, layer, number))
        return stack if bits == dtype else _reinterpret()(stack, dtype)


# XLA's CPU backend updates 16-bit floats by way of float32, all of the stack for each layer, and
# quietens NaNs on the way: as unsigned integers layers are put in place and nothing else moves.
@functools.partial(jax.jit, donate_argnums=0)
def _set_layer(stack: jax.Array, layer: jax.Array, number: jax.Array | int) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, layer, number, axis=0)


@functools.cache
def _reinterpret() -> Callable[[jax.Array, np.dtype], jax.Array]:
    """Sees the bits of a stack as another type, in the memory that it has."""
    # With its newer emitters the CPU backend copies the stack twice to do nothing.
    cpu = {"xla_cpu_use_fusion_emitters": False} if jax.default_backend() == "cpu" else None
    return jax.jit(
        jax.lax.bitcast_convert_type, donate_argnums=0, static_argnums=1, compiler_options=cpu
    )


def _put(
    value: np.ndarray, layout: jax.sharding.Sharding, dtype: np.dtype, view: np.dtype
) -> jax.Array:
    """Casts, and moves to each device what it holds, bits seen as another type."""

    def device_slice(index: Any) -> np.ndarray:
        return np.ascontiguousarray(value[index], dtype).view(view)

    return jax.make_array_from_callback(value.shape, layout, device_slice)


def _read(
    found: Published, sources: list[_Source], number: int, dtype: np.dtype, shapes: Shapes
) -> np.ndarray:
    """A parameter, or one layer of it, put together first where it has several sources."""
    whole = None
    for source in sources:
        entry, part = source.entry, source.part
        own = mapping.own_shape(entry, part, shapes)
        rows = mapping.rows_of(entry, source.place, shapes)
        value = mapping.arrange(part, found.read(source.names[number], rows), own)
        if len(sources) == 1:
            return value
        whole = np.empty(own, dtype) if whole is None else whole
        whole[part.cut(own)] = value
    assert whole is not None
    return whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Misfits:
    """How a folder differs from the model that a map is for: published names, sorted.

    Attributes:
        missing, unexpected: names. misshapen: with what each is and should be.
        quantised: with the type, which is none that weights have.
    """

    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]
    quantised: list[str]

    def told(self) -> list[str]:
        """One phrase for each kind that there is, with all of its names."""
        kinds = [
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("misshapen", self.misshapen),
            ("not of 16, 32 or 64-bit floats", self.quantised),
        ]
        return [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in kinds if names]


def misfits(
    found: Published,
    tensors: Sequence[Tensor],
    *,
    shapes: Shapes,
    ignore: Callable[[str], bool] = is_buffer,
) -> Misfits:
    """Compares a folder with a map, by the headers of its files.

    Args:
        found: the folder. tensors: the map. shapes: of our parameters, by dotted path.
        ignore: as for `load`.
    """
    mapped = {part.path for entry in tensors for part in entry.parts}
    assert mapped == shapes.keys(), sorted(mapped ^ shapes.keys())
    wanted = {name: entry for entry in tensors for name in mapping.numbered(entry, shapes)}
    there = sorted(wanted.keys() & found.names)
    return Misfits(
        missing=sorted(wanted.keys() - found.names),
        unexpected=sorted(n for n in found.names - wanted.keys() if not ignore(n)),
        misshapen=[
            f"{name} is {found.shape(name)}, not {expected}"
            for name in there
            if found.shape(name) != (expected := mapping.published_shape(wanted[name], shapes))
        ],
        quantised=[f"{name} is {found.dtype(name)}" for name in there if not found.is_float(name)],
    )


def save(
    folder: Path,
    tensors: Sequence[Tensor],
    params: Mapping[str, Any],
    *,
    config: Mapping[str, Any],
    beside: Sequence[Path] = (),
    names: FileNames = MODEL_FILES,
    shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Writes a folder that `transformers` loads with `from_pretrained`; it appears whole or not.

    Args:
        folder: must not exist. tensors: the map.
        params: ours, arrays or whatever has a shape, a dtype and becomes one by `__array__`; that
            is done to each when its turn comes.
        config: for config.json; where it names a dtype, that of the parameters takes its place.
        beside: further files, such as the tokenizer's.
        names: of the files; PEFT has its own.
        shard_bytes: about the size of a file.

    Raises:
        InputError: the folder exists, cannot be written or has no room, or a file beside is not
            there.
    """
    for path in beside:
        if not path.is_file():
            raise InputError(f"{path}: no such file, to be put beside the weights")
    shapes = {path: tuple(value.shape) for path, value in params.items()}
    # Wide types first, as safetensors has it, so that each tensor starts at a multiple of its own.
    entries = sorted(tensors, key=lambda entry: -_dtype(entry, params).itemsize)
    specs = [
        Spec(name=name, shape=mapping.published_shape(entry, shapes), dtype=_dtype(entry, params))
        for entry in entries
        for name in mapping.numbered(entry, shapes)
    ]
    with files.new_folder(folder) as scratch:
        files.check_room(scratch, sum(spec.size for spec in specs))
        text = json.dumps(_with_dtype(config, specs), indent=2) + "\n"
        (scratch / names.config).write_text(text, encoding="utf-8")
        for path in beside:
            shutil.copy(path, scratch / path.name)
        values = _theirs(entries, params)
        published.write(scratch, specs, values, single=names.weights, shard_bytes=shard_bytes)


def _dtype(entry: Tensor, params: Mapping[str, Any]) -> np.dtype:
    kinds = {np.dtype(params[part.path].dtype) for part in entry.parts}
    assert len(kinds) == 1, f"{entry.name} is of parameters of several types"
    return kinds.pop()


def _with_dtype(config: Mapping[str, Any], specs: Sequence[Spec]) -> dict[str, Any]:
    """The config; `from_pretrained` would cast to the type it names."""
    kinds = {spec.dtype.name for spec in specs}
    said = [key for key in ("dtype", "torch_dtype") if key in config]
    return {**config, **(dict.fromkeys(said, kinds.pop()) if len(kinds) == 1 else {})}


def _theirs(tensors: Sequence[Tensor], params: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """Published tensors; of ours, those of one entry of the map are on the host at a time."""
    for entry in tqdm(tensors, desc="saving", unit="tensor", disable=None):
        paths = {part.path for part in entry.parts}
        own = {path: np.asarray(jax.device_get(params[path])) for path in paths}
        for _, value in mapping.entry_to_theirs(entry, own):
            yield value
