"""Adapters: zero at first, trained alone, merged to the same function, laid out as their weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tgvlm_jax import mesh
from tgvlm_jax.models import lora
from tgvlm_jax.models.decoder import Decoder
from tgvlm_jax.ops.masks import causal_mask
from tgvlm_jax.schema import (
    DecoderConfig,
    EvidenceConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
)
from tgvlm_jax.types import InputError

TABLE = (
    LoraConfig(pattern=r"blocks\.(q|v|qkv)$", rank=4, alpha=8.0),
    LoraConfig(pattern=r"blocks\.(o|down)$", rank=2, alpha=2.0),
)


def config(*, fused):
    decoder = DecoderConfig(
        vocab_size=64, width=16, layers=2, heads=4, kv_heads=2, head_size=8, hidden=32, fused=fused
    )
    return ModelConfig(decoder=decoder, evidence=EvidenceConfig(bank_layer=1))


def build(*, fused, table=TABLE, key=0):
    decoder = Decoder(config(fused=fused), rngs=nnx.Rngs(key))
    if table:
        lora.attach(decoder, table, rngs=nnx.Rngs(1))
    return decoder


def flat(decoder):
    state = nnx.to_flat_state(nnx.state(decoder))
    return {".".join(map(str, path)): leaf[...] for path, leaf in state}


def with_values(decoder, params):
    state = {tuple(name.split(".")): nnx.Param(value) for name, value in params.items()}
    return nnx.merge(nnx.graphdef(decoder), nnx.from_flat_state(state))


@jax.jit
def logits(decoder):
    ids = jnp.arange(12, dtype=jnp.int32).reshape(4, 3)
    order = jnp.broadcast_to(jnp.arange(3, dtype=jnp.int32), ids.shape)
    mask = causal_mask(order, jnp.ones(ids.shape, bool))
    states = decoder(decoder.embed(ids), turn=decoder.rotation(order), mask=mask)
    return decoder.logits(states.final)


def perturbed(decoder):
    """Adapters that are no longer zero."""
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.normal(0, 0.3, value.shape), value.dtype)
        if name.endswith("lora_b")
        else value
        for name, value in flat(decoder).items()
    }


@pytest.mark.parametrize("fused", [False, True])
def test_fresh_adapters_change_nothing_and_base_parameters_are_the_same(fused):
    adapted, base = build(fused=fused), build(fused=fused, table=())
    np.testing.assert_array_equal(logits(adapted), logits(base))
    assert lora.without(flat(adapted)).keys() == flat(base).keys()


@pytest.mark.parametrize("fused", [False, True])
def test_merged_is_the_same_function(fused):
    adapted, base = build(fused=fused), build(fused=fused, table=())
    params = perturbed(adapted)
    changed = logits(with_values(adapted, params))
    assert np.abs(changed - logits(base)).max() > 0.1
    merged = lora.merged(adapted, params)
    assert merged.keys() == flat(base).keys()
    np.testing.assert_allclose(logits(with_values(base, merged)), changed, atol=1e-5)
    np.testing.assert_array_equal(logits(with_values(base, lora.without(params))), logits(base))


def test_shapes_and_scales():
    adapted = build(fused=True)
    shapes = {name: v.shape for name, v in flat(adapted).items() if lora.is_adapter(name)}
    assert shapes == {
        "blocks.qkv.lora_a": (2, 16, 4),
        "blocks.qkv.lora_b": (2, 4, 2, 4, 8),
        "blocks.o.lora_a": (2, 2, 2, 8, 2),
        "blocks.o.lora_b": (2, 2, 16),
        "blocks.down.lora_a": (2, 32, 2),
        "blocks.down.lora_b": (2, 2, 16),
    }
    assert adapted.blocks.qkv.adapter_scale == 2.0
    assert adapted.blocks.o.adapter_scale == 1.0


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(InputError, match="'nothing' matches no linear map"):
        build(fused=False, table=(LoraConfig(pattern="nothing"),))


def test_sharded_equals_one_device():
    want = logits(with_values(build(fused=False), perturbed(build(fused=False))))
    with mesh.use(mesh.make(MeshConfig(fsdp=4, tp=2))):
        adapted = build(fused=False)
        own = flat(adapted)
        assert own["blocks.q.lora_a"].sharding.spec == jax.P(None, "fsdp", None)
        assert own["blocks.q.lora_b"].sharding.spec == jax.P(None, None, "tp", None, None)
        params = {
            name: jax.device_put(np.asarray(value), own[name].sharding)
            for name, value in perturbed(adapted).items()
        }
        np.testing.assert_allclose(logits(with_values(adapted, params)), want, atol=1e-5)
        base = build(fused=False, table=())
        merged = lora.merged(adapted, params)
        assert merged["blocks.q.weight"].sharding == own["blocks.q.weight"].sharding
        np.testing.assert_allclose(logits(with_values(base, merged)), want, atol=1e-5)
