"""Models as a blueprint plus a flat dictionary of named arrays.

Below the modules, everything (optimiser, checkpoints, groups, weight maps) works on one flat dict
from dotted path to array, such as `decoder.blocks.q.weight`.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable
from typing import Any, TypeAlias

import jax
import numpy as np
from flax import nnx

from tgvlm_jax.models.layers import Linear
from tgvlm_jax.models.vlm import VideoLanguageModel
from tgvlm_jax.schema import ModelConfig

Params: TypeAlias = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matrix:
    """Which axes of a weight are inputs and which outputs; the others are stacked layers."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Blueprint:
    """All of a model but its numbers; one object a config, so that it can be a static argument."""

    graph: nnx.GraphDef
    shapes: dict[str, tuple[int, ...]]
    matrices: dict[str, Matrix]

    def build(self, params: Params) -> VideoLanguageModel:
        """The model with these parameters; cheap, for use inside a jitted function."""
        state: dict[Any, nnx.Param] = {
            tuple(name.split(".")): nnx.Param(value) for name, value in params.items()
        }
        return nnx.merge(self.graph, nnx.from_flat_state(state))


@functools.cache
def blueprint(config: ModelConfig) -> Blueprint:
    """The blueprint of a config, without allocating any array."""
    model = nnx.eval_shape(lambda: VideoLanguageModel(config, rngs=nnx.Rngs(0)))
    matrices = {
        ".".join(map(str, (*path, "weight"))): _matrix(module)
        for path, module in nnx.iter_modules(model)
        if isinstance(module, Linear)
    }
    shapes = {name: leaf.shape for name, leaf in _flat(model).items()}
    return Blueprint(graph=nnx.graphdef(model), shapes=shapes, matrices=matrices)


@functools.partial(jax.jit, static_argnums=0)
def init(config: ModelConfig, key: jax.Array) -> Params:
    """Fresh parameters, laid out on the mesh that is set."""
    return _flat(VideoLanguageModel(config, rngs=nnx.Rngs(key)))


def reach_tower(trained: Iterable[str]) -> bool:
    """Whether any of the parameters that are trained is the tower's."""
    return any(name.startswith("tower.") for name in trained)


def digest(params: Params) -> str:
    """A hash of names and values, as they are in float32; the values must be on this host."""
    found = hashlib.sha256()
    for name, value in sorted(params.items()):
        found.update(name.encode())
        found.update(np.ascontiguousarray(np.asarray(value, np.float32)).tobytes())
    return found.hexdigest()


def _flat(model: nnx.Module) -> Params:
    leaves = nnx.to_flat_state(nnx.state(model))
    return {".".join(map(str, path)): leaf.get_value() for path, leaf in leaves}


def _matrix(module: Linear) -> Matrix:
    left, result = module.formula.split("->")
    x_axes, w_axes = left.split(",")
    stacked = len(module.weight.shape) - len(w_axes)
    places = {axis: stacked + i for i, axis in enumerate(w_axes)}
    return Matrix(
        inputs=tuple(i for axis, i in places.items() if axis not in result),
        outputs=tuple(i for axis, i in places.items() if axis in result and axis not in x_axes),
    )
