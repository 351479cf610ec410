"""What is refused before a run on takes begins."""

import dataclasses
import pathlib

import numpy as np
import pytest

from tgvlm_jax.config import freeze, load
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import loop
from tgvlm_jax.types import InputError

CONFIG = pathlib.Path(__file__).resolve().parent.parent.parent / "configs" / "profvlm_sft.py"


def checked(arg, **takes):
    one = freeze(load(f"{CONFIG}:{arg}"), Experiment)
    changed = dataclasses.replace(one.data.takes, **takes) if takes else None
    one = dataclasses.replace(one, data=dataclasses.replace(one.data, takes=changed))
    loop.check(one, open_chat(one.data, one.model))


def test_views_and_a_model_of_views_come_together():
    checked("tiny", windows=3)
    with pytest.raises(InputError, match="goes with model"):
        checked("tiny")


def test_kept_features_want_a_frozen_encoder():
    checked("tiny,frozen", features="somewhere")
    with pytest.raises(InputError, match="the encoder learns; freeze"):
        checked("tiny", features="somewhere")


def test_an_encoder_is_known_by_its_numbers():
    params = {"tower.a": np.ones(3, np.float32), "tower.b": np.zeros((2, 2), np.float32)}
    known = parameters.digest(params)
    assert parameters.digest(dict(reversed(params.items()))) == known
    moved = params | {"tower.b": params["tower.b"] + np.float32(1e-7)}
    assert parameters.digest(moved) != known
    assert parameters.digest({"tower.c": params["tower.a"], "tower.b": params["tower.b"]}) != known
