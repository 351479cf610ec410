"""Mean relative accuracy by hand."""

import numpy as np
import pytest

from tgvlm_jax.evaluation.relative_accuracy import mean_relative_accuracy, vsibench_accuracy


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [(10, 10, 1), (13, 10, 0.4), (7.01, 10, 0.5), (30, 10, 0), (0, 0, 1), (-10, 10, 0)],
)
def test_the_share_of_tolerances_met(answer, truth, score):
    assert mean_relative_accuracy(answer, truth) == pytest.approx(score, abs=1e-6)


def test_what_is_not_finite_meets_none():
    assert mean_relative_accuracy(np.nan, 10) == mean_relative_accuracy(np.inf, 10) == 0
    assert mean_relative_accuracy(1e300, 10) == 0


@pytest.mark.parametrize(("answer", "score"), [(10, 1), (9.5, 1), (9.49, 0.9), (5, 0.1), (21, 0)])
def test_vsibench_meets_a_tolerance_that_is_just_reached(answer, score):
    assert vsibench_accuracy(answer, 10) == pytest.approx(score, abs=1e-12)
