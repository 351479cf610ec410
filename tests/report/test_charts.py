"""Charts: ticks are round and enclose, curves keep their ends, odd logs do not break them."""

import math
import re

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tgvlm_jax.report import charts

CHART = charts.Chart(key="loss", title="Loss")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 12, [0, 2, 4, 6, 8, 10, 12]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.3, 0.9, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        (5, 5, [5]),
    ],
)
def test_ticks(low, high, expected):
    assert charts.ticks(low, high, 6) == pytest.approx(expected)


@hypothesis.given(low=st.floats(-1e6, 1e6), width=st.floats(1e-3, 1e6), count=st.integers(2, 8))
def test_ticks_are_few_and_inside(low, width, count):
    marks = charts.ticks(low, low + width, count)
    assert len(marks) <= count + 1
    assert all(low - 1e-6 * width <= mark <= low + width * (1 + 1e-6) for mark in marks)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (4.567, "4.57"),
        (123.4, "123"),
        (45_600, "45.6k"),
        (2_500_000, "2.5M"),
        (-3, "-3"),
    ],
)
def test_number(value, text):
    assert charts.number(value) == text


def points_of(figure):
    path = re.search(r'<path class="curve" d="M([^"]+)"', figure)
    assert path is not None
    return np.array([point.split() for point in path[1].split("L")], np.float64)


@pytest.mark.parametrize("count", [2, 50, 1000])
def test_a_falling_loss_falls_inside_the_frame(count):
    metrics = [{"step": i, "loss": math.exp(-i / count)} for i in range(count)]
    points = points_of(charts.line_chart(metrics, CHART))
    assert np.all(np.diff(points[:, 0]) > 0)
    assert np.all(np.diff(points[:, 1]) >= 0)  # y grows downwards
    assert points[:, 1].min() >= 0
    assert points[:, 1].max() <= 140
    assert len(points) <= 120


def test_values_that_are_not_finite_are_counted():
    metrics = [{"step": i, "loss": math.nan if i == 2 else 1.0} for i in range(5)]
    assert "1 values not finite" in charts.line_chart(metrics, CHART)


@pytest.mark.parametrize(
    "values",
    [[0.0, 0.0], [1.0, 1.0], [-2.0, -5.0], [-1.0, 3.0], [-0.75, 0.75], [1e-9, 2e-9], [1e12, 3.0]],
)
def test_any_range_can_be_drawn(values):
    metrics = [{"step": i, "loss": value} for i, value in enumerate(values)]
    figure = charts.line_chart(metrics, CHART)
    assert "nan" not in figure
    assert "inf" not in figure
    assert len(points_of(figure)) == 2


def test_a_metric_that_was_not_logged_has_no_chart():
    assert charts.line_chart([{"step": 0, "lr": 1.0}, {"step": 1, "loss": 1.0}], CHART) == ""


def test_scale_and_unit():
    chart = charts.Chart(key="wait", title="Waiting", unit="% of the step", scale=100)
    figure = charts.line_chart([{"step": 0, "wait": 0.5}, {"step": 1, "wait": 0.25}], chart)
    assert "<small>% of the step</small>" in figure
    assert ">25</text>" in figure


def test_histogram_counts_every_value():
    figure = charts.histogram([0.0, 0.01, 0.5, 1.0], title="IoU")
    assert figure.count("<rect") == 3
    assert "mean 0.38" in figure
