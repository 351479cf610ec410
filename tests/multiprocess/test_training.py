"""Two processes with four devices each compute what one process with eight computes."""

import dataclasses

import numpy as np
import pytest

from tests.multiprocess.conftest import experiment
from tgvlm_jax.train import loop
from tgvlm_jax.train.checkpoint import Checkpoints
from tgvlm_jax.train.metrics import read_metrics

pytestmark = pytest.mark.timeout(1200)  # of a busy machine; it takes half a minute

REWARDS_ON_ONE = """
import sys
from tgvlm_jax.cli.__main__ import main
from tgvlm_jax.rewards import functions
def never(*_):
    raise AssertionError("host 1 is not to reward")
if "--process_id=1" in sys.argv:
    functions.FUNCTIONS["grounding"] = never
sys.exit(main())
"""

TIMES = ("second", "step_time", "input_wait", "mfu", "compile", "flops", "wait")


def losses(workdir):
    """Everything that a run logs but for its timing."""
    return [
        {name: value for name, value in record.items() if not any(t in name for t in TIMES)}
        for record in read_metrics(workdir / "metrics.jsonl")
    ]


def assert_same_losses(found, wanted):
    assert [record.keys() for record in found] == [record.keys() for record in wanted]
    for one, other in zip(found, wanted, strict=True):
        for name, value in other.items():
            np.testing.assert_allclose(one[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def parameters(workdir, wanted):
    store = Checkpoints(workdir, read_only=True)
    found = store.restore_params(wanted.model, mesh=None)
    store.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("devices", [4, 8])
def test_supervised_training(launch, shards, tmp_path, devices):
    hosts = launch(tmp_path / "two", devices=devices)
    wanted = experiment(shards, devices=devices)
    whole = loop.train(wanted, tmp_path / "one")
    assert [host.ends()[0] for host in hosts] == [0, 0], hosts[0].log.read_text()
    assert_same_losses(losses(tmp_path / "two"), losses(tmp_path / "one"))
    assert len(losses(tmp_path / "two")) == wanted.train.steps
    for name, value in parameters(tmp_path / "two", wanted).items():
        np.testing.assert_allclose(value, whole.params[name], rtol=2e-3, atol=2e-5, err_msg=name)
    first, second = (host.log.read_text() for host in hosts)
    assert "step 3/3" in first
    assert "step" not in second


def flags(mesh):
    return [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]


@pytest.mark.slow
def test_hosts_that_share_rows(launch, shards, tmp_path):
    """Of four devices along `tp` each host has two, and so the same rows of every batch."""
    mesh = {"fsdp": 1, "tp": 4}
    hosts = launch(tmp_path / "two", *flags(mesh), devices=4)
    wanted = experiment(shards, mesh=mesh)
    whole = loop.train(wanted, tmp_path / "one")
    assert [host.ends()[0] for host in hosts] == [0, 0], hosts[0].log.read_text()
    assert_same_losses(losses(tmp_path / "two"), losses(tmp_path / "one"))
    for name, value in parameters(tmp_path / "two", wanted).items():
        np.testing.assert_allclose(value, whole.params[name], rtol=2e-3, atol=2e-5, err_msg=name)


@pytest.fixture
def start(shards, tmp_path):
    """A model to start from, and to stay close to."""
    begun = experiment(shards, steps=60, checkpoint_every=60, log_every=30)
    begun = dataclasses.replace(begun, optim=dataclasses.replace(begun.optim, lr=1e-2))
    loop.train(begun, tmp_path / "start")
    return tmp_path / "start"


@pytest.mark.slow
def test_hosts_that_share_prompts(launch, shards, start, tmp_path):
    """Host 0 rewards the answers, once, and host 1 learns from what it found."""
    mesh = {"fsdp": 1, "tp": 4}
    words = [f"--config.train.init_from={start}", *flags(mesh)]
    program = ("-c", REWARDS_ON_ONE)
    hosts = launch(tmp_path / "two", *words, arg="grpo", devices=4, program=program)
    wanted = experiment(shards, arg="grpo", mesh=mesh, init_from=str(start))
    loop.train(wanted, tmp_path / "one")
    assert [host.ends()[0] for host in hosts] == [0, 0], hosts[0].log.read_text()
    found, alone = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert_same_losses(found, alone)
    assert alone[-1]["kl"] > 0
    lines = [
        (folder / "rollouts.jsonl").read_text() for folder in (tmp_path / "two", tmp_path / "one")
    ]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_rewarded_training(launch, shards, start, tmp_path):
    """Rollouts, their rewards, advantages and the update; rewards are logged for all hosts."""
    hosts = launch(tmp_path / "two", f"--config.train.init_from={start}", arg="grpo")
    wanted = experiment(shards, arg="grpo", init_from=str(start))
    loop.train(wanted, tmp_path / "one")
    assert [host.ends()[0] for host in hosts] == [0, 0], hosts[0].log.read_text()
    found, alone = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert_same_losses(found, alone)
    assert alone[-1]["kl"] > 0
    assert len({record["reward"] for record in alone}) == 3
    lines = [
        (folder / "rollouts.jsonl").read_text() for folder in (tmp_path / "two", tmp_path / "one")
    ]
    assert lines[0] == lines[1]
