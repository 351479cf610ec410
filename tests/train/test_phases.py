"""The clock of a run: which phase it is in, and how much of a time was whose."""

import itertools
import types

import pytest

from tgvlm_jax.train import phases
from tgvlm_jax.train.phases import Clock


@pytest.fixture
def clock(monkeypatch):
    """Every look at it shows a second more, from 0 when it is made."""
    count = itertools.count()
    monkeypatch.setattr(phases, "time", types.SimpleNamespace(monotonic=lambda: float(next(count))))
    return Clock()


def test_the_innermost_phase_counts(clock):
    with clock("rollout"):  # from 1
        assert (clock.phase, clock.since) == ("rollout", 1.0)
        with clock("reward"):  # 2 to 3
            assert (clock.phase, clock.since) == ("reward", 2.0)
        assert (clock.phase, clock.since) == ("rollout", 3.0)  # to 4
    assert clock.phase is None
    found = clock.between(0.0, 10.0)
    assert {name: x for name, x in found.items() if x} == {"rollout": 2.0, "reward": 1.0}


def test_only_what_lies_between_the_moments_counts(clock):
    with clock("input"):  # 1 to 2
        pass
    with clock("step"):  # from 3 on
        assert clock.between(1.75, 3.5) == dict.fromkeys(phases.PHASES, 0.0) | {
            "input": 0.25,
            "step": 0.5,
        }


def test_what_was_asked_for_is_forgotten(clock):
    for _ in range(3):
        with clock("input"):
            pass
    assert clock.between(0.0, 4.0)["input"] == 2.0  # 1 to 2, 3 to 4
    assert clock.between(0.0, 9.0)["input"] == 1.0  # 5 to 6


def test_a_phase_ends_with_an_error(clock):
    with pytest.raises(ValueError, match="out"), clock("reward"):
        raise ValueError("out")
    assert clock.phase is None
    assert clock.began("reward") == 1.0
