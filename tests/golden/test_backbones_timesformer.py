"""TimeSformer against transformers (float32): states after each layer, classes, gradients."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.golden.published import Loaded, cases, channels_last, first_layers
from tgvlm_jax.models.timesformer import Timesformer
from tgvlm_jax.weights import timesformer
from tgvlm_jax.weights.timesformer import from_hf

LAYERS, LOGITS, GRADIENTS = 1e-5, 1e-4, 1e-3


@pytest.fixture(scope="module")
def loaded_from():
    return {}


@pytest.fixture
def folder(suite):
    return suite / "timesformer"


@pytest.fixture
def tower(folder, loaded_from):
    if folder not in loaded_from:
        config = from_hf(json.loads((folder / "config.json").read_text()))
        published = load_file(folder / "model.safetensors")
        loaded = Loaded(
            lambda **made: Timesformer(config, **made), timesformer.tensors(config), published
        )
        assert loaded.names == published.keys()
        loaded_from[folder] = loaded
    return loaded_from[folder]


def clips(case):
    return channels_last(case["pixel_values"])[:, None]


def test_states_and_classes(folder, tower):
    case = cases(folder / "io.npz")["native"]

    def run(model, pixels):
        tokens = model(pixels)
        return tokens[:, 0], model.logits(tokens)[:, 0]

    tokens, logits = tower.run(run, clips(case))
    np.testing.assert_allclose(tokens, case["last_hidden_state"], atol=LAYERS, rtol=1e-5)
    np.testing.assert_allclose(logits, case["logits"], atol=LOGITS, rtol=0)


def test_every_layer(folder, tower):
    case = cases(folder / "io.npz")["native"]
    for layers, wanted in enumerate(case["hidden_states"]):

        def run(model, pixels, layers=layers):
            model.blocks, model.norm = first_layers(model.blocks, layers), lambda x: x
            return model(pixels)[:, 0]

        np.testing.assert_allclose(tower.run(run, clips(case)), wanted, atol=LAYERS, rtol=1e-5)


def test_loss_and_gradient_norms(folder, tower):
    case = cases(folder / "io.npz")["train"]
    names = json.loads((folder / "io.json").read_text())["parameter_names"]

    def loss(model, pixels, labels):
        log_probs = jax.nn.log_softmax(model.logits(model(pixels))[:, 0])
        return -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=1))

    value, norms = tower.loss_and_norms(loss, clips(case), case["labels"])
    np.testing.assert_allclose(value, case["loss"], rtol=1e-5)
    got, wanted = [norms[name] for name in names], case["grad_norm"]
    np.testing.assert_allclose(got, wanted, rtol=GRADIENTS, atol=1e-6 * wanted.max())
