"""Device meshes, the one table from logical axes to mesh axes, and what explicit sharding needs.

A mesh has the axes (dcn, fsdp, tp, cp), any of size 1, all in explicit mode: a sharding mistake is
a type error while tracing. Model code names logical axes only ("batch", "heads", ...); every
helper here does nothing when no mesh is set, so that one device runs the same code.
"""

import contextlib
import functools
import math
import re
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Num, Shaped

from tgvlm_jax.schema import DataConfig, MeshConfig, ModelConfig, QwenVisionConfig
from tgvlm_jax.types import InputError

AXES = ("dcn", "fsdp", "tp", "cp")
TOKENS = "tokens"
"""The axis of a sequence in results of `einsum` and `lookup`: laid out as in the operand, over `cp`
in the pass over a long prompt, whole in others."""

# Activations first, then parameters. In a vision tower frames are independent, so beside the batch
# they spread over the axes that the batch leaves free, and every chip has frames (design D9).
RULES: dict[str, tuple[str, ...] | str | None] = {
    "batch": ("dcn", "fsdp"),
    "frames": ("tp", "cp"),
    "context": "cp",
    "heads": "tp",
    "mlp": "tp",
    "vocab": "tp",
    "embed": ("fsdp", "cp"),  # without cp, "fsdp"
}
_WHOLE_OR_CUT = ("heads", "mlp", "vocab", "embed")
"""Of these, what does not divide by its mesh axis lies whole on every chip; others must divide."""
_PARAMETERS = ("fsdp", "cp")  # cut parameters only; activations meet them put together


