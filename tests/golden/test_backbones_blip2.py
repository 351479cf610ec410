"""BLIP-2's EVA ViT and Q-Former, and InstructBLIP's with text, against transformers (float32)."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.golden.published import Loaded, cases, channels_last, first_layers
from tgvlm_jax.models import eva_vit, qformer
from tgvlm_jax.types import Text
from tgvlm_jax.weights import eva
from tgvlm_jax.weights import qformer as qformer_names

LAYERS, GRADIENTS = 1e-5, 1e-3


@pytest.fixture(scope="module")
def loaded_from():
    return {}


@pytest.fixture
def folder(suite):
    return suite / "blip2_qformer"


@pytest.fixture
def blip2(folder, loaded_from):
    """Tower, Q-Former, and what else the file has for them."""
    if folder not in loaded_from:
        hf = json.loads((folder / "config.json").read_text())
        published = load_file(folder / "model.safetensors")
        tower, asker = eva.from_hf(hf), qformer_names.from_hf(hf)
        loaded = (
            Loaded(
                lambda **made: eva_vit.EvaVit(tower, **made),
                eva.tensors(tower, prefix=eva.HF),
                published,
            ),
            Loaded(
                lambda **made: qformer.Qformer(asker, **made),
                qformer_names.tensors(asker, prefix=qformer_names.HF),
                published,
            ),
        )
        rest = published.keys() - loaded[0].names - loaded[1].names
        language = {name for name in rest if name.startswith("language_model.")}
        assert rest - language == {
            "query_tokens", "language_projection.weight", "language_projection.bias"
        }  # fmt: skip
        loaded_from[folder] = (*loaded, published)
    return loaded_from[folder]


@pytest.fixture
def instruct(folder, loaded_from):
    folder = folder / "instruct_text"
    if folder not in loaded_from:
        config = qformer_names.from_hf(json.loads((folder / "config.json").read_text()))
        published = load_file(folder / "model.safetensors")
        loaded = Loaded(
            lambda **made: qformer.Qformer(config, **made),
            qformer_names.tensors(config, prefix=""),
            published,
        )
        assert loaded.names == published.keys()
        loaded_from[folder] = loaded
    return loaded_from[folder]


def test_image_tokens(folder, blip2):
    case, tower = cases(folder / "io.npz")["vision"], blip2[0]

    def run(model, frames):
        tokens = model(frames)
        return tokens[:, 0], model.norm(tokens)[:, 0, 0]

    tokens, pooled = tower.run(run, channels_last(case["pixel_values"])[:, None])
    np.testing.assert_allclose(tokens, case["last_hidden_state"], atol=LAYERS, rtol=1e-5)
    np.testing.assert_allclose(pooled, case["pooled"], atol=LAYERS, rtol=1e-5)


def test_every_layer_of_the_tower(folder, blip2):
    case, tower = cases(folder / "io.npz")["vision"], blip2[0]
    for layers, wanted in enumerate(case["hidden_states"]):

        def run(model, frames, layers=layers):
            model.blocks, model.norm = first_layers(model.blocks, layers), None
            return model(frames)[:, 0]

        got = tower.run(run, channels_last(case["pixel_values"])[:, None])
        np.testing.assert_allclose(got, wanted, atol=LAYERS, rtol=1e-5)


@pytest.mark.parametrize("name", ["qformer", "qformer_masked"])
def test_queries_only(folder, blip2, name):
    arrays, (_, asker, published) = cases(folder / "io.npz"), blip2
    case, image = arrays[name], arrays["vision"]["last_hidden_state"]
    mask = case.get("encoder_attention_mask", np.ones(image.shape[:2])).astype(bool)

    def run(model, image, mask):
        queries = jnp.broadcast_to(
            published["query_tokens"], (len(image), *published["query_tokens"].shape[1:])
        )
        return model(queries[:, None], image[:, None], image_mask=mask[:, None])[:, 0]

    got = asker.run(run, image, mask)
    np.testing.assert_allclose(got, case["last_hidden_state"], atol=LAYERS, rtol=1e-5)
    if "projected" in case:
        weight, bias = (published[f"language_projection.{name}"] for name in ("weight", "bias"))
        np.testing.assert_allclose(got @ weight.T + bias, case["projected"], atol=LAYERS, rtol=1e-5)


def answered(model, arrays, text):
    states = model(
        jnp.asarray(arrays["query_embeds"])[:, None],
        jnp.asarray(arrays["encoder_hidden_states"])[:, None],
        text=text,
    )
    return states[:, 0]


def text_of(arrays, positions=None):
    ids = jnp.asarray(arrays["input_ids"])
    if positions is not None:
        positions = jnp.broadcast_to(jnp.asarray(positions), ids.shape)
    return Text(ids=ids, mask=jnp.asarray(arrays["text_mask"]).astype(bool), positions=positions)


def there(arrays):
    """Slots that are queries or real text."""
    queries = np.ones(arrays["query_embeds"].shape[:2], bool)
    return np.concatenate([queries, arrays["text_mask"].astype(bool)], axis=1)


@pytest.mark.parametrize("name", ["text", "text_positions"])
def test_with_text(folder, instruct, name):
    arrays = cases(folder / "instruct_text" / "io.npz")
    given, case = arrays["text"], arrays[name]
    text = text_of(given, case.get("position_ids"))
    got = instruct.run(answered, given, text)
    keep = there(given) if name == "text" else np.ones(got.shape[:2], bool)
    np.testing.assert_allclose(got[keep], case["last_hidden_state"][keep], atol=LAYERS, rtol=1e-5)


def test_every_layer_with_text(folder, instruct):
    given = cases(folder / "instruct_text" / "io.npz")["text"]
    for layers, wanted in enumerate(given["hidden_states"]):
        if not layers:
            continue

        def run(model, arrays, text, layers=layers):
            model.config = dataclasses.replace(model.config, layers=layers)
            model.layers = first_layers(model.layers, layers)
            model.cross = first_layers(model.cross, model.config.crossings)
            return answered(model, arrays, text)

        got, keep = instruct.run(run, given, text_of(given)), there(given)
        np.testing.assert_allclose(got[keep], wanted[keep], atol=LAYERS, rtol=1e-5)


def test_loss_and_gradient_norms_with_text(folder, instruct):
    arrays = cases(folder / "instruct_text" / "io.npz")
    names = json.loads((folder / "instruct_text" / "io.json").read_text())["parameter_names"]
    case, given = arrays["train"], arrays["text"]
    queries = given["query_embeds"].shape[1]

    def loss(model, arrays, text, weight):
        return jnp.sum(answered(model, arrays, text)[:, :queries] * weight[:, :queries])

    value, norms = instruct.loss_and_norms(loss, given, text_of(given), case["weight"])
    # Hundreds of terms of either sign: the rounding is that of their sizes, not of the sum.
    np.testing.assert_allclose(value, case["loss"], atol=1e-4, rtol=1e-5)
    got, wanted = [norms[name] for name in names], case["grad_norm"]
    np.testing.assert_allclose(got, wanted, rtol=GRADIENTS, atol=1e-6 * wanted.max())
