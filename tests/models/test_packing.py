"""Samples that share a row give the loss and the gradients of samples with rows of their own."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.data.test_patch_videos import CONFIG, film
from tests.models import tiny
from tests.models.tiny import gradients, random_params
from tests.objectives.test_sft import assert_same
from tgvlm_jax.data import packing
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.data.collate import collate
from tgvlm_jax.schema import Experiment, SftConfig, TrainConfig, presets
from tgvlm_jax.types import Sample

TEXT = dataclasses.replace(
    presets.QWEN3_VL_TINY, tower=None, decoder=presets.PHI3_TINY, two_way_frames=True
)
MODELS = {
    "text": TEXT,  # with a window of 7 tokens
    "frames": dataclasses.replace(tiny.CONFIG, decoder=presets.PHI3_TINY, evidence=None),
    "qwen2_5_vl": presets.QWEN2_5_VL_TINY,
    "qwen3_vl": presets.QWEN3_VL_TINY,
}
DATA = dataclasses.replace(
    CONFIG, frames=(8,), batch_size=2, pack=3, prompt_bucket=8, visual_bucket=2, max_events=1
)
# Videos of several lengths, sizes and rates, a text alone, and one that cannot be read.
SAMPLES = (
    film(8, size=(16, 24)),
    dataclasses.replace(film(3, size=(16, 16), rate=0.7), answer="7-9, it seems, or 12-15"),
    dataclasses.replace(film(2, size=(24, 16)), question="What is it, and where does it go?"),
    dataclasses.replace(film(5, size=(8, 16), rate=3.0), answer="no"),
    dataclasses.replace(film(6), readable=False),
    dataclasses.replace(film(1), frames=np.zeros((0, 20, 30, 3), np.uint8), seconds=np.zeros(0)),
)


def fitting(samples: tuple[Sample, ...], model) -> list[Sample]:
    """With frames of the one size that some towers want."""
    tall, wide = (16, 24) if model.tower is None else model.frame_size or (0, 0)
    if not tall:
        return list(samples)
    return [
        dataclasses.replace(one, frames=np.resize(one.frames, (len(one.seconds), tall, wide, 3)))
        for one in samples
    ]


def both(model, data=DATA):
    """The same samples with rows of their own, and packed; and who is packed with whom."""
    chat = open_chat(data, model)
    samples = fitting(SAMPLES, model)
    encoded = [chat.encode(one) for one in samples]
    alone = collate(samples, encoded, config=data, pad_id=chat.pad_id)
    pairs = list(zip(samples, encoded, strict=True))
    planned = packing.plan(pairs, data)
    rows = [[pairs[i] for i in row] for row in planned.rows]
    return alone, packing.collate(rows, planned, config=data, pad_id=chat.pad_id), planned


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name != "qwen3_vl"]


@pytest.mark.parametrize("name", ["qwen3_vl", *SLOW])
def test_loss_and_gradients_are_those_of_samples_alone(name):
    model = MODELS[name]
    alone, packed, planned = both(model)
    assert sorted(i for row in planned.rows for i in row) == list(range(6))
    assert packed.prompt.tokens.size < alone.prompt.tokens.size
    params = random_params(model)
    objective = SftConfig(loss_on_prompt=name != "qwen3_vl")
    one = Experiment(model=model, objective=objective)
    several = dataclasses.replace(one, data=DATA, train=TrainConfig(accumulate=2))
    wanted = gradients(params, jax.device_put(alone), experiment=one)
    assert float(wanted[1]["language"].weight) > 30
    assert_same(gradients(params, jax.device_put(packed), experiment=several), wanted)
