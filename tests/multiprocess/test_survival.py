"""Hosts that are stopped, killed or hang: the others end, say who it was, and all go on."""

import signal
import time

import numpy as np
import pytest

from tests.multiprocess.conftest import PATIENCE, experiment
from tests.multiprocess.test_training import losses, parameters

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LONG = ("--config.train.steps=60", "--config.train.checkpoint_every=4")

HANGS = """
import sys, threading
from tgvlm_jax.cli.__main__ import main
from tgvlm_jax.data.pipeline import Batches
real, count = Batches.__next__, [0]
def hangs_at_the_third(batches):
    count[0] += 1
    if count[0] == 3 and "--process_id=1" in sys.argv:
        threading.Event().wait()
    return real(batches)
Batches.__next__ = hangs_at_the_third
sys.exit(main())
"""


def reaches(workdir, step, hosts):
    """Waits until a run has logged a step; it must still have some before it."""
    end = time.monotonic() + PATIENCE
    while len(losses(workdir)) < step:
        assert time.monotonic() < end, hosts[0].log.read_text()
        assert hosts[0].process.poll() is None, hosts[0].log.read_text()
        time.sleep(0.05)


def test_stopped_then_killed_then_finished_is_bit_equal(launch, shards, tmp_path):
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    hosts = launch(broken, *LONG)
    reaches(broken, 8, hosts)
    hosts[1].process.send_signal(signal.SIGTERM)  # one of them; all save
    assert [host.ends()[0] for host in hosts] == [143, 143]
    saved = len(losses(broken))
    hosts = launch(broken, *LONG)
    reaches(broken, saved + 9, hosts)
    hosts[1].process.kill()
    killed = time.monotonic()
    status, said = hosts[0].ends()
    assert status == 75
    assert said.startswith("tgvlm: error: host 1 (")
    assert "is gone: no sign of life for " in said
    assert time.monotonic() - killed < 120
    assert len(losses(broken)) < 60
    for hosts in (launch(broken, *LONG), launch(whole, *LONG)):
        assert [host.ends()[0] for host in hosts] == [0, 0]
    assert losses(broken) == losses(whole)
    wanted = experiment(shards, steps=60)
    final = parameters(whole, wanted)
    for name, value in parameters(broken, wanted).items():
        np.testing.assert_array_equal(value, final[name], err_msg=name)


def test_killing_the_host_that_the_others_meet_at(launch, tmp_path):
    hosts = launch(tmp_path / "run", *LONG)
    reaches(tmp_path / "run", 6, hosts)
    hosts[0].process.kill()
    status, said = hosts[1].ends()
    assert status == 75
    assert said.startswith("tgvlm: error: host 0 (127.0.0.1:")
    assert said.endswith("is gone, and with it what hosts meet at")


def test_a_host_that_hangs_is_named(launch, tmp_path):
    words = "--config.train.watchdog_seconds=90"
    hosts = launch(tmp_path / "run", words, program=("-c", HANGS))
    for status, said in [host.ends() for host in hosts]:
        assert status == 75
        assert "no step was finished for 9" in said
        assert "host 1 (" in said
        assert "in phase 'input' of step 3 hangs; the others wait for it in phase 'step'" in said


def test_what_one_host_was_given_wrong_ends_all(launch, tmp_path):
    ring = [f"--config.mesh.{one}" for one in ("fsdp=4", "cp=2")]
    for status, said in [host.ends() for host in launch(tmp_path / "ring", *ring)]:
        assert status == 2
        assert "mesh.cp=2: not over several processes on CPUs" in said
    hosts = launch(tmp_path / "run", each=([], ["--config.seed=5"]))
    for status, said in [host.ends() for host in hosts]:
        assert status == 2
        assert "host 1 has seed=5, host 0 has 9; start the same command on every host" in said
    hosts = launch(tmp_path / "run", each=([], ["--config.data.shards=nowhere"]))
    statuses, said = zip(*[host.ends() for host in hosts], strict=True)
    assert statuses == (2, 2)
    assert said[1].startswith("tgvlm: error: nowhere")
    assert said[0].startswith("tgvlm: error: host 1 (")
    assert said[0].endswith(said[1].removeprefix("tgvlm: error: "))
    hosts = launch(tmp_path / "here", each=([], [f"--workdir={tmp_path}/there"]))
    for status, said in [host.ends() for host in hosts]:
        assert status == 2
        assert "host 1 does not see what host 0 writes there" in said


def test_a_host_that_nobody_joins(launch, tmp_path):
    first, second = launch(tmp_path / "run", "--join_timeout=20", each=([], ["--nonsense"]))
    assert second.ends()[0] == 2
    status, said = first.ends()
    assert status == 75
    assert said.startswith("tgvlm: error: all 2 processes did not meet at 127.0.0.1:")
