"""Patterns cut and arrange published tensors as the models they come from read them."""

import numpy as np
import pytest

from tests.weights import checkpoints
from tests.weights.checkpoints import MODELS, PHI3, QWEN3
from tgvlm_jax.weights import mapping, text
from tgvlm_jax.weights.mapping import Part, Tensor


def phi3():
    make, tensors = MODELS["phi3"]
    shapes = checkpoints.shapes_of(checkpoints.like(make, np.float32))
    return tensors, shapes, checkpoints.random_bits(tensors, shapes, np.uint32)


def test_sizes_and_shapes_of_a_part():
    part = Part(path="w", pattern="(h s k) d -> d h s k", piece=("s", 1, 3))
    ours = (5, 2, 4, 3)
    assert part.sizes(ours) == {"d": 5, "h": 2, "s": 2, "k": 3}
    assert part.theirs(ours) == (12, 5)
    assert part.cut(ours) == (slice(None), slice(None), slice(1, 3), slice(None))
    plain = Part(path="cls", pattern="1 1 d -> d")
    assert plain.theirs((7,)) == (1, 1, 7)
    assert plain.cut((7,)) == (slice(None),)


def test_names_of_layers():
    shapes = {"w": (3, 4, 2), "v": (2,)}
    each = mapping.tensor("layer.{i}.w", "w", "e d -> d e")
    assert mapping.numbered(each, shapes) == ["layer.0.w", "layer.1.w", "layer.2.w"]
    some = Tensor(name="layer.{i}.w", parts=each.parts, step=2)
    assert mapping.numbered(some, shapes) == ["layer.0.w", "layer.2.w", "layer.4.w"]
    assert mapping.published_shape(each, shapes) == (2, 4)
    assert mapping.numbered(mapping.tensor("v", "v", "d -> d"), shapes) == ["v"]


def test_the_fused_projections_of_phi3_head_by_head():
    """q | k | v along the rows, heads one after another within each; gate | up."""
    tensors, shapes, published = phi3()
    ours = mapping.to_ours(tensors, published.__getitem__, shapes=shapes)
    kv, size, group = PHI3.kv_heads, PHI3.head_size, PHI3.heads // PHI3.kv_heads
    for layer in range(PHI3.layers):
        name = f"model.layers.{layer}."
        qkv = published[f"{name}self_attn.qkv_proj.weight"]
        q, k, v = np.split(qkv, [PHI3.heads * size, (PHI3.heads + kv) * size])
        for head in range(PHI3.heads):
            got = ours["blocks.qkv.weight"][layer][:, head // group, head % group]
            np.testing.assert_array_equal(got, q[head * size : (head + 1) * size].T)
        for place, rows in ((group, k), (group + 1, v)):
            for head in range(kv):
                got = ours["blocks.qkv.weight"][layer][:, head, place]
                np.testing.assert_array_equal(got, rows[head * size : (head + 1) * size].T)
        both = published[f"{name}mlp.gate_up_proj.weight"]
        for place, rows in enumerate((both[: PHI3.hidden], both[PHI3.hidden :])):
            np.testing.assert_array_equal(ours["blocks.gate_up.weight"][layer][:, place], rows.T)


def test_rows_of_the_parts_of_a_fused_tensor():
    tensors, shapes, _ = phi3()
    entry = next(entry for entry in tensors if "qkv_proj" in entry.name)
    rows = [mapping.rows_of(entry, place, shapes) for place in range(3)]
    assert [(r.start, r.stop) for r in rows] == [(0, 32), (32, 48), (48, 64)]
    assert mapping.published_shape(entry, shapes) == (64, 16)


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name):
    make, tensors = MODELS[name]
    shapes = checkpoints.shapes_of(checkpoints.like(make, np.float32))
    published = checkpoints.random_bits(tensors, shapes, np.uint32)
    ours = mapping.to_ours(tensors, published.__getitem__, shapes=shapes)
    assert {path: value.shape for path, value in ours.items()} == shapes
    checkpoints.assert_same_bits(mapping.to_theirs(tensors, ours), published)


def test_every_parameter_and_every_name_occurs_once():
    for name, (make, tensors) in MODELS.items():
        shapes = checkpoints.shapes_of(checkpoints.like(make, np.float32))
        names = [n for entry in tensors for n in mapping.numbered(entry, shapes)]
        assert len(names) == len(set(names)), name
        covered = dict.fromkeys(shapes, 0)
        for entry in tensors:
            for part in entry.parts:
                cut = np.zeros(mapping.own_shape(entry, part, shapes), bool)
                cut[part.cut(cut.shape)] = True
                covered[part.path] += cut.mean()
        assert covered == pytest.approx(dict.fromkeys(shapes, 1.0)), name


def test_inside_a_larger_model():
    plain = {entry.name: entry for entry in text.tensors(QWEN3)}
    inside = text.tensors(QWEN3, prefix="model.language_model.", ours="decoder.")
    assert len(inside) == len(plain)
    for entry in inside:
        original = plain[entry.name.replace("model.language_model.", "model.")]
        assert [p.path for p in entry.parts] == [f"decoder.{p.path}" for p in original.parts]
