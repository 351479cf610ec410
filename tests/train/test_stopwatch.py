"""Where the time of steps went, on a made-up course of events."""

import concurrent.futures

import jax.numpy as jnp
import pytest

from tgvlm_jax.train import stopwatch
from tgvlm_jax.train.phases import PHASES, Clock
from tgvlm_jax.train.stopwatch import Lap, Stopwatch


class Course(Clock):
    """A clock that is told what happened: (phase, start, end)."""

    def __init__(self, *stretches):
        super().__init__()
        self.stretches = stretches

    def between(self, start, end):
        seconds = dict.fromkeys(PHASES, 0.0)
        for phase, since, until in self.stretches:
            seconds[phase] += max(0.0, min(until, end) - max(since, start))
        return seconds


def watch_of(*stretches):
    watch = Stopwatch(Course(*stretches))
    watch.close()
    watch._ended = 0.0
    return watch


def lap(handed, ended, *, frames=1, flops=None, compiled=False):
    done = concurrent.futures.Future()
    done.set_result(ended)
    return Lap(handed=handed, ended=done, frames=frames, flops=flops, compiled=compiled)


def seconds(found):
    return {
        name.removeprefix("seconds_"): found[name] for name in found if name.startswith("seconds_")
    }


def test_the_devices_time_and_that_of_the_host_add_up():
    watch = watch_of(("input", 0.0, 3.0), ("step", 3.0, 4.0))
    found = watch.read(lap(3.5, 10.0))
    assert found["step_time"] == 10.0
    assert seconds(found) == {"input": 3.0, "step": 7.0, "checkpoint": 0.0, "other": 0.0}
    assert found["input_wait"] == 0.3


def test_input_in_the_shadow_of_an_update_costs_nothing():
    watch = watch_of(("input", 5.0, 9.0))
    watch.read(lap(0.0, 10.0))
    found = watch.read(lap(9.5, 20.0))  # handed over before the first had ended
    assert found["step_time"] == 10.0
    assert found["seconds_step"] == 10.0
    assert found["input_wait"] == 0.0


def test_a_rollout_counts_from_the_end_of_the_update_before_it():
    course = [("rollout", 1.0, 6.0), ("reward", 6.0, 8.0), ("rollout", 8.0, 9.0)]
    watch = watch_of(*course)
    watch.read(lap(0.0, 4.0))
    found = watch.read(lap(9.5, 14.0))
    spent = {"rollout": 1.5, "reward": 1.0, "other": 0.25, "step": 4.25}  # means of two
    assert seconds(found) == spent | {"input": 0.0, "checkpoint": 0.0}
    assert sum(seconds(found).values()) == found["step_time"] == 7.0


def test_saving_counts_in_the_step_after_it():
    watch = watch_of(("checkpoint", 4.0, 6.0))
    assert watch.read(lap(0.0, 4.0))["seconds_checkpoint"] == 0.0
    assert watch.read(lap(6.0, 8.0))["seconds_checkpoint"] == 1.0  # 2 seconds in two steps


def test_steps_that_compiled_count_only_where_there_are_no_others():
    watch = watch_of()
    assert watch.read(lap(0.0, 60.0, compiled=True))["step_time"] == 60.0
    assert watch.read(lap(60.0, 61.0))["step_time"] == 1.0
    assert watch.read(lap(61.0, 64.0))["step_time"] == 2.0


def test_work_is_divided_by_the_time_of_the_same_steps(monkeypatch):
    watch = watch_of()
    watch.read(lap(0.0, 1.0, frames=10, flops=1e9))
    found = watch.read(lap(1.0, 4.0, frames=30, flops=7e9))
    assert found["frames_per_second"] == 10.0
    assert found["flops_per_second"] == 2e9
    assert "mfu" not in found  # the peak of this CPU is not known
    monkeypatch.setattr(stopwatch, "peak_flops", lambda: 1e10)
    assert watch.read(lap(4.0, 8.0, frames=1, flops=8e9))["mfu"] == pytest.approx(0.2)


def test_unknown_work_has_no_rate():
    assert "flops_per_second" not in watch_of().read(lap(0.0, 1.0))


def test_the_end_of_an_update_is_met_by_a_thread():
    clock = Clock()
    watch = Stopwatch(clock)
    with clock("step"):
        result = jnp.ones(3) * 2
    under_way = watch.lap(result, frames=1, flops=None, compiled=False)
    found = watch.read(under_way)
    watch.close()
    assert under_way.handed <= under_way.ended.result(timeout=10)
    assert sum(seconds(found).values()) == pytest.approx(found["step_time"])


def test_a_failure_on_the_device_reaches_who_asks():
    clock = Clock()
    watch = Stopwatch(clock)
    with clock("step"):
        result = jnp.ones(3)
        result.delete()
    under_way = watch.lap(result, frames=1, flops=None, compiled=False)
    with pytest.raises(RuntimeError, match="deleted"):
        watch.read(under_way)
    watch.close()