def make(config: MeshConfig, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh | None:
    """The mesh a config asks for, of all devices or these; None where it asks for one device.

    Raises:
        InputError: sizes that do not multiply to the number of devices, or two of them -1; slices
            that are not the axis `dcn`.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.dcn, config.fsdp, config.tp, config.cp]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise InputError(f"mesh {_sizes(sizes)}: sizes are positive, at most one of them -1")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) == 1:
        return None
    if -1 in sizes or math.prod(sizes) > len(devices):
        raise InputError(
            f"mesh {_sizes(sizes)} does not fit the {len(devices)} devices there are: "
            "set mesh.fsdp=-1 to take them all"
        )
    chosen = _arranged(devices[: math.prod(sizes)], sizes)
    return jax.sharding.Mesh(chosen, AXES, axis_types=(AxisType.Explicit,) * len(AXES))


def _arranged(devices: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
    """Slices along `dcn`, and within a slice along the other axes as its torus is wired."""
    slices = len({getattr(device, "slice_index", 0) or 0 for device in devices})
    if slices not in (1, sizes[0]):
        raise InputError(
            f"mesh.dcn={sizes[0]}, but the devices are of {slices} slices: set mesh.dcn={slices}"
        )
    if getattr(devices[0], "platform", "") != "tpu":
        return np.asarray(devices).reshape(sizes)
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    inside, between = (1, *sizes[1:]), (slices, *(1,) * (len(sizes) - 1))
    return mesh_utils.create_hybrid_device_mesh(
        inside, between, devices, allow_split_physical_axes=True
    )


def check(
    model: ModelConfig,
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None,
    *,
    batch_size: int,
    frames: Sequence[int],
    data: DataConfig,
) -> None:
    """Fails, before anything is built, where the mesh does not divide the model or the batch.

    Heads, MLPs and vocabularies that `tp` does not divide are no error: see `spec`.

    Args:
        batch_size: rows of a micro-batch. frames: rows of a sample that a tower spreads.
        data: how prompts are padded.

    Raises:
        InputError: naming the setting and the mesh axis that do not fit.
    """
    if mesh is None:
        return
    dcn, fsdp, tp, cp = (dict(mesh.shape)[axis] for axis in AXES)
    qwen = isinstance(model.tower, QwenVisionConfig)
    rows, prompt = ("patch_rows", "prompt_tokens") if qwen else ("frames", "prompt_bucket")
    rows = "visual_bucket" if data.pack > 1 else rows
    cut = ("fsdp", fsdp) if cp == 1 else ("fsdp x cp", fsdp * cp)
    spread = ("tp", tp) if cp == 1 else ("tp x cp", tp * cp)
    batch = ("data.batch_size in parts (train.accumulate, objective)", batch_size)
    wanted = [
        (*batch, "dcn x fsdp", dcn * fsdp),
        ("model.decoder.width", model.decoder.width, *cut),
        *((f"data.{rows}", count, *spread) for count in frames),
    ]
    if cp > 1:  # two pieces for each device, see models/context.py
        wanted.append((f"data.{prompt}", getattr(data, prompt), "2 x cp", 2 * cp))
    if model.tower is not None:
        wanted.append(("model.tower.width", model.tower.width, *cut))
    for name, size, axis, count in wanted:
        if size % count:
            raise InputError(f"{name}={size} does not divide by mesh axis {axis}={count}")


def _sizes(sizes: Sequence[int]) -> str:
    return " x ".join(f"{name}={size}" for name, size in zip(AXES, sizes, strict=True))


def use(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager:
    """Context in which model code sees the mesh; nothing without one."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def active() -> bool:
    """Whether a mesh is set around the running (or traced) code."""
    return not jax.sharding.get_abstract_mesh().empty


def platform() -> str:
    """What the running (or traced) code is for: of the mesh's devices, or else of the default's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def spec(
    *names: str | None, shape: Sequence[int] = (), tokens: str | None = None
) -> PartitionSpec | None:
    """PartitionSpec of logical axes, one a dimension (None: not sharded); None without a mesh.

    Of an array of that `shape`, heads, MLPs, vocabularies and parameters are cut only where their
    mesh axis divides them (4 key heads over 8 chips are not, the MLP beside them is). `tokens` is
    the mesh axis of `TOKENS`.
    """
    if not active():
        return None
    counts = shape or (0,) * len(names)
    pairs = zip(names, counts, strict=True)
    return PartitionSpec(*(tokens if n == TOKENS else n and _rule(n, count) for n, count in pairs))


def _rule(name: str, count: int) -> tuple[str, ...] | str | None:
    if name in _WHOLE_OR_CUT and count % _ways(name):
        return None
    if name == "embed" and jax.sharding.get_abstract_mesh().shape["cp"] == 1:
        return "fsdp"
    return RULES[name]


def axes(*names: str) -> frozenset[str]:
    """The mesh axes of logical ones."""
    rules = [RULES[name] for name in names]
    return frozenset(
        axis for rule in rules for axis in ((rule,) if isinstance(rule, str) else rule or ())
    )


def size(name: str, count: int = 0) -> int:
    """Devices over which a logical axis (of that many entries) is laid out; 1 without a mesh."""
    return 1 if not active() or _rule(name, count) is None else _ways(name)


def _ways(name: str) -> int:
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes[axis] for axis in axes(name))


def axis_of(x: Shaped[Array, "..."], number: int) -> str | None:
    """The mesh axis that an axis of an array is spread over, if it is over several devices."""
    if not active():
        return None
    sizes = jax.sharding.get_abstract_mesh().shape
    found = [axis for axis in _entries(x)[number] if sizes[axis] > 1]
    assert len(found) <= 1, f"an axis is spread over {found}"
    return found[0] if found else None


def shard(x: Shaped[Array, "..."], *names: str | None) -> Shaped[Array, "..."]:
    """Lays an array out by logical axes."""
    return jax.sharding.reshard(x, spec(*names, shape=x.shape)) if active() else x


def einsum(
    formula: str, x: Num[Array, "..."], y: Num[Array, "..."], *, out: Sequence[str | None]
) -> Num[Array, "..."]:
    """einsum of activations with a weight; the result is laid out by the logical axes `out`.

    The axes that are summed are taken in the order in which `y` (the weight) has them: jnp.einsum
    would take them by alphabet, and so turn a weight whose letters stand in another order. The
    weight is put together first (`gathered`). An axis named `TOKENS` stays as it is in `x`.
    """
    if not active():
        return jnp.einsum(_in_order_of_y(formula), x, y)
    x_axes, y_axes, result = re.split(",|->", formula)
    y = gathered(y, _laid(x, [i for i, axis in enumerate(x_axes) if axis not in y_axes]))
    sizes = dict(zip(x_axes + y_axes, x.shape + y.shape, strict=True))
    tokens = None if TOKENS not in out else axis_of(x, x_axes.index(result[out.index(TOKENS)]))
    layout = spec(*out, shape=[sizes[axis] for axis in result], tokens=tokens)
    return jnp.einsum(_in_order_of_y(formula), x, y, out_sharding=layout)


def gathered(weight: Num[Array, "..."], along: Iterable[str]) -> Num[Array, "..."]:
    """A weight put together over the mesh axes that cut parameters, to be used on activations.

    Its gradient stays a partial sum on every chip, however often the weight is used, and then goes
    back to the parameter's own layout in one reduce-scatter, in the type that the weight has here.

    Args:
        along: mesh axes that lay out what the weight is used for all along (a batch, frames).
    """
    if not active():
        return weight
    own, along = _entries(weight), frozenset(along)
    parts = [tuple(axis for axis in entry if axis in _PARAMETERS) for entry in own]
    cut = [(i, axes) for i, axes in enumerate(parts) if axes]
    kept = [tuple(axis for axis in entry if axis not in _PARAMETERS) for entry in own]
    held = frozenset(axis for entry in kept for axis in entry)
    layout = PartitionSpec(*(entry or None for entry in kept), reduced=along - held)
    if len(cut) == 1 and along.intersection(cut[0][1]):
        return _gathered(jax.typeof(weight).sharding.spec, layout, *cut[0], weight)
    return jax.sharding.reshard(weight, layout) if cut else weight


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _gathered(own, layout, place, cut, weight):
    return jax.sharding.reshard(weight, layout)


def _gathered_forward(own, layout, place, cut, weight):
    return jax.sharding.reshard(weight, layout), None


def _gathered_backward(own, layout, place, cut, _, gradient):
    """A reduce-scatter over each axis that cuts the parameter, then a sum over the others.

    What is scattered is the first of three dimensions: of any other XLA's TPU compiler (libtpu
    0.0.51) makes an all-reduce, twice the bytes, unless the parts are multiples of its tiles. Along
    an axis whose devices all have the same gradient, each then takes its own part of it.
    """
    sizes = jax.sharding.get_abstract_mesh().shape
    summing = [axis for axis in cut if axis in layout.reduced]

    def scatter(x):
        x = jnp.moveaxis(x, place, 0)
        for axis in summing:
            shape = (x.shape[0] // sizes[axis], *x.shape[1:])
            x = x.reshape(sizes[axis], -1, shape[-1])
            x = jax.lax.psum_scatter(x, axis, scatter_dimension=0, tiled=False)
            x = x.reshape(shape)
        rest = tuple(sorted(layout.reduced.difference(cut)))
        x = jax.lax.psum(x, rest) if rest else x
        return jnp.moveaxis(x, 0, place)

    summed = PartitionSpec(*layout.partitions, unreduced=layout.reduced)
    parts = [*layout.partitions]
    parts[place] = tuple(summing)
    scattered = PartitionSpec(*parts)
    found = jax.shard_map(scatter, in_specs=summed, out_specs=scattered)(gradient)
    return (jax.sharding.reshard(found, own),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def _entries(x: Array) -> list[tuple[str, ...]]:
    """Mesh axes of every dimension of an array."""
    own = jax.typeof(x).sharding.spec.partitions
    each = (*own, *(None,) * (x.ndim - len(own)))
    return [() if one is None else (one,) if isinstance(one, str) else tuple(one) for one in each]


def _laid(x: Array, dimensions: Iterable[int]) -> frozenset[str]:
    """Mesh axes that lay out some of the dimensions of an array."""
    entries = _entries(x)
    return frozenset(axis for i in dimensions for axis in entries[i])


@functools.cache
def _in_order_of_y(formula: str) -> str:
    """The formula, with other letters if those that are summed are not in alphabetical order."""
    x, y, result = re.split(",|->", formula)
    summed = [axis for axis in y if axis not in result]
    if summed == sorted(summed):
        return formula
    names = dict(zip(dict.fromkeys(y + x), string.ascii_lowercase, strict=False))
    return "{},{}->{}".format(*("".join(names[axis] for axis in part) for part in (x, y, result)))


def reshape(
    x: Shaped[Array, "..."], shape: Sequence[int], *, out: Sequence[str | None]
) -> Shaped[Array, "..."]:
    """reshape whose result is laid out by `out`; only axes that are not sharded may change."""
    return jax.lax.reshape(x, tuple(shape), out_sharding=spec(*out, shape=shape))


def repeat(x: Shaped[Array, "b ..."], count: int, *names: str | None) -> Shaped[Array, "_b ..."]:
    """Each row `count` times, one after another; `names` are the logical axes behind the first."""
    rest = (*names, *(None,) * (x.ndim - 1 - len(names)))
    wide = jnp.broadcast_to(x[:, None], (len(x), count, *x.shape[1:]))
    return reshape(wide, (len(x) * count, *x.shape[1:]), out=("batch", *rest))


def lookup(
    table: Num[Array, "n d"], ids: Int[Array, "b t"], *, out: Sequence[str | None]
) -> Num[Array, "b t d"]:
    """Rows of a table that may itself be sharded."""
    if not active():
        return table[ids]
    return table.at[ids].get(out_sharding=spec(*out, tokens=axis_of(ids, 1)))


def replicated(mesh: jax.sharding.Mesh | None) -> NamedSharding | None:
    """The sharding of small values that every device holds whole."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def put_batch(batch, mesh: jax.sharding.Mesh | None):
    """Moves a host batch to the devices, leading axis over "batch".

    Each process gives its own part of the batch, `own_rows`; the result is the global one.
    """
    if mesh is None:
        return jax.device_put(batch)
    sharding = NamedSharding(mesh, PartitionSpec(RULES["batch"]))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def own_rows(
    mesh: jax.sharding.Mesh | None, count: int, *, host: int | None = None
) -> tuple[int, ...]:
    """Which rows of a global batch of `count` are on the devices of this process, or of `host`."""
    if mesh is None:
        return tuple(range(count))
    host = jax.process_index() if host is None else host
    places = NamedSharding(mesh, PartitionSpec(RULES["batch"])).devices_indices_map((count,))
    own = (part for device, (part,) in places.items() if device.process_index == host)
    return tuple(sorted({row for part in own for row in range(count)[part]}))


