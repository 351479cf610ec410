"""Hugging Face folders into ours and back, as a person does it; nothing is lost on the way."""

import contextlib
import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.cli import hf_folders
from tests.cli.hf_folders import TABLE, TWINS, assert_same_bits, read
from tgvlm_jax.models import lora, parameters
from tgvlm_jax.schema import CriticConfig, Experiment
from tgvlm_jax.train import checkpoint, model_folder
from tgvlm_jax.types import Prompt
from tgvlm_jax.weights import hf_config

BF16, F32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)
BESIDE = {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}


def restored(folder, model=None):
    """Parameters of a folder of ours, as a run or `tgvlm ask` reads them."""
    model = model or checkpoint.load_experiment(folder).model
    with contextlib.closing(checkpoint.Checkpoints(folder, read_only=True)) as store:
        return jax.device_get(store.restore_params(model, mesh=None))


@pytest.fixture
def converts(tgvlm):
    """Runs the verb on words that must do, and gives back what it said."""

    def run(*words):
        said = tgvlm("convert", *words)
        assert (said.status, said.err) == (0, "")
        return said.out

    return run


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """The tiny Phi-3 converted, with numbers of unit size; read it, never change it."""
    from tgvlm_jax.cli.convert_run import convert

    folder = tmp_path_factory.mktemp("ours")
    hf_folders.write(folder / "hf", "phi3", hf_folders.numbers(TWINS["phi3"]))
    convert(folder / "hf", to=folder / "phi3")
    return folder / "phi3"


# ------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("dtype", [BF16, F32], ids=["bf16", "f32"])
@pytest.mark.parametrize("name", TWINS)
def test_there_and_back_every_bit_is_the_same(name, dtype, converts, tmp_path):
    params = hf_folders.bits(TWINS[name], dtype)
    source = hf_folders.write(tmp_path / "source", name, params)
    said = converts("--from", source, "--to", tmp_path / "ours")
    experiment = checkpoint.load_experiment(tmp_path / "ours")
    wanted = dataclasses.replace(TWINS[name], dtype=dtype.name, param_dtype=dtype.name)
    assert experiment.model == wanted
    assert experiment.data.tokenizer == str(tmp_path / "ours" / "hf")
    assert_same_bits(restored(tmp_path / "ours"), params)
    assert f"{sum(x.size for x in params.values()):,}" in said

    converts("--from", tmp_path / "ours", "--to", tmp_path / "back")
    assert_same_bits(read(tmp_path / "back"), read(source))
    for file in BESIDE:
        before, after = ((folder / file).read_bytes() for folder in (source, tmp_path / "back"))
        assert json.loads(before) == json.loads(after)
    there = {path.name for path in (tmp_path / "back").iterdir()}
    assert there == BESIDE | {"model.safetensors"}


def test_what_it_says(converts, tmp_path):
    source = hf_folders.write(tmp_path / "in", "phi3", hf_folders.bits(TWINS["phi3"], BF16))
    said = converts("--from", source, "--to", tmp_path / "deep" / "ours").splitlines()
    assert said[:3] == [
        f"reading 21 tensors from {source}",
        f"writing {tmp_path / 'deep' / 'ours'}",
        f"{tmp_path / 'deep' / 'ours'}:",
    ]
    rows = dict(line.split(maxsplit=1) for line in said[3:-1])
    assert rows["architecture"] == "Phi3ForCausalLM (phi3)"
    assert rows["parameters"] == "188,864"
    assert rows["dtype"] == "bfloat16"
    assert rows["tokenizer"] == "tokenizer.json, tokenizer_config.json"
    assert int(rows["files"].split()[1].replace(",", "")) > 2 * 188_864
    assert said[-1] == f"now: tgvlm inspect --checkpoint {tmp_path / 'deep' / 'ours'}"
    assert os.listdir(tmp_path / "deep") == ["ours"]


def test_without_the_source_config_one_is_made(converts, tmp_path):
    """Of a model that was trained here from scratch, say."""
    model = TWINS["phi3.5"]
    params = jax.device_put(hf_folders.numbers(model))
    model_folder.save(tmp_path / "ours", Experiment(model=model), params, beside={})
    said = converts("--from", tmp_path / "ours", "--to", tmp_path / "hf")
    assert "none; --tokenizer DIR brings one" in said
    assert json.loads((tmp_path / "hf" / "config.json").read_text()) == json.loads(
        json.dumps(hf_config.to_hf(model, ids=hf_config.TokenIds()))
    )
    converts("--from", tmp_path / "hf", "--to", tmp_path / "again")
    assert checkpoint.load_experiment(tmp_path / "again").model == model
    assert_same_bits(restored(tmp_path / "again"), jax.device_get(params))


