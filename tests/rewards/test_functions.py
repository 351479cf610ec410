"""Rewards of whole answers."""

import numpy as np
import pytest

from tgvlm_jax.rewards import functions
from tgvlm_jax.types import Sample


def sample(kind, answer, spans=()):
    return Sample(
        frames=np.zeros((0, 0, 0, 3), np.uint8),
        seconds=np.zeros(0),
        duration=10.0,
        question="",
        answer=answer,
        spans=np.reshape(spans, (-1, 2)).astype(float),
        video="a",
        kind=kind,
    )


@pytest.mark.parametrize(
    ("name", "text", "spans", "wanted"),
    [
        ("grounding", "anything", [[2, 6]], 0.5),
        ("grounding", "anything", [], 0.0),
        ("worded_grounding", "It is <evi>.", [[2, 6]], 0.5),
        ("worded_grounding", "It is <evi>. ", [[2, 6]], 0.5),
        ("worded_grounding", "<evi>", [[2, 6]], 0.0),
    ],
)
def test_overlap_with_the_truth(name, text, spans, wanted):
    asked = sample("invert", "It is <evi>.", [[4, 6]])
    found = functions.FUNCTIONS[name](text, np.reshape(spans, (-1, 2)).astype(float), asked)
    assert found == pytest.approx(wanted)


def test_pretext_tasks_are_found_by_the_kind():
    counting, none = sample("counting/easy", "4,2,1"), np.zeros((0, 2))
    assert functions.FUNCTIONS["videossr"]("4,2,2", none, counting) == pytest.approx(2 / 3)
    assert functions.FUNCTIONS["videossr_strict"]("4,2,2", none, counting) == 0
    assert functions.FUNCTIONS["videossr_strict"]("4,2,1", none, counting) == 1
    grounding = sample("grounding/mirror", "1.0-3.0")
    assert functions.FUNCTIONS["videossr"]("2.0-4.0", none, grounding) == pytest.approx(1 / 3)
