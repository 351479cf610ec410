"""PEFT folders in and out: the same numbers under PEFT's names, and what ours cannot hold."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from tests.models import tiny_qwen, towers
from tests.weights import checkpoints
from tests.weights.checkpoints import MODELS, PHI3
from tgvlm_jax import mesh
from tgvlm_jax.models import lora, parameters
from tgvlm_jax.schema import LoraConfig
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import eva, models, peft

TABLES = {
    "qwen3": (
        LoraConfig(pattern=r"blocks\.q$", rank=4, alpha=8.0, dropout=0.25),
        LoraConfig(pattern=r"blocks\.(k|v|o)$", rank=2, alpha=8.0),
        LoraConfig(pattern=r"blocks\.(gate|up|down)$", rank=2, alpha=3.0),
    ),
    "phi3": (
        LoraConfig(pattern=r"blocks\.(qkv|o)$", rank=3, alpha=6.0, dropout=0.25),
        LoraConfig(pattern=r"blocks\.(gate_up|down)$", rank=5, alpha=6.0),
    ),
}


def adapted(name, *, on=None):
    """Adapters of a decoder with random numbers in both halves."""
    make, tensors = MODELS[name]

    def build():
        decoder = make(rngs=nnx.Rngs(0), dtype=towers.F32)
        lora.attach(decoder, TABLES[name], rngs=nnx.Rngs(1))
        return nnx.state(decoder)

    with mesh.use(on):
        state = nnx.to_flat_state(nnx.eval_shape(build))
    rng, found = np.random.default_rng(0), {}
    for path, leaf in state:
        if lora.is_adapter(".".join(map(str, path))):
            spec = leaf.get_value().sharding.spec if on else None
            value = rng.standard_normal(leaf.shape, np.float32)
            layout = jax.sharding.NamedSharding(on, spec) if on else None
            found[".".join(map(str, path))] = jax.device_put(value, layout)
    return tensors, found


@pytest.fixture
def folder(tmp_path):
    tensors, adapters = adapted("qwen3")
    peft.save(tmp_path / "peft", tensors, adapters, table=TABLES["qwen3"])
    return tmp_path / "peft"


def change(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(folder, function):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    function(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("name", TABLES)
def test_there_and_back(name, tmp_path):
    tensors, adapters = adapted(name)
    peft.save(tmp_path / "peft", tensors, adapters, table=TABLES[name], base_model="me/base")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/base"

    table = peft.read_table(tmp_path / "peft", tensors)
    for path, value in adapters.items():
        base = path.removesuffix(".lora_a").removesuffix(".lora_b")
        (own,) = [rule for rule in table if re.search(rule.pattern, base)]
        wanted = next(rule for rule in TABLES[name] if re.search(rule.pattern, base))
        assert (own.rank, own.alpha) == (wanted.rank, wanted.alpha), path
        assert own.dropout == 0.25
        assert own.rank in value.shape
    found = peft.load(tmp_path / "peft", tensors, like=adapters)
    assert found.keys() == adapters.keys()
    for path, value in adapters.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_onto_a_mesh(tmp_path):
    tensors, adapters = adapted("phi3")
    peft.save(tmp_path / "peft", tensors, adapters, table=TABLES["phi3"])
    _, like = adapted("phi3", on=mesh.make(checkpoints.MESH))
    found = peft.load(tmp_path / "peft", tensors, like=like)
    assert found["blocks.qkv.lora_a"].sharding.spec == jax.P(None, "fsdp", None)
    for path, value in adapters.items():
        assert found[path].sharding == like[path].sharding
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_halves_as_peft_multiplies_them(folder):
    """W + B A in the published layout is our W + A B, by the map of the weight itself."""
    adapters = adapted("qwen3")[1]
    stored = load_file(folder / "adapter_model.safetensors")
    module = "base_model.model.model.layers.2.self_attn.q_proj"
    theirs = stored[f"{module}.lora_B.weight"] @ stored[f"{module}.lora_A.weight"]
    a, b = (np.asarray(adapters[f"blocks.q.lora_{half}"])[2] for half in "ab")
    ours = np.einsum("dz,zhrk->hrkd", a, b).reshape(theirs.shape)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    module = "base_model.model.model.layers.1.self_attn.o_proj"
    theirs = stored[f"{module}.lora_B.weight"] @ stored[f"{module}.lora_A.weight"]
    a, b = (np.asarray(adapters[f"blocks.o.lora_{half}"])[1] for half in "ab")
    ours = np.einsum("hrkz,zd->dhrk", a, b).reshape(theirs.shape)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_fused_weights_share_one_a(tmp_path):
    tensors, adapters = adapted("phi3")
    peft.save(tmp_path / "peft", tensors, adapters, table=TABLES["phi3"])
    stored = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    module = "base_model.model.model.layers.0.self_attn.qkv_proj"
    assert stored[f"{module}.lora_A.weight"].shape == (3, PHI3.width)
    b, ours = stored[f"{module}.lora_B.weight"], np.asarray(adapters["blocks.qkv.lora_b"])[0]
    heads, kv, size = PHI3.heads, PHI3.kv_heads, PHI3.head_size
    assert b.shape == ((heads + 2 * kv) * size, 3)
    # Key head 1, which follows all query heads and key head 0.
    start = (heads + 1) * size
    np.testing.assert_array_equal(b[start : start + size], ours[:, 1, -2].T)


def test_target_modules_match_these_and_no_others(folder):
    """By PEFT's rule: a string is a regex for the whole name."""
    config = json.loads((folder / "adapter_config.json").read_text())
    names = [f"self_attn.{one}_proj" for one in "qkvo"]
    names += [f"mlp.{one}_proj" for one in ("gate", "up", "down")]
    for name in names:
        for layer in (0, 2, 17):
            assert re.fullmatch(config["target_modules"], f"model.layers.{layer}.{name}")
    for name in ("visual.blocks.0.mlp.gate_proj", "lm_head", "model.layers.0.mlp", "model.norm"):
        assert not re.fullmatch(config["target_modules"], name)


