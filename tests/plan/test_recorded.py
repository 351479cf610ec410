"""FLOPs, memory and bytes on the wires of compiled programs, exactly as they were recorded.

A compiler gives the same program every time, so whatever changes one of these figures is seen here.
After a change that is meant: UPDATE_PLANS=1 pytest tests/plan/test_recorded.py (with -m slow for
those of published sizes, minutes each). Records hold for the jax and libtpu that they name.
"""

import importlib.metadata
import json
import os
import pathlib

import jax
import pytest

from tests.plan.test_plan import experiment
from tgvlm_jax.plan import plan, topology
from tgvlm_jax.train.abstract import Sizes

pytest.importorskip("libtpu", reason="the extra `plan` is not installed")

RECORDED = pathlib.Path(__file__).with_name("recorded")
UPDATE = os.environ.get("UPDATE_PLANS") == "1"
SMALL = ("mesh.fsdp=2", "mesh.tp=2", "model.unroll=1")
# By name: config, topology, changes, program.
TINY = {
    "videossr_tiny_prefill": ("videossr_grpo.py:tiny", "v5e:2x2", SMALL, "prefill"),
    "videossr_tiny_decode": ("videossr_grpo.py:tiny", "v5e:2x2", SMALL, "decode"),
    "videossr_tiny_2_slices": ("videossr_grpo.py:tiny", "2*v5e:2x2", SMALL, "prefill"),
}
PUBLISHED = {
    "d2vlm_sft": ("d2vlm_sft.py:mesh=v5e-16", "v5e:4x4", (), "train"),
    "d2vlm_fpo": ("d2vlm_fpo.py:mesh=v5e-16", "v5e:4x4", (), "train"),
    "videop2r_sft": ("videop2r_sft.py:mesh=v5e-256", "v5e:16x16", (), "train"),
    "videop2r_sft_v5p": ("videop2r_sft.py:mesh=v5p-64", "v5p:4x4x2", (), "train"),
    "videop2r_pagrpo": ("videop2r_pagrpo.py:mesh=v5e-256", "v5e:16x16", (), "train"),
    "videop2r_pagrpo_decode": ("videop2r_pagrpo.py:mesh=v5e-256", "v5e:16x16", (), "decode"),
    "videop2r_pagrpo_2_slices": (
        "videop2r_pagrpo.py:mesh=2*v5e-256",
        "2*v5e:16x16",
        (),
        "train",
    ),
    "videop2r_pagrpo_v5p": ("videop2r_pagrpo.py:mesh=v5p-64", "v5p:4x4x2", (), "train"),
    "videop2r_pagrpo_v5p_decode": ("videop2r_pagrpo.py:mesh=v5p-64", "v5p:4x4x2", (), "decode"),
    "videossr_grpo": ("videossr_grpo.py:mesh=v5e-256", "v5e:16x16", (), "train"),
    "videossr_grpo_decode": ("videossr_grpo.py:mesh=v5e-256", "v5e:16x16", (), "decode"),
    "videossr_grpo_v5p": ("videossr_grpo.py:mesh=v5p-64", "v5p:4x4x2", (), "train"),
    "videossr_grpo_v5p_decode": ("videossr_grpo.py:mesh=v5p-64", "v5p:4x4x2", (), "decode"),
    "videomtr_ppo": ("videomtr_ppo.py:mesh=v5e-256", "v5e:16x16", (), "train"),
    "videomtr_ppo_v5p": ("videomtr_ppo.py:mesh=v5p-64", "v5p:4x4x2", (), "train"),
    "videomtr_grpo": ("videomtr_ppo.py:grpo,mesh=v5e-256", "v5e:16x16", (), "train"),
    "profvlm_sft": ("profvlm_sft.py:mesh=v5e-4", "v5e:2x2", (), "train"),
}


@pytest.mark.parametrize("name", TINY)
def test_small_programs_are_as_recorded(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TGVLM_PLANS", str(tmp_path))
    check(name, *TINY[name])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PUBLISHED)
def test_programs_of_published_size_are_as_recorded(name):
    """What this source has been compiled to before, by `tgvlm plan` too, is not compiled again."""
    check(name, *PUBLISHED[name])


def check(name, config, where, overrides, step):
    path = RECORDED / f"{name}.json"
    versions = {"jax": jax.__version__, "libtpu": importlib.metadata.version("libtpu")}
    wanted = None
    if not UPDATE:
        if not path.exists():
            pytest.skip(f"nothing is recorded of {name} yet: UPDATE_PLANS=1 records it")
        wanted = json.loads(path.read_text())
        if wanted["versions"] != versions:
            pytest.skip(f"recorded with {wanted['versions']}, here are {versions}")
    own = experiment(config, *overrides)
    sizes = Sizes(frames=max(own.data.frames), question=96, answer=256)
    (found,) = plan.plan(own, topology.find(where), sizes=sizes, steps=(step,)).steps
    assert found.fits
    assert not found.found.cost.uncounted
    told = {
        "versions": versions,
        "topology": where,
        "program": step,
        "flops": found.found.cost.flops,
        "peak": found.peak,
        "wire": {
            f"{kind} over {axes}": size for (kind, axes), size in found.found.cost.wire.items()
        },
    }
    if UPDATE:
        path.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
        return
    assert told == wanted
