"""What is wrong with a model that is to be converted: one line, and nothing half-made."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.cli import hf_folders
from tests.cli.hf_folders import TWINS
from tgvlm_jax.cli.convert_run import convert

INTO = "convert --from {source} --to {new}"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A model in either format, and adapters; read them, never change them."""
    folder = tmp_path_factory.mktemp("good")
    hf_folders.write(folder / "hf", "phi3", hf_folders.numbers(TWINS["phi3"]))
    hf_folders.write_adapter(folder / "peft", "phi3")
    convert(folder / "hf", to=folder / "ours")
    convert(folder / "hf", to=folder / "adapted", adapter=folder / "peft")
    return folder


def config(**values):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def without(name):
    def change(folder):
        path = folder / "config.json"
        values = json.loads(path.read_text())
        del values[name]
        path.write_text(json.dumps(values))

    return change


def text(content):
    return lambda folder: (folder / "config.json").write_text(content)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_header(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def remove(name):
    return lambda folder: (folder / name).unlink()


def tensors(function):
    def change(folder):
        path = folder / "model.safetensors"
        found = load_file(path)
        function(found)
        save_file(found, path)

    return change


def lose(found):
    del found["model.norm.weight"], found["model.layers.1.mlp.down_proj.weight"]


def gain(found):
    found["score.weight"] = np.zeros(3, np.float32)


def quantise(found):
    found["lm_head.weight"] = np.zeros((512, 64), np.int8)


MODELS = {
    "unknown type": (
        config(model_type="gemma3"),
        "config.json: model_type 'gemma3' is not known here; known: phi3, llama, qwen2, qwen3, "
        "qwen2_5_vl, qwen3_vl",
    ),
    "no type": (without("model_type"), "config.json: model_type None is not known here"),
    "no JSON": (text("{"), "config.json: damaged ("),
    "a list": (text("[1]"), "config.json: damaged (it holds no settings); fetch it again"),
    "no size": (without("hidden_size"), "config.json: has no 'hidden_size', which this archit"),
    "odd size": (config(num_attention_heads=0), "config.json: "),
    "a word": (config(hidden_size="wide"), "config.json: damaged ("),
    "other maths": (config(hidden_act="gelu"), "config.json: hidden_act 'gelu': this decoder has"),
    "cut off": (cut, "model.safetensors: cut off or no safetensors file ("),
    "header cut": (cut_header, "model.safetensors: cut off or no safetensors file (it has no"),
    "no weights": (remove("model.safetensors"), "no model.safetensors there; give a folder in H"),
    "missing": (
        tensors(lose),
        "is not this model; 2 missing: model.layers.1.mlp.down_proj.weight, model.norm.weight",
    ),
    "unexpected": (tensors(gain), "is not this model; 1 unexpected: score.weight"),
    "quantised": (tensors(quantise), "not of 16, 32 or 64-bit floats: lm_head.weight is I8"),
    "other sizes": (config(intermediate_size=96), "misshapen: model.layers.0.mlp.down_proj.wei"),
}


@pytest.mark.parametrize(("damage", "says"), MODELS.values(), ids=MODELS)
def test_a_model_that_is_wrong(damage, says, good, fails, tmp_path):
    source = shutil.copytree(good / "hf", tmp_path / "source")
    damage(source)
    line = fails(INTO, source=source)
    assert line.startswith(str(source))
    assert says in line
    assert os.listdir(tmp_path) == ["source"]


WORDS = {
    "nothing there": ("--from {good}/none --to {new}", "/none: no such folder"),
    "no model": ("--from {good} --to {new}", ": no model there, neither config.json (Hugging Face"),
    "adapter alone": ("--from {good}/peft --to {new}", ": no model there, only adapters; name the"),
    "a file": ("--from {good}/hf/config.json --to {new}", "config.json: no such folder"),
    "no source": ("--to {new}", "--from is missing"),
    "no target": ("--from {good}/hf", "--to is missing"),
    "no target of ours": ("--from {good}/ours", "--to is missing"),
    "target there": ("--from {good}/hf --to {good}/ours", "/ours: exists already; name another"),
    "target is source": ("--from {good}/hf --to {good}/hf", "/hf: exists already; name another"),
    "adapter target there": (
        "--from {good}/adapted --to {new} --adapter-to {good}/peft",
        "/peft: exists already; name another folder",
    ),
    "type": ("--from {good}/hf --to {new} --dtype float16", "flag --dtype=float16: value should"),
    "merge of nothing": ("--from {good}/hf --to {new} --merge", "--merge folds adapters into the"),
    "merge of none": ("--from {good}/ours --to {new} --merge", "/ours: has no adapters; leave out"),
    "no adapters": ("--from {good}/ours --adapter-to {new}", "/ours: has no adapters; leave out"),
    "which way": (
        "--from {good}/adapted --to {new}",
        "/adapted: has adapters; fold them into the weights with --merge, or write them apart",
    ),
    "both ways": (
        "--from {good}/adapted --to {new} --merge --adapter-to {new}2",
        "--merge and --adapter-to: the adapters go into the weights or apart",
    ),
    "adapter out of theirs": (
        "--from {good}/hf --to {new} --adapter-to {new}2",
        "--adapter-to goes with a checkpoint of ours, which ",
    ),
    "adapter into ours": (
        "--from {good}/ours --to {new} --adapter {good}/peft",
        "--adapter goes with a Hugging Face model; ",
    ),
    "no adapter there": (
        "--from {good}/hf --to {new} --adapter {good}/hf",
        "/hf: no adapter_config.json; give a folder in Hugging Face format",
    ),
    "no tokenizer there": (
        "--from {good}/hf --to {new} --tokenizer {good}/peft",
        "/peft: no tokenizer there (tokenizer.json)",
    ),
    "training in it": (
        "train {config} --workdir {good}/ours",
        "/ours: holds a converted model and no run; start from it by train.init_from=",
    ),
    "asking theirs": ("eval --checkpoint {good}/hf", "Face format: tgvlm convert --from "),
}


@pytest.mark.parametrize(("words", "says"), WORDS.values(), ids=WORDS)
def test_words_that_make_no_sense(words, says, good, fails, tmp_path):
    before = sorted(path for path in good.rglob("*"))
    words = words if words.startswith(("train", "eval")) else f"convert {words}"
    assert says in fails(words, good=good)
    assert not (tmp_path / "new").exists()
    assert sorted(path for path in good.rglob("*")) == before


def test_a_model_of_ours_without_a_hugging_face_form(fails, world):
    line = fails("convert --from {run} --to {new}")
    assert line == f"{world.run}: evidence heads and a tower of our own have no Hugging Face form"


def test_a_damaged_checkpoint_of_ours(good, fails, tmp_path):
    source = shutil.copytree(good / "ours", tmp_path / "source")
    for path in (source / "checkpoints" / "0").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    line = fails(INTO, source=source)
    assert line.startswith(f"{source}/checkpoints/0: damaged, or of another model")
    assert os.listdir(tmp_path) == ["source"]


def test_a_checkpoint_that_is_not_the_model_of_its_config(good, fails, tmp_path):
    source = shutil.copytree(good / "ours", tmp_path / "source")
    path = source / "experiment.json"
    values = json.loads(path.read_text())
    values["model"]["decoder"]["hidden"] = 96
    path.write_text(json.dumps(values))
    line = fails(INTO, source=source)
    assert "not the model of its config: decoder.blocks.down.weight, decoder.blocks.gate_up" in line


@pytest.mark.parametrize("size", ["8k", "200k"])
@pytest.mark.parametrize("kind", ["hf", "ours"])
def test_a_full_disk(kind, size, good, fails, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount the small file system that this needs")
    try:
        line = fails(INTO, source=good / kind, new=disk / "new")
        assert line.startswith(f"{disk / 'new'}: cannot be written (")
        assert "has room" in line
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("kind", ["hf", "ours"])
def test_a_place_where_nothing_can_be_made(kind, good, fails):
    line = fails(INTO, source=good / kind, new="/proc/tgvlm")
    assert line.startswith("/proc/tgvlm: cannot be written (")
