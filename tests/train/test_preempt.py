import os
import signal

import jax
import numpy as np
import pytest

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.schema import MeshConfig
from tgvlm_jax.train.preempt import Sigterm, Votes


def test_one_process_asks_nobody():
    before = signal.getsignal(signal.SIGTERM)
    with Sigterm(mesh_lib.make(MeshConfig(fsdp=8))) as sigterm:
        assert not sigterm.stops()
        os.kill(os.getpid(), signal.SIGTERM)
        assert sigterm.stops()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("config", [MeshConfig(fsdp=4, tp=2), MeshConfig(fsdp=4)])
def test_a_vote_counts_two_steps_later(config):
    """Among eight devices and among some of them; each reduction waits for nobody."""
    mesh = mesh_lib.make(config)
    with mesh_lib.use(mesh):
        votes = Votes(mesh)
        found = [votes.cast(number == 3) for number in range(8)]
    assert found == [False] * 5 + [True] + [False] * 2


def test_a_single_yes_is_enough():
    """Devices stand for hosts: one row of the reduced array each."""
    mesh = mesh_lib.make(MeshConfig(fsdp=4, tp=2))
    with mesh_lib.use(mesh):
        votes = Votes(mesh)
        for place in range(8):
            rows = jax.device_put(np.eye(8, dtype=np.int32)[place], votes.everyone)
            assert int(votes.any(rows)) == 1
