"""tgvlm plan without a compile, which takes minutes: what it is told, and what it says."""

import importlib.util
import pathlib

import pytest

from tgvlm_jax.cli import plan as cli
from tgvlm_jax.config import freeze, load
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import plan

CONFIG = pathlib.Path(__file__).resolve().parent.parent.parent / "configs" / "tiny.py"
SIZES = {"frames": 32, "question": 16, "answer": 16}


def test_without_the_compiler(fails, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = fails(f"plan --config {CONFIG} --topology v5e:4x4")
    assert said == "libtpu is not installed, which compiles for TPUs: pip install '.[plan]'"


@pytest.mark.parametrize("fits", [True, False])
def test_the_table(fits):
    found = plan.Plan(
        chips=16,
        kind="TPU v5 lite",
        available=15.75 * plan.GIB,
        state=2.0 * plan.GIB,
        batch=0.5 * plan.GIB,
        scratch=4.0 * plan.GIB,
        peak=(7.25 if fits else 20.0) * plan.GIB,
        fits=fits,
        seconds=61.0,
    )
    experiment = freeze(load(str(CONFIG)), Experiment)
    text = cli.table(found, experiment=experiment, topology="v5e:4x4", sizes=SIZES)
    assert "tiny on v5e:4x4: 16 chips (TPU v5 lite)" in text
    assert "8 samples a step in one piece; 32 frames, 16 + 16 tokens each" in text
    peak, verdict = text.splitlines()[-2:]
    assert peak.split() == ["at", "its", "peak", "7.25" if fits else "20.00", "GiB", "a", "chip"]
    assert verdict == (
        f"  {'fits' if fits else 'DOES NOT FIT'} the 15.75 GiB there are (compiled in 61 s)"
    )
