"""Rewards of the pretext tasks: unreadable answers first, then laws, then blind answers."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgvlm_jax.data.pretext_plans import COUNTING
from tgvlm_jax.rewards import videossr
from tgvlm_jax.types import Sample

NOTHING = {"smooth": 0.0, "strict": 0.0, "readable": 0.0}


@pytest.mark.parametrize(
    "answer",
    ["", "  ", "3.3", "3.3s-6.7s", "from 3.3 to 6.7", "<answer>3.3-6.7</answer>", "3.3–6.7",
     "6.7-3.3", "3.3-6.7-9", "-3.3-6.7", "3.3.3-6.7", ".-.", "'3.3-6.7'", "0:03-0:06"],
)  # fmt: skip
def test_an_interval_in_another_form_earns_nothing(answer):
    assert videossr.grounding(answer, "3.3-6.7") == NOTHING


@pytest.mark.parametrize("answer", ["", "three", "4,2", "4,2,7,1", "4.0,2,7", "1. 4 2. 2 3. 7"])
def test_counts_in_another_form_earn_nothing(answer):
    assert videossr.counting(answer, "4,2,7") == NOTHING


@pytest.mark.parametrize("answer", ["", "3,1,2,4,6,5", "31246", "3124655", "[312465]", "012345"])
def test_an_order_in_another_form_earns_nothing(answer):
    assert videossr.jigsaw(answer, "312465") == NOTHING


@pytest.mark.parametrize("task", videossr.TASKS)
@pytest.mark.parametrize("truth", ["", "?", "bad"])
def test_a_truth_that_cannot_be_read_earns_nothing(task, truth):
    for answer in ("1-2", "1,2,3", "123", "7"):
        assert videossr.TASKS[task](answer, truth)["smooth"] == 0


def test_times_of_hundreds_of_digits_are_no_number_of_seconds():
    nines = "9" * 400
    assert videossr.grounding(f"{nines}-{nines}", "3.3-6.7")["smooth"] == 0
    assert videossr.counting(f"4,2,{nines}", "4,2,7")["smooth"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answer", "truth", "reward"),
    [("1-3", "2-4", 1 / 3), (" 1 - 3\n", "1.0-3.0", 1), ("1-2", "2-3", 0), ("2-2", "2-2", 0)],
)
def test_grounding_is_the_overlap(answer, truth, reward):
    found = videossr.grounding(answer, truth)
    assert found["smooth"] == pytest.approx(reward)
    assert found["readable"] == 1


def test_counting_gives_credit_for_near_misses():
    found = videossr.counting("circles: 2, squares: 4, triangles: 9", "4,4,3")
    assert found == {"smooth": pytest.approx((0.5 + 1 + 0) / 3), "strict": 0, "readable": 1}
    assert videossr.counting("4,4,3", "4,4,3") == {"smooth": 1, "strict": 1, "readable": 1}


@pytest.mark.parametrize("clips", [6, 8])
def test_a_reversed_order_earns_nothing_and_the_right_one_all(clips):
    truth = "".join(map(str, random.Random(clips).sample(range(1, clips + 1), clips)))
    assert videossr.jigsaw(truth, truth) == {"smooth": 1, "strict": 1, "readable": 1}
    assert videossr.jigsaw(truth[::-1], truth) == {"smooth": 0, "strict": 0, "readable": 1}


times = st.floats(0, 1e4, allow_nan=False).map(lambda x: round(x, 1))
intervals = st.tuples(times, times).map(lambda pair: "{}-{}".format(*sorted(pair)))


@given(intervals, intervals)
def test_overlap_is_symmetric_and_a_share(one, other):
    found = videossr.grounding(one, other)["smooth"]
    assert 0 <= found <= 1
    assert found == videossr.grounding(other, one)["smooth"]


@given(st.text(), st.sampled_from(["3.3-6.7", "4,2,7", "312465"]))
def test_any_text_earns_a_finite_reward(answer, truth):
    for task in videossr.TASKS.values():
        found = task(answer, truth)
        assert all(0 <= value <= 1 and math.isfinite(value) for value in found.values())
        assert found["smooth"] <= found["readable"]
        assert found["strict"] <= found["smooth"] + 1e-12


def test_blind_intervals():
    """The released law: 8 to 16 of 48 frames anywhere; a floor that smooth rewards do not show."""
    cases = [
        (t, s) for t in range(8, 17) for s in range(49 - t) for _ in range(round(5040 / (49 - t)))
    ][::211]
    truths = [f"{s}.0-{s + t}.0" for t, s in cases]
    found = videossr.blind_grounding(truths, [48.0] * len(truths))
    assert found["whole"] == pytest.approx(0.25, abs=0.003)
    assert found["constant"] == pytest.approx(0.306, abs=0.006)
    assert found["random"] < found["constant"]
    best = max(
        sum(videossr.grounding(f"{a}-{b}", truth)["smooth"] for truth in truths)
        for a, b in itertools.combinations(range(0, 49, 8), 2)
    )
    assert found["constant"] >= best / len(truths) - 1e-9


@pytest.mark.parametrize(("frames", "best"), [(3, 0.583), (4, 0.548)])
def test_blind_counts(frames, best):
    rng = random.Random(frames)

    def count():
        return sum(rng.randint(1, frames) for _ in range(rng.randint(1, frames)))

    truths = [f"{count()},{count()},{count()}" for _ in range(1500)]
    found = videossr.blind_counting(truths, most=frames**2)
    assert found["constant"] == pytest.approx(best, abs=0.02)
    said = {3: "3,3,3", 4: "5,5,5"}[frames]
    constant = sum(videossr.counting(said, truth)["smooth"] for truth in truths) / len(truths)
    assert found["constant"] == pytest.approx(constant, abs=1e-9)
    assert found["random"] < found["constant"]


@pytest.mark.parametrize(("clips", "reward"), [(4, None), (6, 0.352), (8, 0.344)])
def test_blind_orders(clips, reward):
    if clips == 4:
        orders = ["".join(one) for one in itertools.permutations("1234")]
        mean = sum(videossr.jigsaw(one, "1234")["smooth"] for one in orders) / len(orders)
        reward = mean
        assert videossr.blind_jigsaw(orders)["constant"] == pytest.approx(mean)
    truth = "".join(map(str, range(1, clips + 1)))
    assert videossr.blind_jigsaw([truth])["random"] == pytest.approx(reward, abs=5e-4)


def sample(kind, answer, duration=48.0):
    return Sample(
        frames=np.zeros((2, 0, 0, 3), np.uint8),
        seconds=np.array([100.0, 124.0]),
        duration=100.0 + duration,
        question="",
        answer=answer,
        spans=np.zeros((0, 2)),
        video="film",
        kind=kind,
    )


def test_blind_answers_to_samples_of_several_tasks():
    samples = [
        sample("grounding/mirror", "0.0-24.0"), sample("grounding/blur", "0.0-12.0"),
        sample("jigsaw/4", "1234"), sample("jigsaw/4", "4321"),
        sample("counting/easy", "3,3,3"), sample("counting/easy", "3,3,3"),
        sample("stutter", "<evi></evi><evi>"),
    ]  # fmt: skip
    found = videossr.blind(samples)
    assert found.keys() == videossr.TASKS.keys()
    assert found["grounding"] == videossr.blind_grounding(["0.0-24.0", "0.0-12.0"], [48.0] * 2)
    assert found["grounding"]["whole"] == pytest.approx(0.375)
    assert found["jigsaw"]["constant"] == pytest.approx(0.5)
    assert found["counting"]["constant"] == 1.0
    assert found["counting"] == videossr.blind_counting(["3,3,3"], most=9)
    assert videossr.blind(samples[-1:]) == {}
    hard = videossr.blind([*samples, sample("counting/hard", "16,16,16")])
    assert hard["counting"] == videossr.blind_counting(["3,3,3"] * 2 + ["16,16,16"], most=16)


def test_the_highest_counts_are_those_of_the_levels():
    assert {n: one.appearances * one.instances for n, one in COUNTING.items()} == videossr.MOST
