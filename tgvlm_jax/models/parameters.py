"""Models as a blueprint plus a flat dictionary of named arrays.

Below the modules, everything (optimiser, checkpoints, groups, weight maps) works on one flat dict
from dotted path to array, such as `decoder.blocks.q.weight`.

A critic (`ModelConfig.critic`) is a second model in the same dictionary: what it has of its own
begins with `critic.`, and `critic.value` makes a value of a state.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from tgvlm_jax import mesh
from tgvlm_jax.models import lora
from tgvlm_jax.models.layers import Linear
from tgvlm_jax.models.vlm import VideoLanguageModel
from tgvlm_jax.schema import ModelConfig

Params: TypeAlias = dict[str, Any]
_CRITIC = "critic."
_VALUE = "critic.value"


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
    critic: "Blueprint | None" = None

    def build(self, params: Params) -> VideoLanguageModel:
        """The model with these parameters; cheap, for use inside a jitted function."""
        state: dict[Any, nnx.Param] = {
            tuple(name.split(".")): nnx.Param(value)
            for name, value in params.items()
            if not name.startswith(_CRITIC)
        }
        return nnx.merge(self.graph, nnx.from_flat_state(state))

    def build_critic(self, params: Params) -> "Critic":
        """The critic with these parameters; what it shares with the policy has no gradient."""
        assert self.critic is not None, "the model has no critic"
        own = {
            name.removeprefix(_CRITIC): value
            for name, value in params.items()
            if name.startswith(_CRITIC)
        }
        shared = {
            name: jax.lax.stop_gradient(params[name])
            for name in self.critic.shapes
            if name not in own
        }
        value = own.pop("value")
        return Critic(model=self.critic.build(own | shared), value=value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Critic:
    """A model and what makes a value of its states."""

    model: VideoLanguageModel
    value: Float[Array, "d"]

    def values(self, states: Float[Array, "b t d"]) -> Float[Array, "b t"]:
        """The value before each token; `states` are un-normalised, as `Predicted.final` is."""
        normed = self.model.decoder.norm(states).astype(jnp.float32)
        return jnp.einsum("btd,d->bt", normed, self.value)


@functools.cache
def blueprint(config: ModelConfig) -> Blueprint:
    """The blueprint of a config, without allocating any array."""
    model = nnx.eval_shape(lambda: VideoLanguageModel(config, rngs=nnx.Rngs(0)))
    critic = None if config.critic is None else blueprint(critic_config(config))
    matrices = {
        ".".join(map(str, (*path, "weight"))): _matrix(module)
        for path, module in nnx.iter_modules(model)
        if isinstance(module, Linear)
    }
    shapes = {name: leaf.shape for name, leaf in _flat(model).items()}
    graph = nnx.graphdef(model)
    if critic is None:
        return Blueprint(graph=graph, shapes=shapes, matrices=matrices)
    own = _own(config, critic.shapes)
    more = {_CRITIC + name: critic.shapes[name] for name in own}
    turned = {_CRITIC + name: critic.matrices[name] for name in own if name in critic.matrices}
    return Blueprint(
        graph=graph,
        shapes=shapes | more | {_VALUE: (config.decoder.width,)},
        matrices=matrices | turned,
        critic=critic,
    )


def critic_config(config: ModelConfig) -> ModelConfig:
    """The critic as a model."""
    assert config.critic is not None, "the model has no critic"
    return dataclasses.replace(config, lora=config.critic.lora, critic=None)


def _own(config: ModelConfig, names: Iterable[str]) -> list[str]:
    """Which parameters of the critic it does not share with the policy."""
    assert config.critic is not None
    return [name for name in names if config.critic.kind == "copy" or lora.is_adapter(name)]


@functools.partial(jax.jit, static_argnums=0)
def init(config: ModelConfig, key: jax.Array) -> Params:
    """Fresh parameters, laid out on the mesh that is set."""
    params = _flat(VideoLanguageModel(config, rngs=nnx.Rngs(key)))
    if config.critic is None:
        return params
    inner = init(critic_config(config), jax.random.fold_in(key, 1))
    own = {_CRITIC + name: inner[name] for name in _own(config, inner)}
    value = mesh.shard(jnp.zeros(config.decoder.width, jnp.float32), None)
    return copied(params | own | {_VALUE: value}, {})


def copied(params: Params, loaded: Params) -> Params:
    """The same with a critic that begins as the policy is, where `loaded` has none of its own."""
    new = {
        name: params[name.removeprefix(_CRITIC)]
        for name in params
        if name.startswith(_CRITIC)
        and not lora.is_adapter(name)
        and name not in loaded
        and name.removeprefix(_CRITIC) in params
    }
    return params | new


def is_critic(name: str) -> bool:
    """Whether a dotted path is that of a parameter of the critic."""
    return name.startswith(_CRITIC)


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
