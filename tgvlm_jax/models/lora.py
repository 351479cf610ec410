"""Low-rank adapters by a table of patterns; the reference policy is the model without them.

Adapters are two more parameters of a `Linear`, `lora_a` (*inputs, rank) and `lora_b`
(rank, *outputs), laid out as the weight they stand beside. Taking them out of the flat parameter
dictionary (`without`) gives the base model; `merged` folds them into its weights.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tgvlm_jax import mesh
from tgvlm_jax.models.layers import Linear
from tgvlm_jax.schema import LoraConfig
from tgvlm_jax.types import InputError

_ADAPTER = re.compile(r"\.lora_[ab]$")


def attach(model: nnx.Module, table: Sequence[LoraConfig], *, rngs: nnx.Rngs) -> None:
    """Hangs adapters beside the weights that the table names.

    Raises:
        InputError: a pattern matches no linear map.
    """
    used = set()
    for path, module in nnx.iter_modules(model):
        name = ".".join(map(str, path))
        found = next((rule for rule in table if re.search(rule.pattern, name)), None)
        if isinstance(module, Linear) and found is not None:
            used.add(found)
            _attach_one(module, found, rngs)
    for rule in table:
        if rule not in used:
            raise InputError(f"model.lora: {rule.pattern!r} matches no linear map of this model")


def _attach_one(module: Linear, rule: LoraConfig, rngs: nnx.Rngs) -> None:
    letters, weight = module.letters, module.weight[...]
    order = module.formula.split("->")[0].split(",")[1]
    stacked = weight.ndim - len(order)
    sizes = dict(zip(order, weight.shape[stacked:], strict=True))
    names = dict(zip(order, module.axes, strict=True))
    layers, free = weight.shape[:stacked], (None,) * stacked
    inputs = [sizes[axis] for axis in letters.inputs]
    bound = math.prod(inputs) ** -0.5  # Kaiming uniform with a = sqrt(5)
    shape, dtype = (*layers, *inputs, rule.rank), jnp.dtype(rule.param_dtype)
    a = jax.random.uniform(rngs.params(), shape, dtype, -bound, bound)
    b = jnp.zeros((*layers, rule.rank, *(sizes[axis] for axis in letters.outputs)), dtype)
    module.lora_a = nnx.LoRAParam(
        mesh.shard(a, *free, *(names[axis] for axis in letters.inputs), None)
    )
    module.lora_b = nnx.LoRAParam(
        mesh.shard(b, *free, None, *(names[axis] for axis in letters.outputs))
    )
    module.adapter_scale = rule.alpha / rule.rank
    module.adapter_dropout = rule.dropout


def drop_out(model: nnx.Module, key: jax.Array) -> None:
    """Sets adapters that have a dropout to drop inputs, until the model is built anew.

    Each map, and each layer of a stack, has random numbers of its own.
    """
    for path, module in nnx.iter_modules(model):
        if isinstance(module, Linear) and module.adapter_dropout and module.lora_a is not None:
            own = jax.random.fold_in(key, zlib.crc32(".".join(map(str, path)).encode()))
            order = module.formula.split("->")[0].split(",")[1]
            layers = module.weight.shape[: module.weight.ndim - len(order)]
            module.dropout_key = nnx.data(jax.random.split(own, layers) if layers else own)


def is_adapter(name: str) -> bool:
    """Whether a dotted path is that of an adapter."""
    return bool(_ADAPTER.search(name))


def without(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the base model: what a config with an empty table has."""
    return {name: value for name, value in params.items() if not is_adapter(name)}


def adapted(model: nnx.Module) -> dict[str, Linear]:
    """The linear maps that have adapters, by dotted path; an abstract model will do."""
    return {
        ".".join(map(str, path)): module
        for path, module in nnx.iter_modules(model)
        if isinstance(module, Linear) and module.lora_a is not None
    }


def merged(model: nnx.Module, params: Mapping[str, Any]) -> dict[str, Any]:
    """Base parameters with the adapters folded in: W + scale * A B, summed in float32.

    `model` is one with the adapters attached (an abstract one will do); `params` are its own.
    """
    result = without(params)
    for name, module in adapted(model).items():
        weight, a, b = (params[f"{name}.{one}"] for one in ("weight", "lora_a", "lora_b"))
        result[f"{name}.weight"] = folded(module, weight, a, b)
    return result


def fold(model: nnx.Module) -> None:
    """Folds adapters into the weights beside them and takes them away, in place."""
    for module in adapted(model).values():
        assert module.lora_a is not None
        assert module.lora_b is not None
        parts = (module.weight[...], module.lora_a[...], module.lora_b[...])
        module.weight = nnx.Param(folded(module, *parts))
        module.lora_a = module.lora_b = nnx.data(None)


def folded(module: Linear, weight: Any, a: Any, b: Any) -> Any:
    """One weight with its adapter folded in; layer by layer, so that little is kept in float32."""
    letters = module.letters
    order = module.formula.split("->")[0].split(",")[1]
    formula = f"{letters.inputs}Z,Z{letters.outputs}->{order}"

    def one(weight, a, b):
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        change = jnp.einsum(formula, a, b, out_sharding=_layout(weight))
        total = weight.astype(jnp.float32) + module.adapter_scale * change
        return total.astype(weight.dtype)

    if weight.ndim == len(order):
        return one(weight, a, b)
    return jax.lax.map(lambda layer: one(*layer), (weight, a, b))


def _layout(weight: Any) -> Any:
    """The weight's own layout, where a mesh is set."""
    return jax.typeof(weight).sharding.spec if mesh.active() else None
