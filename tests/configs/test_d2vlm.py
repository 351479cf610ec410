"""D2VLM's experiments train what the released code trains, at its rates (D2VLM 2.2)."""

import math
import pathlib

import pytest

from tgvlm_jax.config import freeze, load
from tgvlm_jax.models import lora, parameters
from tgvlm_jax.schema import Experiment, FpoConfig, SftConfig, presets
from tgvlm_jax.train import optim

CONFIGS = pathlib.Path(__file__).resolve().parent.parent.parent / "configs"


def experiment(name, arg=""):
    return freeze(load(f"{CONFIGS / name}.py:{arg}"), Experiment)


@pytest.mark.parametrize("name", ["d2vlm_sft", "d2vlm_fpo"])
def test_what_is_trained(name):
    one = experiment(name)
    shapes = parameters.blueprint(one.model).shapes
    trained = optim.trainable(one.optim, {path: path for path in shapes})
    adapters = {path for path in trained if lora.is_adapter(path)}

    def count(paths):
        return sum(math.prod(shapes[path]) for path in paths)

    assert count(adapters) == 75_497_472
    assert count(trained.keys() - adapters) == 273_760_384
    assert count(shapes.keys() - adapters) == 5_020_944_896
    (rate,) = (group.lr_scale * one.optim.lr for group in one.optim.groups if not group.frozen)
    assert rate == pytest.approx(5e-5)  # of the adapters; the others have 2e-5
    assert (one.optim.lr, one.optim.clip, one.optim.weight_decay) == (2e-5, 0.0, 0.0)
    assert one.train.steps * one.data.batch_size == pytest.approx(163_880, abs=32)


def test_sizes_are_the_presets():
    for name, decoder in (("", presets.PHI3_MINI), ("tiny", presets.PHI3_TINY)):
        model = experiment("d2vlm_sft", name).model
        assert model.decoder.sliding_window == 0
        for field in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_size", "hidden"):
            assert getattr(model.decoder, field) == getattr(decoder, field)
    assert model.tower.eva == presets.EVA_TINY
    assert model.tower.compressor == presets.COMPRESSOR_TINY
    assert experiment("d2vlm_sft").model.tower == presets.D2VLM_FRAME_ENCODER


def test_the_two_differ_in_their_objective_alone():
    for arg in ("", "tiny", "batch=16,epochs=2"):
        sft, fpo = experiment("d2vlm_sft", arg), experiment("d2vlm_fpo", arg)
        assert isinstance(sft.objective, SftConfig)
        assert isinstance(fpo.objective, FpoConfig)
        for part in ("model", "data", "optim", "train", "evaluation", "mesh"):
            assert getattr(sft, part) == getattr(fpo, part)
    assert sft.train.steps == 2 * 163_880 // 16