def leads(mesh: jax.sharding.Mesh | None, count: int) -> bool:
    """Whether this process is the first of those that have its rows of a global batch."""
    own, before = own_rows(mesh, count), range(jax.process_index())
    return mesh is None or all(own_rows(mesh, count, host=host) != own for host in before)


def put_led(batch, mesh: jax.sharding.Mesh | None):
    """As `put_batch`, of numbers; of processes that have the same rows the one that `leads` counts.

    So what only one of them knows, or what each would find out otherwise, is the same on all.
    """
    put = put_batch(batch, mesh)
    pick = None if mesh is None else _of_leaders(mesh)
    return put if pick is None else pick(put)


@functools.cache
def _of_leaders(mesh: jax.sharding.Mesh) -> Callable | None:
    """What takes the rows of the first process that has them; None where no other has."""
    hosts = np.vectorize(lambda device: device.process_index)(mesh.devices)
    alike = hosts.reshape(*hosts.shape[:2], -1)  # devices with the same rows
    if (alike == alike[..., :1]).all():
        return None
    first = np.arange(alike.shape[-1]) == alike.argmin(axis=-1)[..., None]
    chosen = first.reshape(hosts.shape)

    def pick(batch):
        mine = jnp.asarray(chosen)[tuple(jax.lax.axis_index(axis) for axis in AXES)]
        rest = tuple(axis for axis in AXES if axis not in axes("batch"))
        return jax.tree.map(lambda x: jax.lax.psum(jnp.where(mine, x, 0), rest), batch)

    rows = PartitionSpec(RULES["batch"])
    return jax.jit(jax.shard_map(pick, mesh=mesh, in_specs=rows, out_specs=rows))


def local(x: jax.Array) -> np.ndarray:
    """This process's rows of an array laid out by its first axis, on the host."""
    if x.is_fully_addressable:
        return np.asarray(x)
    rows = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(rows[start]) for start in sorted(rows)])
