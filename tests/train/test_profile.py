"""Which steps of a run are traced. The traces themselves: tests/train/test_rollouts.py."""

import contextlib
import io

import pytest

from tests.processes import run_alone
from tgvlm_jax.train import profile
from tgvlm_jax.types import InputError


@pytest.mark.parametrize(
    ("setting", "first", "total", "expected"),
    [
        (False, 0, 100, []),
        (0, 0, 100, []),
        (True, 0, 100, [6, 7, 8, 9, 10]),
        (2, 0, 100, [6, 7]),
        (2, 40, 100, [46, 47]),
        (True, 0, 8, [4, 5, 6, 7, 8]),  # a short run: the last ones
        (True, 0, 3, [1, 2, 3]),
        (True, 99, 100, [100]),
        ("10:15", 0, 100, [10, 11, 12, 13, 14]),
        ("99:200", 0, 100, [99, 100]),
        ("10:15", 50, 100, [10, 11, 12, 13, 14]),  # were done before
    ],
)
def test_steps(setting, first, total, expected):
    assert list(profile.steps(setting, first=first, total=total)) == expected


@pytest.mark.parametrize("setting", ["", "ten", "5:", "15:10", "7:7", "0:3", "101:105", -1])
def test_wrong_settings_are_one_clear_line(setting):
    with pytest.raises(InputError, match=r"give true, a number of steps, or START:STOP"):
        profile.steps(setting, first=0, total=100)


def test_a_step_that_fails_leaves_what_was_traced(tmp_path):
    """As a loss that is no number, or SIGTERM, ends a run."""
    run_alone(failing_step, tmp_path)
    assert len(list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))) == 1


def failing_step(folder):
    waits, said = [], io.StringIO()
    profiler = profile.Profiler(folder, range(1, 9), lambda: waits.append(1))
    with pytest.raises(ValueError, match="now"), profiler.step(1):
        raise ValueError("now")
    with contextlib.redirect_stdout(said):
        profiler.close()
        profiler.close()
    assert len(waits) == 2
    assert said.getvalue().count("xprof --logdir") == 1
