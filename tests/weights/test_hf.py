"""Folders in and out, bit for bit; what is wrong with one is said in one line."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from tests.weights import checkpoints
from tests.weights.checkpoints import MESH, MODELS
from tgvlm_jax import mesh
from tgvlm_jax.schema import MeshConfig
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import hf, mapping

BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)


def bits(array):
    return np.asarray(array).view(f"u{array.dtype.itemsize}")


# ------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("dtype", [BF16, F32], ids=["bf16", "f32"])
@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_is_bit_equal(name, dtype, tmp_path):
    make, tensors = MODELS[name]
    like = checkpoints.like(make, dtype)
    published = checkpoints.random_bits(tensors, checkpoints.shapes_of(like), dtype)
    params = hf.load(checkpoints.write(tmp_path / "in", published), tensors, like=like)
    assert list(params) == list(like)
    assert {(p.shape, p.dtype) for p in params.values()} == {
        (leaf.shape, leaf.dtype) for leaf in like.values()
    }
    hf.save(tmp_path / "out", tensors, params, config={})
    checkpoints.assert_same_bits(checkpoints.read(tmp_path / "out"), published)
    by_map = mapping.to_ours(tensors, published.__getitem__, shapes=checkpoints.shapes_of(like))
    for path, value in by_map.items():
        np.testing.assert_array_equal(bits(params[path]), bits(value), err_msg=path)


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, BF16) for name in MODELS), ("qwen3", F32)], ids=str
)
def test_from_several_files_onto_a_mesh_and_back(name, dtype, tmp_path):
    make, tensors = MODELS[name]
    grid = mesh.make(MESH)
    like = checkpoints.like(make, dtype, on=grid)
    published = checkpoints.random_bits(tensors, checkpoints.shapes_of(like), dtype)
    folder = checkpoints.write(tmp_path / "in", published, files=3)
    params = hf.load(folder, tensors, like=like)
    for path, leaf in like.items():
        assert params[path].sharding == leaf.sharding, path
    assert any("fsdp" in str(leaf.sharding.spec) for leaf in like.values())
    hf.save(tmp_path / "out", tensors, params, config={}, shard_bytes=4096)
    assert len(list((tmp_path / "out").glob("model-0*.safetensors"))) > 1
    checkpoints.assert_same_bits(checkpoints.read(tmp_path / "out"), published)


def test_within_a_mesh_an_abstract_layout_is_enough(tmp_path):
    """What `eval_shape` gives under the mesh may be handed on as it is."""
    make, tensors = MODELS["qwen3"]
    grid = mesh.make(MESH)
    like = checkpoints.like(make, F32, on=grid)
    abstract = {
        path: jax.ShapeDtypeStruct(
            leaf.shape,
            leaf.dtype,
            sharding=jax.sharding.NamedSharding(grid.abstract_mesh, leaf.sharding.spec),
        )
        for path, leaf in like.items()
    }
    published = checkpoints.random_bits(tensors, checkpoints.shapes_of(like), F32)
    folder = checkpoints.write(tmp_path / "in", published)
    with mesh.use(grid):
        params = hf.load(folder, tensors, like=abstract)
    for path, leaf in like.items():
        assert params[path].sharding == leaf.sharding, path


@pytest.mark.parametrize(
    ("stored", "wanted"), [(F32, BF16), (BF16, F32), (np.dtype("f2"), F32), (np.dtype("f8"), F32)]
)
def test_floats_of_another_type_are_cast(stored, wanted, tmp_path):
    make, tensors = MODELS["phi3"]
    like = checkpoints.like(make, wanted)
    shapes = checkpoints.shapes_of(like)
    rng = np.random.default_rng(0)
    published = {
        name: rng.standard_normal(value.shape).astype(stored)
        for name, value in checkpoints.random_bits(tensors, shapes, F32).items()
    }
    params = hf.load(checkpoints.write(tmp_path / "in", published), tensors, like=like)
    cast = {name: value.astype(wanted) for name, value in published.items()}
    for path, value in mapping.to_ours(tensors, cast.__getitem__, shapes=shapes).items():
        assert params[path].dtype == wanted
        np.testing.assert_array_equal(bits(params[path]), bits(value), err_msg=path)


def test_several_files_and_their_index(tmp_path):
    make, tensors = MODELS["qwen3"]
    like = checkpoints.like(make, F32)
    published = checkpoints.random_bits(tensors, checkpoints.shapes_of(like), F32)
    params = hf.load(checkpoints.write(tmp_path / "in", published), tensors, like=like)
    hf.save(tmp_path / "out", tensors, params, config={"a": 1}, shard_bytes=9000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [path.name for path in files] == [
        f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)
    ]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in published.values())
    assert index["weight_map"].keys() == published.keys()
    for path in files:
        named = {name for name, file in index["weight_map"].items() if file == path.name}
        size = sum(published[name].nbytes for name in named)
        assert size <= 9000 or len(named) == 1
    again = hf.load(tmp_path / "out", tensors, like=like)
    assert all((bits(again[path]) == bits(params[path])).all() for path in like)


def test_what_lies_beside_and_the_type_in_the_config(tmp_path):
    make, tensors = MODELS["phi3"]
    like = checkpoints.like(make, BF16)
    params = {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in like.items()}
    (tmp_path / "tokenizer.json").write_text("{}")
    hf.save(
        tmp_path / "out",
        tensors,
        params,
        config={"model_type": "phi3", "dtype": "float32"},
        beside=[tmp_path / "tokenizer.json"],
    )
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json"}
    # from_pretrained casts to the type that the config names.
    assert hf.read_config(tmp_path / "out") == {"model_type": "phi3", "dtype": "bfloat16"}


# ------------------------------------------------------------------------------ wrong checkpoints


def broken(tmp_path, change, *, name="qwen3"):
    make, tensors = MODELS[name]
    like = checkpoints.like(make, F32)
    published = checkpoints.random_bits(tensors, checkpoints.shapes_of(like), F32)
    change(published)
    return checkpoints.write(tmp_path / "in", published), tensors, like


def test_every_wrong_name_is_in_one_error(tmp_path):
    """Missing, unexpected, misshapen and quantised ones."""

    def change(published):
        del published["model.norm.weight"], published["model.layers.2.mlp.up_proj.weight"]
        published["model.layers.3.mlp.up_proj.weight"] = np.zeros((32, 16), np.float32)
        published["visual.merger.weight"] = np.zeros(2, np.float32)
        published["lm_head.weight"] = np.zeros((65, 16), np.float32)
        published["model.layers.1.self_attn.q_norm.weight"] = np.zeros(16, np.float32)
        published["model.layers.0.self_attn.k_norm.weight"] = np.zeros(8, np.int8)

    folder, tensors, like = broken(tmp_path, change)
    with pytest.raises(InputError) as caught:
        hf.load(folder, tensors, like=like)
    assert str(caught.value) == (
        f"{folder} is not this model; "
        "2 missing: model.layers.2.mlp.up_proj.weight, model.norm.weight; "
        "2 unexpected: model.layers.3.mlp.up_proj.weight, visual.merger.weight; "
        "2 misshapen: lm_head.weight is (65, 16), not (64, 16), "
        "model.layers.1.self_attn.q_norm.weight is (16,), not (8,); "
        "1 not of 16, 32 or 64-bit floats: model.layers.0.self_attn.k_norm.weight is I8"
    )


@pytest.mark.parametrize(
    ("dtype", "code"), [("int32", "I32"), ("uint8", "U8"), ("float8_e4m3fn", "F8_E4M3")]
)
def test_what_is_no_plain_float_is_never_cast(dtype, code, tmp_path):
    name = "model.layers.0.mlp.gate_proj.weight"

    def change(published):
        published[name] = np.ones((32, 16), np.dtype(dtype))

    folder, tensors, like = broken(tmp_path, change)
    with pytest.raises(InputError, match=f"floats: {name} is {code}$"):
        hf.load(folder, tensors, like=like)


def test_constants_of_old_files_are_no_error(tmp_path):
    def change(published):
        published["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)
        published["embeddings.position_ids"] = np.zeros((1, 4), np.int64)

    folder, tensors, like = broken(tmp_path, change)
    hf.load(folder, tensors, like=like)
    with pytest.raises(InputError, match="2 unexpected: embeddings"):
        hf.load(folder, tensors, like=like, ignore=lambda name: False)


def test_a_mesh_that_does_not_divide(tmp_path):
    folder, tensors, like = broken(tmp_path, lambda published: None)
    grid = mesh.make(MeshConfig(tp=8))
    two_key_heads = jax.sharding.NamedSharding(grid, jax.P(None, None, "tp"))
    path = "blocks.k.weight"
    like[path] = jax.ShapeDtypeStruct(like[path].shape, F32, sharding=two_key_heads)
    with pytest.raises(InputError) as caught:
        hf.load(folder, tensors, like=like)
    text = str(caught.value)
    assert text.startswith("blocks.k.weight (3, 16, 2, 8) does not divide over the mesh dcn=1 x ")
    assert "tp=8" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no config.json; give a folder in Hugging Face format"),
        ("{", "config.json: damaged"),
        ("[1]", "config.json: damaged"),
        (b"\xff\xfe", "config.json: damaged"),
    ],
)
def test_a_config_that_is_none(content, says, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    with pytest.raises(InputError, match=says) as caught:
        hf.read_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_setting_that_is_not_there_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "phi3", "vision_config": {"depth": 2}}')
    config = hf.read_config(tmp_path)
    assert config["vision_config"]["depth"] == 2
    for inner in (config, config["vision_config"]):
        with pytest.raises(InputError, match=r"config.json: has no 'hidden_size'"):
            inner["hidden_size"]


# ------------------------------------------------------------------------------ saving


def params_of(name="phi3"):
    make, tensors = MODELS[name]
    like = checkpoints.like(make, F32)
    return tensors, {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in like.items()}


@pytest.mark.parametrize("content", [None, "mine"])
def test_an_existing_target_is_left_alone(content, tmp_path):
    tensors, params = params_of()
    target = tmp_path / "out"
    target.mkdir()
    if content:
        (target / "config.json").write_text(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"out: exists already; name another folder"):
        hf.save(target, tensors, params, config={})
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_that_cannot_be(tmp_path):
    tensors, params = params_of()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"cannot be written \(Not a directory\)"):
        hf.save(tmp_path / "file" / "out", tensors, params, config={})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_noticed_first_and_leaves_nothing(small_disk):
    tensors, params = params_of()
    with (small_disk / "filler").open("wb") as filler:
        filler.write(bytes(1000 * 2**10))
    with pytest.raises(InputError, match=r"out: cannot be written \(no space for \d+ bytes\)"):
        hf.save(small_disk / "out", tensors, params, config={})
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_failure_in_the_midst_leaves_nothing(tmp_path):
    tensors, params = params_of()
    params["norm.scale"].delete()  # its turn comes last
    with pytest.raises(RuntimeError, match="deleted"):
        hf.save(tmp_path / "out", tensors, params, config={}, shard_bytes=4096)
    assert list(tmp_path.iterdir()) == []


def test_a_file_to_lie_beside_is_looked_for_first(tmp_path):
    tensors, params = params_of()
    with pytest.raises(InputError, match=r"tokenizer\.json: no such file"):
        hf.save(tmp_path / "out", tensors, params, config={}, beside=[tmp_path / "tokenizer.json"])
    assert list(tmp_path.iterdir()) == []
