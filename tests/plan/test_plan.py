"""A plan for devices that are there: what is compiled, what is kept, what is said."""

import json
import pathlib

import jax
import pytest

from tgvlm_jax.config import freeze, load
from tgvlm_jax.plan import compiled, plan, programs, store, table, topology
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train.abstract import Sizes
from tgvlm_jax.types import InputError

CONFIGS = pathlib.Path(__file__).resolve().parent.parent.parent / "configs"
SIZES = Sizes(frames=8, question=16, answer=16)


@pytest.fixture(autouse=True)
def own_plans(tmp_path, monkeypatch):
    jax.devices()  # a topology of CPUs would otherwise say how many this process has
    monkeypatch.setenv("TGVLM_PLANS", str(tmp_path / "plans"))


def experiment(name, *overrides):
    return freeze(load(str(CONFIGS / name), list(overrides)), Experiment)


SMALL = (
    "optim.name=adamw",
    "mesh.fsdp=2",
    "data.batch_size=4",
    "data.frames=(8,)",
    "model.unroll=1",
)


def test_a_plan_is_found_again_without_compiling():
    said = []
    own = experiment("tiny.py", *SMALL)
    cpus = topology.find("cpu:2")
    first = plan.plan(own, cpus, sizes=SIZES, steps=("train",), tell=said.append)
    assert len(said) == 1
    assert plan.plan(own, cpus, sizes=SIZES, steps=("train",), tell=said.append) == first
    assert len(said) == 1
    (step,) = first.steps
    assert first.fits
    assert step.found.memory.arguments >= sum(step.held.values()) > 0
    assert step.peak >= step.found.memory.arguments
    assert not step.found.cost.uncounted
    told = json.loads(json.dumps(table.record(first)))
    assert store.from_json(told["steps"][0]["found"]) == step.found
    assert "train: 4 samples" in table.table(first)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5f:4x4", "no compiler for 'v5f'; did you mean 'v5"),
        ("v5e", "give a chip (v4, v5e, v5p, v6e, tpu7x) and a shape, such as v5e:4x4"),
        ("ironwood:2x2x1", "no compiler for 'ironwood'; known: tpu7x, v4, v5e, v5p, v6e"),
        ("cpu:0", "give a number of CPU devices, such as cpu:8"),
        ("cpu:1000", "this process has 8 CPU devices"),
        ("gpu", "JAX sees no GPU here"),
    ],
)
def test_topologies_that_are_not_there(name, said):
    with pytest.raises(InputError, match=r".+") as error:
        topology.find(name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_slices_are_said_once():
    with pytest.raises(InputError, match="has 2 slices, --slices says 4"):
        topology.find("2*v5e:4x4", slices=4)


def test_an_unknown_step():
    with pytest.raises(InputError, match="give some of train, prefill, decode"):
        programs.programs(
            experiment("tiny.py"), topology.find("cpu:1"), sizes=SIZES, steps=("sample",)
        )


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        ("Ran out of memory in memory space hbm. Used 53.62G of 15.75G hbm.", 53.62 * 2**30),
        (
            "E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (70.39G) exceeds available HBM (15.75G).",
            70.39 * 2**30,
        ),
        ("INTERNAL: RET_CHECK failure", None),
    ],
)
def test_what_a_refused_program_needs(error, needed):
    assert compiled.needed(error) == needed
