"""ProfVLM's experiments train exactly what the paper counts, for every choice of views."""

import math
import pathlib

import pytest

from tgvlm_jax.config import freeze, load
from tgvlm_jax.models import lora, parameters
from tgvlm_jax.schema import Experiment, presets
from tgvlm_jax.train import optim

CONFIG = pathlib.Path(__file__).resolve().parent.parent.parent / "configs" / "profvlm_sft.py"


def experiment(arg=""):
    return freeze(load(f"{CONFIG}:{arg}"), Experiment)


def test_what_is_trained():
    one = experiment()
    shapes = parameters.blueprint(one.model).shapes
    trained = optim.trainable(one.optim, {path: path for path in shapes})
    adapters = [path for path in trained if lora.is_adapter(path)]
    assert sum(math.prod(shapes[path]) for path in adapters) == 460_800
    assert sum(math.prod(shapes[path]) for path in trained) == 5_255_362
    assert {path.split(".")[0] for path in trained} == {"projector", "decoder"}
    frozen = sum(map(math.prod, shapes.values())) - 5_255_362
    assert frozen == 121_258_752 + 134_515_008 + 3 * 576  # and the rows of <evi>, </evi>, <frame>


def test_sizes_are_the_presets():
    model = experiment().model
    assert (model.tower, model.projector) == (presets.PROFVLM.tower, presets.PROFVLM.projector)
    for field in (
        "width",
        "layers",
        "heads",
        "kv_heads",
        "head_size",
        "hidden",
        "rope",
        "norm_eps",
    ):
        assert getattr(model.decoder, field) == getattr(presets.SMOLLM2_135M, field)
    tiny, twin = experiment("tiny").model, presets.PROFVLM_TINY
    assert (tiny.decoder, tiny.projector) == (twin.decoder, twin.projector)


def test_numbers_of_the_paper_and_its_prototype():
    one = experiment()
    assert one.train.steps * one.data.batch_size == pytest.approx(6 * 4000, abs=16)
    assert (one.optim.lr, one.optim.weight_decay, one.data.frames) == (1e-3, 0.01, (8,))
    (adapters,) = one.model.lora
    assert (adapters.rank, adapters.alpha, adapters.dropout) == (8, 32, 0.1)
    assert one.optim.warmup_steps == round(0.1 * one.train.steps)


@pytest.mark.parametrize(
    ("arg", "views"),
    [
        ("ego", ("ego",)),
        ("exos", ("exo1", "exo2", "exo3", "exo4")),
        ("", ("ego", "exo1", "exo2", "exo3", "exo4")),
        ("tiny,exos", ("exo1", "exo2")),
    ],
)
def test_views(arg, views):
    one = experiment(arg)
    assert one.data.takes is not None
    assert one.data.takes.views == views


def test_the_twins_encoder_learns_unless_it_is_frozen():
    def reaches(arg):
        one = experiment(arg)
        shapes = dict.fromkeys(parameters.blueprint(one.model).shapes)
        return parameters.reach_tower(optim.trainable(one.optim, shapes))

    assert [reaches("tiny"), reaches("tiny,frozen")] == [True, False]
