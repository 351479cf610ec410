import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import towers
from tgvlm_jax.models.qformer import Qformer
from tgvlm_jax.schema.presets import QFORMER_BLIP2, QFORMER_INSTRUCT
from tgvlm_jax.types import InputError, Text
from tgvlm_jax.weights import qformer


def make(**changes):
    config = dataclasses.replace(towers.QFORMER, **changes)
    return lambda **made: Qformer(config, **made)


def built(**changes):
    graph, shapes = towers.graph_of(make(**changes))
    return towers.build(graph, towers.random_params(shapes))


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


QUERIES, IMAGE = tokens(2, 3, 5, 8), tokens(2, 3, 4, 16, seed=1)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (QFORMER_INSTRUCT, 185_660_160),
        (dataclasses.replace(QFORMER_INSTRUCT, vocab_size=30522), 185_659_392),
        (QFORMER_BLIP2, 105_137_664),
    ],
)
def test_published_sizes(config, count):
    _, shapes = towers.graph_of(lambda **made: Qformer(config, **made))
    assert sum(map(math.prod, shapes.values())) == count


@pytest.mark.parametrize(("layers", "every"), [(3, 2), (4, 2), (2, 1), (4, 3), (1, 2)])
def test_the_layers_that_read_the_image(layers, every):
    """Against the layers run one after another."""
    model = built(layers=layers, cross_every=every)
    x, crossings = model.norm(QUERIES), 0
    for i in range(layers):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], model.layers)
        cross = None
        if i % every == 0:
            cross = jax.tree.map(lambda leaf, i=crossings: leaf[i], model.cross)
            crossings += 1
        x = layer(x, IMAGE, cross=cross, queries=5, mask=None, image_mask=None)
    assert model.cross.norm.scale.shape[0] == crossings
    np.testing.assert_allclose(model(QUERIES, IMAGE), x, atol=1e-5)


def test_padding_of_the_text_is_not_seen():
    model = built()
    text = towers.text(2, length=7)
    short = jax.jit(lambda text: model(QUERIES, IMAGE, text=text)[:, :, :5])
    padded = Text(
        ids=np.pad(text.ids, ((0, 0), (0, 3)), constant_values=9),
        mask=np.pad(text.mask, ((0, 0), (0, 3))),
    )
    np.testing.assert_allclose(short(padded), short(text), atol=1e-5)
    other = Text(ids=np.where(text.mask, text.ids, 11), mask=text.mask)
    np.testing.assert_array_equal(short(other), short(text))


def test_an_empty_text_is_no_text():
    model = built()
    none = Text(ids=np.zeros((2, 4), np.int32), mask=np.zeros((2, 4), bool))
    run = jax.jit(lambda text: model(QUERIES, IMAGE, text=text))
    np.testing.assert_allclose(run(none)[:, :, :5], model(QUERIES, IMAGE), atol=1e-5)


def test_the_text_changes_the_queries_of_its_own_sample():
    model = built()
    text = towers.text(2)
    run = jax.jit(lambda text: model(QUERIES, IMAGE, text=text)[:, :, :5])
    ids = text.ids.copy()
    ids[0, 2] = (ids[0, 2] + 1) % 31
    moved = np.abs(run(Text(ids=ids, mask=text.mask)) - run(text)).max(axis=(2, 3))
    assert moved[0].min() > 1e-4
    np.testing.assert_array_equal(moved[1], 0)


def test_masked_image_tokens_are_not_read():
    model = built(vocab_size=0)
    mask = jnp.asarray([[[True, True, False, True]]] * 2)
    run = jax.jit(lambda image: model(QUERIES, image, image_mask=mask))
    np.testing.assert_array_equal(run(IMAGE.at[:, :, 2].set(7.0)), run(IMAGE))
    assert np.abs(run(IMAGE.at[:, :, 1].set(7.0)) - run(IMAGE)).max() > 1e-3


def test_text_positions_may_be_given():
    model = built()
    text = towers.text(2)
    run = jax.jit(lambda text: model(QUERIES, IMAGE, text=text)[:, :, :5])
    order = np.broadcast_to(np.arange(7, dtype=np.int32), (2, 7))
    same = Text(ids=text.ids, mask=text.mask, positions=order)
    np.testing.assert_allclose(run(same), run(text), atol=1e-5)
    later = Text(ids=text.ids, mask=text.mask, positions=order + 3)
    assert np.abs(run(later) - run(text))[0].max() > 1e-4


def test_what_is_refused():
    with pytest.raises(ValueError, match="queries only"):
        built(vocab_size=0)(QUERIES, IMAGE, text=jax.tree.map(jnp.asarray, towers.text(2)))
    with pytest.raises(InputError, match="relu"):
        qformer.from_hf({"model_type": "blip-2", "qformer_config": {"hidden_act": "relu"}})
    with pytest.raises(InputError, match="use_qformer_text_input"):
        qformer.from_hf({"model_type": "blip_2_qformer", "use_qformer_text_input": True})
    with pytest.raises(InputError, match="model_type 'llama' has no Q-Former"):
        qformer.from_hf({"model_type": "llama", "hidden_size": 8})
