"""Phi-3 and Llama / SmolLM2 text decoders against transformers (float32)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from tgvlm_jax.models.decoder import Decoder
from tgvlm_jax.ops.cross_entropy import token_log_probs
from tgvlm_jax.ops.masks import causal_mask
from tgvlm_jax.schema import EvidenceConfig, ModelConfig
from tgvlm_jax.weights import mapping, text

# Absolute, on unit-scale logits and states; the vectors themselves carry up to 3e-5 of noise.
LAYERS, LOGITS, GRADIENTS = 2e-5, 1e-4, 1e-3


class Reference:
    """One folder of vectors, with our decoder holding its weights."""

    def __init__(self, folder, weights=None):
        self.hf = json.loads((folder / "config.json").read_text())
        self.arrays = np.load(folder / "io.npz")
        names = json.loads((folder / "io.json").read_text())
        self.parameter_names = names.get("parameter_names", [])
        config = ModelConfig(decoder=text.from_hf(self.hf), evidence=EvidenceConfig(bank_layer=1))
        self.config = config
        self.tensors = text.tensors(config.decoder)
        published = load_file(weights or folder / "model.safetensors")
        self.graph, state = nnx.split(Decoder(config, rngs=nnx.Rngs(0)))
        self.flat = nnx.to_flat_state(state)
        shapes = {".".join(map(str, path)): leaf.shape for path, leaf in self.flat}
        self.params = mapping.to_ours(self.tensors, published.__getitem__, shapes=shapes)
        assert set(self.params) == set(shapes)
        assert {k: v.shape for k, v in self.params.items()} == shapes
        back = mapping.to_theirs(self.tensors, self.params)
        assert back.keys() == published.keys()
        for name, value in published.items():
            np.testing.assert_array_equal(back[name], value)

    def build(self, params):
        state = {tuple(name.split(".")): nnx.Param(value) for name, value in params.items()}
        return nnx.merge(self.graph, nnx.from_flat_state(state))

    def run(self, params, ids, *, positions=None, mask=None, visible=None):
        decoder = self.build(params)
        order = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
        positions = order if positions is None else jnp.asarray(positions)
        valid = jnp.ones(ids.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
        window = self.config.decoder.sliding_window
        seen = causal_mask(order, valid, window=window).dense()
        if visible is not None:
            seen = jnp.broadcast_to(jnp.asarray(visible).astype(bool), seen.shape)
        taps = tuple(range(self.config.decoder.layers))
        states = decoder(
            decoder.embed(jnp.asarray(ids)), turn=decoder.rotation(positions), mask=seen, taps=taps
        )
        hidden = [states.taps[tap] for tap in taps] + [decoder.norm(states.final)]
        return {"hidden": jnp.stack(hidden), "logits": decoder.logits(states.final)}

    def case(self, name):
        prefix = f"{name}."
        return {k[len(prefix) :]: self.arrays[k] for k in self.arrays.files if k.startswith(prefix)}


FOLDERS = ("phi3", "phi3/gqa_partial", "llama_smollm2")


@pytest.fixture(scope="module")
def references():
    return {}


@pytest.fixture(params=FOLDERS)
def reference(request, suite, references):
    if request.param not in references:
        references[request.param] = Reference(suite / request.param)
    return references[request.param]


@pytest.mark.parametrize("name", ["plain", "right_pad", "left_pad", "mask4d", "packed"])
def test_logits_and_states(reference, name):
    case = reference.case(name)
    if not case:
        pytest.skip(f"no case {name!r} there")
    keep = case.get("attention_mask", np.ones(case["input_ids"].shape)).astype(bool)
    got = jax.jit(reference.run)(
        reference.params,
        case["input_ids"],
        positions=case.get("position_ids"),
        mask=case.get("attention_mask"),
        visible=case.get("visible"),
    )
    np.testing.assert_allclose(got["logits"][keep], case["logits"][keep], atol=LOGITS, rtol=0)
    if "hidden_states" in case:
        np.testing.assert_allclose(got["hidden"], case["hidden_states"], atol=LAYERS, rtol=1e-5)


def test_loss_and_gradient_norms(reference):
    case, ids = reference.case("train"), reference.case("plain")["input_ids"]
    if not case:
        pytest.skip("no training case there")
    labels = case["labels"]

    def loss(params):
        decoder = reference.build(params)
        order = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
        window = reference.config.decoder.sliding_window
        mask = causal_mask(order, jnp.ones(ids.shape, bool), window=window)
        states = decoder(
            decoder.embed(jnp.asarray(ids)), turn=decoder.rotation(order), mask=mask
        ).final[:, :-1]
        wanted = jnp.asarray(labels[:, 1:])
        log_probs = token_log_probs(decoder.norm(states), decoder.head(), jnp.maximum(wanted, 0))
        counted = wanted >= 0
        return -jnp.sum(jnp.where(counted, log_probs, 0.0)) / jnp.sum(counted.astype(jnp.float32))

    value, grads = jax.jit(jax.value_and_grad(loss))(reference.params)
    np.testing.assert_allclose(value, case["loss"], rtol=1e-5)
    theirs = mapping.to_theirs(reference.tensors, jax.device_get(grads))
    norms = [np.linalg.norm(theirs[name]) for name in reference.parameter_names]
    np.testing.assert_allclose(norms, case["grad_norm"], rtol=GRADIENTS)


def check_greedy(reference, case):
    """Teacher-free greedy tokens, each from a whole pass; a cache must not change them."""
    ids, new = case["input_ids"], case["new_ids"]
    mask = case.get("attention_mask", np.ones_like(ids))
    run = jax.jit(reference.run)
    first, length = ids.shape[1], ids.shape[1] + new.shape[1]
    tokens = np.zeros((len(ids), length), np.int32)
    seen = np.zeros((len(ids), length), np.int32)
    tokens[:, :first], seen[:, :first] = ids, mask
    for place in range(first, length):
        positions = np.maximum(np.cumsum(seen, axis=1) - 1, 0).astype(np.int32)
        logits = run(reference.params, tokens, positions=positions, mask=seen)["logits"]
        wanted = case["logits"][:, place - first]
        np.testing.assert_allclose(logits[:, place - 1], wanted, atol=LOGITS, rtol=0)
        tokens[:, place], seen[:, place] = np.argmax(logits[:, place - 1], axis=-1), 1
    np.testing.assert_array_equal(tokens[:, first:], new)


def test_greedy_tokens(reference):
    case = reference.case("generate")
    if not case:
        pytest.skip("no generation case there")
    check_greedy(reference, case)


def test_longrope(suite):
    reference = Reference(suite / "phi3/longrope", weights=suite / "phi3/model.safetensors")
    run = jax.jit(reference.run)
    compared = 0
    for key in reference.arrays.files:
        if not key.endswith(".logits"):
            continue
        case = reference.case(key.removesuffix(".logits"))
        compared += 1
        if "new_ids" in case:
            check_greedy(reference, case)
            continue
        got = run(reference.params, case["input_ids"])["logits"]
        np.testing.assert_allclose(got, case["logits"], atol=LOGITS, rtol=0)
    assert compared
