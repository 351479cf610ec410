"""A module of ours with published weights in it, and the way back for its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tgvlm_jax.weights import mapping


class Loaded:
    """Builds a module, fills it from published tensors, and checks that they come back equal."""

    def __init__(self, make, tensors, published):
        self.tensors = tensors
        self.graph, state = nnx.split(make(rngs=nnx.Rngs(0), dtype=jnp.dtype("float32")))
        shapes = {".".join(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(state)}
        self.params = mapping.to_ours(tensors, published.__getitem__, shapes=shapes)
        assert {name: value.shape for name, value in self.params.items()} == shapes
        back = mapping.to_theirs(tensors, self.params)
        for name, value in back.items():
            np.testing.assert_array_equal(value, published[name])
        self.names = set(back)

    def build(self, params):
        state = {tuple(name.split(".")): nnx.Param(value) for name, value in params.items()}
        return nnx.merge(self.graph, nnx.from_flat_state(state))

    def run(self, function, *arrays):
        """Jitted `function(module, *arrays)`."""
        return jax.jit(lambda params, *a: function(self.build(params), *a))(self.params, *arrays)

    def loss_and_norms(self, function, *arrays):
        """Loss, and by published name the norm of its gradient."""
        loss = jax.value_and_grad(lambda params, *a: function(self.build(params), *a))
        value, grads = jax.jit(loss)(self.params, *arrays)
        theirs = mapping.to_theirs(self.tensors, jax.device_get(grads))
        return value, {name: np.linalg.norm(grad) for name, grad in theirs.items()}


def cases(path):
    """The arrays of an io.npz, by case and name."""
    found = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            case, name = key.split(".", 1)
            found.setdefault(case, {})[name] = arrays[key]
    return found


def channels_last(pixels):
    """(..., c, y, x) as published -> (..., y, x, c) as ours."""
    return jnp.moveaxis(jnp.asarray(pixels), -3, -1)


def first_layers(tree, count):
    """Stacked layers without the later ones."""
    return jax.tree.map(lambda leaf: leaf[:count], tree)
