"""Who hangs where, and how a run that hangs ends."""

import os
import subprocess
import sys
import time

import pytest

from tgvlm_jax.train import watchdog
from tgvlm_jax.train.phases import Clock
from tgvlm_jax.train.watchdog import Doing, Watchdog


def test_the_host_that_is_behind_hangs():
    hosts = {
        0: Doing(step=7, phase="step", turns=31, name="a"),
        1: Doing(step=5, phase="input", turns=24, name="b"),
        2: Doing(step=7, phase="step", turns=31, name="c"),
    }
    assert watchdog.hanging(hosts, 60.2) == (
        "no step was finished for 60 s (train.watchdog_seconds): host 1 (b), in phase 'input' of "
        "step 5 hangs; the others wait for it in phase 'step'"
    )


def test_where_all_are_alike_all_hang():
    hosts = {n: Doing(step=7, phase="step", turns=31, name="a") for n in range(2)}
    assert watchdog.hanging(hosts, 60).endswith("all 2 hosts hang in phase 'step' of step 7")
    alone = {0: Doing(step=2, phase="checkpoint", turns=9)}
    assert watchdog.hanging(alone, 60).endswith("it hangs in phase 'checkpoint' of step 2")


def test_a_run_that_gets_on_is_left_alone():
    clock = Clock()
    with Watchdog(clock, seconds=1e6) as dog:
        assert dog.doing().phase == "start"
        dog.begin(3)
        with clock("rollout"), clock("reward"):
            assert (dog.doing().step, dog.doing().phase) == (3, "reward")
        assert (dog.doing().phase, dog.doing().turns) == ("between", 4)
    assert dog.doing().phase == "done"
    with pytest.raises(ValueError, match="mine"), Watchdog(clock, seconds=0):
        raise ValueError("mine")


HANGS = """
import threading
from tgvlm_jax.train.phases import Clock
from tgvlm_jax.train.watchdog import Watchdog
clock = Clock()
with Watchdog(clock, seconds=0.1) as dog:
    dog.begin(12)
    with clock("input"):
        threading.Event().wait()
"""


def test_a_run_that_hangs_ends_and_says_where():
    start = time.monotonic()
    env = os.environ | {"XLA_FLAGS": ""}
    ended = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, env=env)
    assert ended.returncode == 75
    assert "it hangs in phase 'input' of step 12" in ended.stderr.splitlines()[-1]
    assert "threading.py" in ended.stderr  # where every thread stood
    assert time.monotonic() - start < 280
