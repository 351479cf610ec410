"""VideoSSR: rewards of grounding, counting and jigsaw answers."""

import json
import math

import pytest

from tgvlm_jax.rewards import videossr


@pytest.fixture
def recorded(suite):
    return json.loads((suite / "rewards.json").read_text())


@pytest.mark.parametrize("task", videossr.TASKS)
def test_rewards(recorded, task):
    compared = 0
    for case in recorded[task]:
        if case["error"] is not None or not isinstance(case["pred"], str):
            continue  # a crash of the original, or no text at all
        if not isinstance(case["gt"], str):
            continue
        found, wanted = videossr.TASKS[task](case["pred"], case["gt"]), case["reward"]
        if wanted == "nan":  # the original's; ours is no reward
            wanted = 0.0
        assert found["smooth"] == pytest.approx(wanted, abs=1e-12), case
        assert found["strict"] <= found["readable"]
        compared += 1
    assert compared > 0.9 * len(recorded[task])


def test_intervals_of_the_released_evaluation(recorded):
    for case in recorded["eval_vtg"]:
        found = videossr.find_interval(case["pred"])
        wanted = case["parsed"]
        assert found == (None if wanted is None else tuple(wanted)), case
        if found is not None:
            truth = videossr.find_interval(case["gt"])
            assert truth is not None
            said = "-".join(f"{time!r}" for time in found)
            iou = videossr.grounding(said, f"{truth[0]!r}-{truth[1]!r}")["smooth"]
            assert math.isclose(iou, case["iou"], abs_tol=1e-12), case
