"""The published towers at sizes of a test, filled with numbers away from any neutral value."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tgvlm_jax import mesh
from tgvlm_jax.models.compressor import FrameEncoder
from tgvlm_jax.models.timesformer import Timesformer
from tgvlm_jax.schema import (
    CompressorConfig,
    EvaConfig,
    FrameEncoderConfig,
    QformerConfig,
    TimesformerConfig,
)
from tgvlm_jax.types import Text

EVA = EvaConfig(image=12, patch=4, width=16, layers=2, heads=2, hidden=24)
QFORMER = QformerConfig(
    vocab_size=31, positions=12, width=8, image_width=16, layers=3, heads=2, hidden=12
)
ENCODER = FrameEncoderConfig(
    eva=EVA, compressor=CompressorConfig(qformer=QFORMER, queries=5, width=12), chunk=2
)
TIMESFORMER = TimesformerConfig(
    image=12, patch=4, frames=4, width=16, layers=2, heads=2, hidden=24, labels=4, chunk=2
)
F32 = jnp.dtype("float32")


def graph_of(make):
    """Blueprint and parameter shapes of `make(rngs=, dtype=)`, nothing allocated."""
    graph, state = nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0), dtype=F32)))
    flat = nnx.to_flat_state(state)
    return graph, {".".join(map(str, path)): leaf.shape for path, leaf in flat}


def random_params(shapes, *, seed=0):
    rng = np.random.default_rng(seed)
    scale = {name: 1.0 if name.endswith("scale") else 0.0 for name in shapes}
    return {
        name: scale[name] + np.float32(0.3) * rng.standard_normal(shape, np.float32)
        for name, shape in sorted(shapes.items())
    }


def build(graph, params):
    state = {
        tuple(name.split(".")): nnx.Param(jnp.asarray(value)) for name, value in params.items()
    }
    return nnx.merge(graph, nnx.from_flat_state(state))


def on_mesh(make, params, chosen):
    """The parameters as the module lays them out on a mesh."""
    with mesh.use(chosen):
        model = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0), dtype=F32))
    flat = nnx.to_flat_state(nnx.state(model))
    layout = {".".join(map(str, path)): leaf.get_value().sharding for path, leaf in flat}
    assert any("fsdp" in str(sharding.spec) for sharding in layout.values())
    specs = {name: jax.sharding.NamedSharding(chosen, s.spec) for name, s in layout.items()}
    return {name: jax.device_put(params[name], specs[name]) for name in layout}


def encoder(config=ENCODER):
    return lambda **made: FrameEncoder(config, **made)


def timesformer(config=TIMESFORMER):
    return lambda **made: Timesformer(config, **made)


def frames(*lead, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*lead, EVA.image, EVA.image, 3), np.float32)


def text(batch, *, length=7, seed=0):
    """Questions of different lengths, the last one empty."""
    rng = np.random.default_rng(seed)
    lengths = np.linspace(length, 0, batch).astype(int)
    return Text(
        ids=rng.integers(0, QFORMER.vocab_size, (batch, length)).astype(np.int32),
        mask=np.arange(length) < lengths[:, None],
    )