def test_settings_that_changed_since_are_in_the_config(converts, ours, tmp_path):
    copy = shutil.copytree(ours, tmp_path / "ours")
    experiment = checkpoint.load_experiment(copy)
    decoder = dataclasses.replace(experiment.model.decoder, sliding_window=0)
    model = dataclasses.replace(experiment.model, decoder=decoder, remat="full", unroll=2)
    checkpoint.write_experiment(copy, dataclasses.replace(experiment, model=model))
    converts("--from", copy, "--to", tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["sliding_window"] is None
    # The ids are those of the tokenizer that came along.
    assert config["eos_token_id"] == 0


@pytest.mark.parametrize(
    ("stored", "asked", "kept"),
    [
        (F32, "bfloat16", BF16),
        (BF16, "float32", F32),
        (np.dtype(np.float16), None, F32),
        (np.dtype(np.float64), None, F32),
    ],
)
def test_other_types(stored, asked, kept, converts, tmp_path):
    numbers = hf_folders.numbers(TWINS["smollm2"])
    params = {path: x.astype(stored) for path, x in numbers.items()}
    source = hf_folders.write(tmp_path / "in", "smollm2", params)
    words = ("--dtype", asked) if asked else ()
    said = converts("--from", source, "--to", tmp_path / "ours", *words)
    assert f"{kept.name}, from " in said
    wanted = {path: x.astype(kept) for path, x in params.items()}
    assert_same_bits(restored(tmp_path / "ours"), wanted)


@pytest.mark.parametrize("asked", ["bfloat16", "float32"])
def test_the_type_on_the_way_out(asked, converts, ours, tmp_path):
    converts("--from", ours, "--to", tmp_path / "hf", "--dtype", asked)
    assert {x.dtype.name for x in read(tmp_path / "hf").values()} == {asked}
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == asked


def test_a_tied_head_that_is_stored_once_more_is_no_error(converts, tgvlm, tmp_path):
    """Older files have it; the way back leaves it out, as transformers does."""
    params = hf_folders.bits(TWINS["smollm2"], BF16)
    source = hf_folders.write(tmp_path / "in", "smollm2", params)
    path = source / "model.safetensors"
    tensors = load_file(path)
    table = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": table.copy()}, path)
    said = tgvlm("inspect", "--checkpoint", source)
    assert said.out.endswith("  fits: every tensor is there\n")
    converts("--from", source, "--to", tmp_path / "ours")
    converts("--from", tmp_path / "ours", "--to", tmp_path / "back")
    assert_same_bits(read(tmp_path / "back"), tensors)
    changed = table.copy()
    changed.view(np.uint16)[-1, -1] ^= 1
    save_file(tensors | {"lm_head.weight": changed}, path)
    said = tgvlm("convert", "--from", source, "--to", tmp_path / "other")
    assert said.err.endswith("is not this model; 1 unexpected: lm_head.weight\n")


def test_another_tokenizer(converts, ours, tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    text = (ours / "hf" / "tokenizer.json").read_text().replace("ByteLevel", "ByteLevel ")
    (folder / "tokenizer.json").write_text(text)
    converts("--from", ours, "--to", tmp_path / "hf", "--tokenizer", folder)
    assert (tmp_path / "hf" / "tokenizer.json").read_text() == text
    assert not (tmp_path / "hf" / "tokenizer_config.json").exists()
    converts("--from", tmp_path / "hf", "--to", tmp_path / "back", "--tokenizer", ours / "hf")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        kept = (tmp_path / "back" / "hf" / name).read_text()
        assert kept == (ours / "hf" / name).read_text()


# ------------------------------------------------------------------------------ adapters


@pytest.fixture
def adapted(ours, tmp_path, converts):
    """The same model with adapters, converted together."""
    hf = ours.parent / "hf"
    own = hf_folders.write_adapter(tmp_path / "peft", "phi3")
    said = converts("--from", hf, "--adapter", tmp_path / "peft", "--to", tmp_path / "adapted")
    count = sum(x.size for x in own.values())
    assert f"{count:,} on decoder.blocks.down, decoder.blocks.o, decoder.blocks.qkv" in said
    return tmp_path / "adapted"


def test_an_adapter_comes_in_beside_the_weights(adapted, ours, tmp_path):
    model = checkpoint.load_experiment(adapted).model
    assert {(rule.rank, rule.alpha) for rule in model.lora} == {(3, 6.0), (2, 8.0)}
    params = restored(adapted)
    assert_same_bits(lora.without(params), restored(ours))
    wanted = {**hf_folders.numbers(dataclasses.replace(TWINS["phi3"], lora=TABLE), seed=1)}
    for path, value in params.items():
        if lora.is_adapter(path):
            np.testing.assert_array_equal(value, wanted[path], err_msg=path)


def test_adapters_go_out_as_they_came(adapted, ours, converts, tmp_path):
    converts("--from", adapted, "--to", tmp_path / "hf", "--adapter-to", tmp_path / "out")
    name = "adapter_model.safetensors"
    before, after = (read(tmp_path / folder) for folder in ("peft", "out"))
    assert_same_bits(after, before)
    assert (tmp_path / "out" / name).exists()
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "hf")
    assert_same_bits(read(tmp_path / "hf"), read(ours.parent / "hf"))
    # Alone, too.
    said = converts("--from", adapted, "--adapter-to", tmp_path / "alone")
    assert_same_bits(read(tmp_path / "alone"), before)
    assert "parameters" not in said
    assert "adapters" in said


def test_merged_on_either_way(adapted, ours, converts, tmp_path):
    """Both give what the model with adapters computes."""
    hf = ours.parent / "hf"
    words = ("--adapter", tmp_path / "peft", "--merge")
    converts("--from", hf, *words, "--to", tmp_path / "merged")
    converts("--from", adapted, "--merge", "--to", tmp_path / "merged-hf")
    converts("--from", tmp_path / "merged-hf", "--to", tmp_path / "again")
    model = checkpoint.load_experiment(adapted).model
    params = restored(adapted)
    blueprint = parameters.blueprint(model)
    wanted = jax.device_get(lora.merged(blueprint.build(params), jax.device_put(params)))
    for folder in ("merged", "again"):
        assert checkpoint.load_experiment(tmp_path / folder).model.lora == ()
        found = restored(tmp_path / folder)
        assert found.keys() == wanted.keys()
        for path, value in wanted.items():
            np.testing.assert_allclose(found[path], value, rtol=1e-6, atol=1e-6, err_msg=path)
    base = restored(ours)
    change = wanted["decoder.blocks.qkv.weight"] - base["decoder.blocks.qkv.weight"]
    assert np.abs(change).max() > 0.1
    np.testing.assert_array_equal(wanted["decoder.norm.scale"], base["decoder.norm.scale"])


def test_adapters_keep_their_float32_beside_bfloat16_weights(converts, ours, tmp_path):
    hf_folders.write_adapter(tmp_path / "peft", "phi3")
    hf, words = ours.parent / "hf", ("--dtype", "bfloat16")
    converts("--from", hf, "--adapter", tmp_path / "peft", "--to", tmp_path / "ours", *words)
    for path, value in restored(tmp_path / "ours").items():
        assert value.dtype == (F32 if lora.is_adapter(path) else BF16), path
    converts("--from", tmp_path / "ours", "--adapter-to", tmp_path / "out")
    assert_same_bits(read(tmp_path / "out"), read(tmp_path / "peft"))


def test_a_critic_stays_behind(ours, converts, tmp_path):
    model = checkpoint.load_experiment(ours).model
    judged = dataclasses.replace(model, critic=CriticConfig())
    params, fresh = restored(ours), parameters.init(judged, jax.random.key(0))
    params |= {name: x for name, x in fresh.items() if parameters.is_critic(name)}
    beside = {path.name: path for path in (ours / "hf").iterdir()}
    model_folder.save(tmp_path / "run", Experiment(model=judged), params, beside=beside)
    converts("--from", tmp_path / "run", "--to", tmp_path / "out")
    converts("--from", ours, "--to", tmp_path / "plain")
    assert_same_bits(read(tmp_path / "out"), read(tmp_path / "plain"))


# ------------------------------------------------------------------------------ inspect


def test_inspect_of_ours(ours, tgvlm):
    said = tgvlm("inspect", "--checkpoint", ours)
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines()[:3] == [
        f"{ours}: hf, seed 0",
        "  checkpoints: a converted model",
        "  188,864 parameters",
    ]


def test_inspect_of_theirs(ours, tgvlm, tmp_path):
    said = tgvlm("inspect", "--checkpoint", ours.parent / "hf")
    assert (said.status, said.err) == (0, "")
    lines = said.out.splitlines()
    size = (ours.parent / "hf" / "model.safetensors").stat().st_size
    decoder = "3 layers of width 64, 4 heads of 16 (4 of keys), hidden 128, vocabulary 512"
    assert lines[:4] == [
        f"{ours.parent / 'hf'}: Phi3ForCausalLM (phi3)",
        f"  21 tensors of F32, {size:,} bytes",
        f"  decoder: {decoder}",
        "  188,864 parameters",
    ]
    assert lines[4].split() == ["decoder.blocks", "123,264"]
    assert lines[-1] == "  fits: every tensor is there"

    params = hf_folders.bits(TWINS["qwen3-vl"], BF16)
    said = tgvlm("inspect", "--checkpoint", hf_folders.write(tmp_path / "q", "qwen3-vl", params))
    lines = said.out.splitlines()
    assert lines[0].endswith(": Qwen3VLForConditionalGeneration (qwen3_vl)")
    assert lines[1].startswith("  116 tensors of BF16, ")
    assert lines[3:5] == ["  tower: 4 layers of width 32, 2 heads", "  345,744 parameters"]


def test_inspect_says_what_does_not_fit(ours, tgvlm, tmp_path):
    config = json.loads((ours / "hf" / "config.json").read_text()) | {"num_hidden_layers": 2}
    copy = shutil.copytree(ours.parent / "hf", tmp_path / "hf")
    (copy / "config.json").write_text(json.dumps(config))
    said = tgvlm("inspect", "--checkpoint", copy)
    assert (said.status, said.err) == (0, "")
    assert "  does not fit:\n    6 unexpected: model.layers.2.input_layernorm.weight, " in said.out


# ------------------------------------------------------------------------------ transformers


@pytest.mark.parity
@pytest.mark.parametrize("name", TWINS)
def test_transformers_loads_what_comes_out(name, converts, tmp_path):
    """Without a missing or an unexpected name, and computes the same by the config we made."""
    torch = pytest.importorskip("torch", reason="compares with torch: pip install '.[parity]'")
    import transformers

    params = jax.device_put(hf_folders.numbers(TWINS[name]))
    model = Experiment(model=TWINS[name])
    model_folder.save(tmp_path / "ours", model, params, beside={})
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokens = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    hf_folders.tokenizer(folder, *tokens)
    converts("--from", tmp_path / "ours", "--to", tmp_path / "hf", "--tokenizer", folder)
    kind = json.loads((tmp_path / "hf" / "config.json").read_text())["architectures"][0]
    found, info = getattr(transformers, kind).from_pretrained(
        tmp_path / "hf", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    # Longer than the window of Phi-3 and than the short factors of Phi-3.5.
    ids = np.random.default_rng(0).integers(0, 490, (1, 24))
    with torch.no_grad():
        theirs = found(input_ids=torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(logits(TWINS[name], params, ids), theirs, atol=1e-4, rtol=0)


def logits(model, params, ids):
    """Ours, of text alone."""
    prompt = Prompt(
        visual=None,
        tokens=jnp.asarray(ids, jnp.int32),
        visual_index=jnp.full(ids.shape, -1, jnp.int32),
        length=jnp.full(len(ids), ids.shape[1], jnp.int32),
    )

    def run(params):
        built = parameters.blueprint(model).build(params)
        return built.decoder.logits(built.states(prompt).final)

    return jax.jit(run)(params)


def test_rows_for_tokens_that_a_chat_adds(converts, fails, tmp_path):
    """The mean of the others, as in D2VLM's released code."""
    theirs = hf_folders.numbers(TWINS["phi3"])
    folder = hf_folders.write(tmp_path / "hf", "phi3", theirs)
    converts("--from", folder, "--to", tmp_path / "ours", "--vocab_size", 515)
    assert checkpoint.load_experiment(tmp_path / "ours").model.decoder.vocab_size == 515
    found = restored(tmp_path / "ours")
    for name, value in theirs.items():
        np.testing.assert_array_equal(found[name][: len(value)], value)
        if name.endswith("table"):
            means = np.broadcast_to(value.mean(axis=0), (3, value.shape[1]))
            np.testing.assert_allclose(found[name][512:], means, atol=1e-6)
        else:
            assert found[name].shape == value.shape
    few = "convert --from {hf} --to {new} --vocab_size 511"
    assert fails(few, hf=folder).startswith("--vocab_size 511: ")
