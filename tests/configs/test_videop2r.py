"""VideoP2R's experiments have the paper's numbers; their twin has the same structure."""

import dataclasses
import math
import pathlib

import pytest

from tgvlm_jax.config import freeze, load
from tgvlm_jax.data import patch_videos
from tgvlm_jax.models import parameters
from tgvlm_jax.objectives import advantages, policy
from tgvlm_jax.schema import Experiment, GrpoConfig, ProcessConfig, SftConfig, presets
from tgvlm_jax.train import optim

CONFIGS = pathlib.Path(__file__).resolve().parent.parent.parent / "configs"


def experiment(stage, arg=""):
    return freeze(load(f"{CONFIGS / f'videop2r_{stage}'}.py:{arg}"), Experiment)


@pytest.mark.parametrize(
    ("arg", "wanted"),
    [
        ("", presets.QWEN2_5_VL_7B),
        ("3b", presets.QWEN2_5_VL_3B),
        ("tiny", presets.QWEN2_5_VL_TINY),
    ],
)
def test_sizes_are_the_presets(arg, wanted):
    for stage in ("sft", "pagrpo"):
        model = experiment(stage, arg).model
        assert dataclasses.replace(model, dtype="float32", remat="none", unroll=1) == wanted


def test_everything_is_trained():
    one = experiment("pagrpo")
    shapes = parameters.blueprint(one.model).shapes
    assert optim.trainable(one.optim, {name: name for name in shapes}).keys() == shapes.keys()
    assert sum(map(math.prod, shapes.values())) == 8_292_166_656


def test_numbers_of_sft():
    one = experiment("sft")
    assert one.objective == SftConfig()
    assert one.train.steps * one.data.batch_size == pytest.approx(162_062, abs=16)
    steps = one.optim
    assert (steps.lr, steps.weight_decay, steps.clip, steps.beta2) == (1e-6, 0.0, 5.0, 0.999)
    rates = optim.schedule(steps, steps=one.train.steps)
    halfway = one.train.steps // 2
    assert [float(rates(n)) for n in (0, halfway)] == pytest.approx([1e-6, 5e-7], rel=1e-3)


def test_numbers_of_pa_grpo():
    one = experiment("pagrpo")
    grpo = one.objective
    assert isinstance(grpo, GrpoConfig)
    assert (one.data.batch_size, grpo.num_generations, one.train.steps) == (7, 8, 1000)
    assert grpo.policy == policy.PRESETS["video_r1"]
    assert grpo.advantage == advantages.PRESETS["video_r1"]
    assert (grpo.sampling.temperature, grpo.sampling.top_p, grpo.sampling.top_k) == (1.0, 0.95, 0)
    assert (grpo.reference, grpo.updates, grpo.max_tokens) == ("copy", 1, 1024)
    assert grpo.process == ProcessConfig()
    assert (grpo.process.perception_tokens, grpo.process.reasoning_tokens) == (
        (128, 320),
        (320, 512),
    )
    assert (one.optim.lr, one.optim.weight_decay, one.optim.clip) == (1e-6, 0.01, 5.0)
    assert float(optim.schedule(one.optim, steps=1000)(500)) == pytest.approx(5e-7)


def test_the_longest_prompt_fits():
    """134 tokens for each of 8 pairs of frames, and the words."""
    one = experiment("sft")
    bucket = patch_videos.bucket_of(one.model.tower, one.data)
    assert bucket.rows == 8
    assert bucket.slots // 4 == 134
    assert bucket.length >= 8 * 134 + 600


def test_the_stages_differ_in_what_they_must():
    for size in ("", "tiny"):
        sft, rl = experiment("sft", size), experiment("pagrpo", size)
        assert dataclasses.replace(rl.data, batch_size=sft.data.batch_size) == sft.data
    assert experiment("sft", "tiny,steps=7").train.steps == 7
    assert experiment("pagrpo", "3b,prompts=16").data.batch_size == 16
