"""Qwen-VL models learn from shards and answer about them, through the same loop as any other."""

import dataclasses
import math
import pathlib

import numpy as np
import pytest

from tests.train.conftest import BIKES
from tgvlm_jax.cli import ask_run
from tgvlm_jax.config import freeze, load
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.evaluation import runner
from tgvlm_jax.schema import Experiment, presets
from tgvlm_jax.train import loop
from tgvlm_jax.train.metrics import read_metrics

CONFIG = pathlib.Path(__file__).resolve().parent.parent.parent / "configs" / "videossr_grpo.py"
# The twin of the config, and the same world for Qwen2.5-VL.
FAMILIES = {"qwen3": presets.QWEN3_VL_TINY, "qwen2": presets.QWEN2_5_VL_TINY}


def small(arg, shards):
    """The twin on a clip whose frames are of 24 x 32 pixels."""
    config = load(f"{CONFIG}:tiny,{arg}")
    config.data.shards = str(shards)
    config.data.fps = 8.0
    config.data.batch_size = 2
    config.data.strides = (1,)
    config.data.train_span = config.data.eval_span = (0.0, 1.0)
    config.data.min_pixels = config.data.max_pixels = 16 * 24
    config.data.threads = 1
    config.train.log_every = 1
    config.evaluation.batch_size = 2
    config.evaluation.max_tokens = 4
    return config


@pytest.fixture(scope="module", params=["qwen3", pytest.param("qwen2", marks=pytest.mark.slow)])
def run(request, shards, tmp_path_factory):
    config = small("sft,steps=2", shards)
    config.data.template = request.param
    model = FAMILIES[request.param]
    experiment = dataclasses.replace(freeze(config, Experiment), model=model)
    workdir = tmp_path_factory.mktemp(request.param)
    return experiment, workdir, loop.train(experiment, workdir).params


def test_it_learns_and_compiles_once(run):
    _, workdir, params = run
    records = read_metrics(workdir / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2]
    assert all(math.isfinite(record["loss"]) for record in records)
    assert [record["compiles"] for record in records] == [records[0]["compiles"]] * 2
    for record in records:  # two clips of twelve frames
        assert record["frames_per_second"] * record["step_time"] == pytest.approx(24)
    # The tower learns, too: its biases begin at zero.
    biases = [name for name in params if name.startswith("tower.") and name.endswith("bias")]
    assert len(biases) > 3
    assert all(np.any(params[name]) for name in biases)


def test_it_answers(run):
    experiment, _, params = run
    chat = open_chat(experiment.data, experiment.model)
    clips = runner.held_out_samples(experiment)[:3]
    found = runner.answer(params, clips, experiment=experiment, chat=chat)
    assert [one.sample.kind for one in found] == [clip.kind for clip in clips]
    assert {one.sample.kind.split("/")[0] for one in found} == {"grounding", "jigsaw"}
    for one in found:
        assert one.iou is None
        assert one.spans.shape == (0, 2)


@pytest.mark.slow
def test_it_is_asked_about_a_whole_video_at_once(run, tmp_path, capsys):
    """Twelve frames of ten seconds, for what it says does not tell how sure it is."""
    _, workdir, _ = run
    drawn = ask_run.run(workdir, BIKES, question="How many bikes?", out=tmp_path / "page.html")
    assert "windows" not in capsys.readouterr().out
    assert len(drawn.seconds) == 12
    assert drawn.seconds[-1] > 9
    assert drawn.predicted.shape == (0, 2)


@pytest.mark.slow
def test_answers_are_sampled_compared_and_learned_from(run, shards, tmp_path):
    """What the trainer computes of a sampled answer is what the sampler did, patches and all."""
    before, workdir, _ = run
    config = small("steps=2", shards)
    config.data.template = before.data.template
    config.train.init_from = str(workdir)
    config.optim.lr = 1e-2
    experiment = dataclasses.replace(freeze(config, Experiment), model=before.model)
    loop.train(experiment, tmp_path)
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert first["compiles"] == second["compiles"]
    for record in (first, second):
        assert record["old_kl"] < 1e-6  # tokens have the probability with which they were drawn
        assert record["answer_tokens"] > 1
        assert record["not_finite"] == 0
    assert first["kl"] < 1e-6  # from the copy that training began with


@pytest.mark.slow
def test_packed_samples_are_learned_as_if_they_were_alone(shards, tmp_path):
    """The same losses step by step, on one device and with rows and tower spread over a mesh."""
    config, losses = small("sft,steps=3", shards), {}
    config.data.template = "qwen3"
    config.data.frames, config.data.tasks = (8, 12), ("grounding", "counting")
    config.data.prompt_bucket = 64
    for name, rows, pack, mesh in (("alone", 8, 1, 1), ("packed", 2, 4, 1), ("mesh", 2, 4, 2)):
        config.data.batch_size, config.data.pack = rows, pack
        config.mesh.fsdp = config.mesh.tp = mesh
        loop.train(freeze(config, Experiment), tmp_path / name)
        records = read_metrics(tmp_path / name / "metrics.jsonl")
        losses[name] = [record["loss"] for record in records]
        frames = [record["frames_per_second"] * record["step_time"] for record in records]
        assert {round(count) for count in frames} <= {8 * 8, 8 * 12}
    assert losses["packed"] == pytest.approx(losses["alone"], rel=1e-5)
    assert losses["mesh"] == pytest.approx(losses["alone"], rel=1e-5)
