"""VideoSSR's experiment has the paper's numbers (VideoSSR 5); its twin has the same structure."""

import dataclasses
import math
import pathlib

import pytest

from tgvlm_jax.config import freeze, load
from tgvlm_jax.data import patch_videos
from tgvlm_jax.models import parameters
from tgvlm_jax.objectives import advantages, policy
from tgvlm_jax.schema import Experiment, GrpoConfig, SftConfig, presets
from tgvlm_jax.train import optim

CONFIG = pathlib.Path(__file__).resolve().parent.parent.parent / "configs" / "videossr_grpo.py"


def experiment(arg=""):
    return freeze(load(f"{CONFIG}:{arg}"), Experiment)


def test_sizes_are_the_presets():
    for arg, wanted in (("", presets.QWEN3_VL_8B), ("tiny", presets.QWEN3_VL_TINY)):
        model = experiment(arg).model
        assert (model.tower, model.decoder) == (wanted.tower, wanted.decoder)
        assert dataclasses.replace(model, dtype="float32", remat="none", unroll=1) == wanted


def test_everything_is_trained():
    one = experiment()
    shapes = parameters.blueprint(one.model).shapes
    assert optim.trainable(one.optim, {name: name for name in shapes}).keys() == shapes.keys()
    assert sum(map(math.prod, shapes.values())) == 8_767_123_696


def test_numbers_of_the_paper():
    one = experiment()
    grpo, steps = one.objective, one.optim
    assert isinstance(grpo, GrpoConfig)
    assert (one.data.batch_size, grpo.num_generations, grpo.max_tokens) == (64, 8, 2048)
    assert grpo.policy == policy.PRESETS["videossr"]
    assert dataclasses.replace(grpo.advantage, lone="reward") == advantages.PRESETS["verl"]
    assert (grpo.sampling.temperature, grpo.sampling.top_p, grpo.sampling.top_k) == (1.0, 1.0, 0)
    assert (grpo.reference, grpo.updates) == ("copy", 1)
    assert (steps.lr, steps.beta1, steps.beta2, steps.weight_decay) == (1e-6, 0.9, 0.999, 0.01)
    assert (steps.name, steps.clip) == ("adamw", 1.0)
    rates = optim.schedule(steps, steps=one.train.steps)
    assert [float(rates(step)) for step in (0, 1, 200, 467)] == pytest.approx([1e-6] * 4)
    assert one.train.steps * one.data.batch_size == pytest.approx(30_000, abs=64)
    pixels = one.data.min_pixels, one.data.max_pixels
    assert (one.data.frames, pixels) == ((48,), (128**2, 256**2))


def test_the_longest_prompt_fits():
    """Square frames use the pixels best: 64 tokens for each of 24 pairs, and the times between."""
    one = experiment()
    bucket = patch_videos.bucket_of(one.model.tower, one.data)
    assert (bucket.rows, bucket.slots) == (24, 256)
    times, question = 24 * (len("<143.0 seconds>") - len("seconds") + 1 + 2), 200
    assert 24 * 64 + times + question <= bucket.length


def test_the_stages_differ_in_what_they_must():
    for size in ("", "tiny,"):
        grpo, sft = experiment(size), experiment(f"{size}sft")
        assert isinstance(sft.objective, SftConfig)
        assert grpo.model == sft.model
        same = dataclasses.replace(grpo.data, batch_size=sft.data.batch_size)
        assert same == sft.data
    assert experiment("tiny,sft,steps=7").train.steps == 7