@pytest.mark.parametrize("targets", ["all-linear", [".*"], None])
def test_the_tensors_say_what_is_adapted(targets, folder):
    """Whatever way the training code named the modules."""
    tensors, _ = adapted("qwen3")
    before = peft.read_table(folder, tensors)
    change(folder, target_modules=targets, r=77, rank_pattern={})
    assert peft.read_table(folder, tensors) == before


def test_alpha_by_pattern_and_by_rank(folder):
    tensors, _ = adapted("qwen3")
    change(folder, lora_alpha=5, alpha_pattern={"q_proj": 7, "xo_proj": 3, r"mlp\..*": 9})
    alphas = {rule.pattern: rule.alpha for rule in peft.read_table(folder, tensors)}
    assert alphas[r"^blocks\.q$"] == 7.0
    assert alphas[r"^blocks\.up$"] == 9.0
    assert alphas[r"^blocks\.o$"] == 5.0  # the pattern is for a whole part of the name
    change(folder, use_rslora=True)
    alphas = {rule.pattern: rule.alpha for rule in peft.read_table(folder, tensors)}
    assert alphas[r"^blocks\.q$"] == 7.0 * 4**0.5


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'; only LORA is read"),
        ({"peft_type": None}, "peft_type None; only LORA is read"),
        ({"use_dora": True}, "use_dora=True; only plain LoRA"),
        ({"bias": "all"}, "bias='all'; only plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]; only plain LoRA"),
        ({"init_lora_weights": "pissa_niter_16"}, "'pissa_niter_16' changes the base model"),
        ({"alpha_pattern": {r"layers\.1\.mlp\.up_proj": 9}}, "up_proj.weight differ in rank or al"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(values, says, folder):
    tensors, _ = adapted("qwen3")
    change(folder, **values)
    with pytest.raises(InputError, match=rf"adapter_config\.json: .*{says}") as caught:
        peft.read_table(folder, tensors)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_named(folder):
    tensors, adapters = adapted("qwen3")
    name = "base_model.model.model.layers.1.mlp.up_proj"

    def remove(found):
        del found[f"{name}.lora_A.weight"], found[f"{name}.lora_B.weight"]
        del found["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]

    change_tensors(folder, remove)
    with pytest.raises(InputError) as caught:
        peft.load(folder, tensors, like=adapters)
    assert "3 missing: " in str(caught.value)
    assert f"{name}.lora_A.weight, {name}.lora_B.weight" in str(caught.value)


def test_modules_that_are_not_ours_are_named(folder):
    tensors, _ = adapted("qwen3")
    name = "visual.blocks.0.mlp.gate_proj"

    def add(found):
        found[f"base_model.model.{name}.lora_A.weight"] = np.zeros((2, 4), np.float32)

    change_tensors(folder, add)
    with pytest.raises(InputError, match=f"{name} are no modules of this model"):
        peft.read_table(folder, tensors)


def test_layers_of_different_rank_are_refused(folder):
    tensors, _ = adapted("qwen3")

    def widen(found):
        found["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"] = np.zeros((7, 16), "f4")

    change_tensors(folder, widen)
    with pytest.raises(InputError, match=r"up_proj\.weight differ in rank or alpha"):
        peft.read_table(folder, tensors)


def test_no_adapters_at_all(folder, tmp_path):
    tensors, _ = adapted("qwen3")
    with pytest.raises(InputError, match=r"no adapter_config\.json; give a folder in Hugging"):
        peft.read_table(tmp_path, tensors)
    change_tensors(folder, dict.clear)
    with pytest.raises(InputError, match="no LoRA adapters there"):
        peft.read_table(folder, tensors)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no adapter_model\.safetensors there"):
        peft.read_table(folder, tensors)


def test_parts_of_a_weight_that_is_published_fused():
    """A tower keeps q, k and v apart, its file does not: PEFT would share one A among them."""
    tensors = eva.tensors(towers.EVA, prefix=eva.LAVIS)
    paths = {f"blocks.attention.q.lora_{half}" for half in "ab"}
    with pytest.raises(InputError, match=r"blocks\.\{i\}\.attn\.qkv\.weight is published as one"):
        peft.adapter_tensors(tensors, paths)
    paths = {f"blocks.mlp.up.lora_{half}" for half in "ab"}
    assert [entry.name for entry in peft.adapter_tensors(tensors, paths)] == [
        "base_model.model.blocks.{i}.mlp.fc1.lora_A.weight",
        "base_model.model.blocks.{i}.mlp.fc1.lora_B.weight",
    ]


def test_qwen2_5_vl_by_the_names_of_its_modules_and_of_its_files(tmp_path):
    """PEFT calls modules as the transformers of its day does; both are read, the new is written."""
    config = tiny_qwen.CONFIGS["qwen2_5_vl"]
    tensors = models.tensors(config)
    shapes = parameters.blueprint(dataclasses.replace(config, lora=tiny_qwen.LORA)).shapes
    rng = np.random.default_rng(0)
    adapters = {
        path: jnp.asarray(rng.standard_normal(shape, np.float32))
        for path, shape in shapes.items()
        if lora.is_adapter(path)
    }
    peft.save(tmp_path / "new", tensors, adapters, table=tiny_qwen.LORA)
    stored = load_file(tmp_path / "new" / "adapter_model.safetensors")
    assert {name.split(".")[3] for name in stored} == {"language_model", "visual"}
    places = {"visual": "model.visual", "language_model": "model.model"}
    old = {
        re.sub(r"model\.model\.(visual|language_model)", lambda m: places[m[1]], name): value
        for name, value in stored.items()
    }
    assert {name.split(".")[2] for name in old} == {"model", "visual"}
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    save_file(old, tmp_path / "old" / "adapter_model.safetensors")
    config = (tmp_path / "new" / "adapter_config.json").read_text()
    config = config.replace(r"model\\.visual", "visual").replace(r"model\\.language_model", "model")
    (tmp_path / "old" / "adapter_config.json").write_text(config)
    table = peft.read_table(tmp_path / "new", tensors)
    assert table == peft.read_table(tmp_path / "old", tensors)
    assert {rule.pattern for rule in table} == {
        r"^decoder\.blocks\.q$",
        r"^decoder\.blocks\.v$",
        r"^decoder\.blocks\.down$",
        r"^tower\.blocks\.qkv$",
    }
    for folder in ("new", "old"):
        found = peft.load(tmp_path / folder, tensors, like=adapters)
        for path, value in adapters.items():
            np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_what_is_not_adapted_is_in_no_map():
    tensors = MODELS["qwen3"][1]
    found = peft.adapter_tensors(tensors, {"blocks.k.lora_a", "blocks.k.lora_b"})
    assert [entry.name.split(".")[-3] for entry in found] == ["k_proj", "k_proj"]
