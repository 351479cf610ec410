"""VideoSSR: the pretext generators, from a seed to a plan to pixels."""

import json
import random

import numpy as np
import pytest

from tgvlm_jax.data import anomalies, pretext_plans, pretext_shapes, pretext_tasks

KINDS = {
    "Grayscale": "grayscale", "Invert": "invert", "ChannelSwap": "channel_swap",
    "Rotate90": "rotate90", "Rotate180": "rotate180", "Rotate270": "rotate270", "Noise": "noise",
    "ZoomIn": "zoom_in", "ZoomOut": "zoom_out", "Mirror": "mirror", "Blur": "blur",
    "Saturation": "saturation", "Shuffle": "shuffle", "StutterHold": "stutter", "Swap": "swap",
}  # fmt: skip
CHANGED = [name for name in KINDS if KINDS[name] not in ("shuffle", "stutter", "swap")]


@pytest.fixture
def plans(suite):
    return json.loads((suite / "plans.json").read_text())


@pytest.fixture
def pixels(suite):
    with np.load(suite / "pixels.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture
def drawn(suite):
    return json.loads((suite / "pixels.json").read_text())


def test_anomaly_plans(plans):
    videos = list(plans["fps"])
    for case in plans["grounding"]:
        others = [video for video in videos if video != case["video"]]
        plan = pretext_plans.plan_anomaly(
            KINDS[case["type"]], random.Random(case["seed"]), others=others
        )
        assert (plan.length, plan.start) == (case["t"], case["start"])
        assert list(plan.order) == case["frames"]
        assert plan.answer(plans["fps"][case["video"]]) == case["answer"]
        if case["src"] is not None:
            stretch = range(plan.start, plan.start + plan.length)
            sources = [plan.other if i in stretch else case["video"] for i in range(48)]
            assert sources == case["src"]


def test_jigsaw_plans(plans):
    for case in plans["jigsaw"]:
        level = pretext_plans.JigsawLevel(clips=case["n"])
        plan = pretext_plans.plan_jigsaw(random.Random(case["seed"]), level=level)
        assert [list(plan.frames(i)) for i in range(case["n"])] == case["clips"]
        assert plan.answer() == case["answer"]


def test_counting_plans(plans):
    for case in plans["counting"]:
        level = pretext_plans.COUNTING[case["level"]]
        plan = pretext_plans.plan_counting(random.Random(case["seed"]), level=level)
        marks = {str(mark.frame): f"{mark.shape}{mark.count}" for mark in plan.marks}
        assert marks == case["frames"]
        assert plan.answer() == case["answer"]


def seed_of_noise(sigma):
    """Both sources of chance were given one seed, which was not recorded; None unless small."""
    for seed in range(20_000):
        if random.Random(seed).uniform(*anomalies.NOISE_SIGMA) == sigma:
            return seed
    return None


def same_noise(found, wanted, clean):
    """As strong, where the same draws cannot be had."""
    mine, theirs = (x.astype(np.float64) - clean for x in (found, wanted))
    assert mine.std() == pytest.approx(theirs.std(), rel=0.05)
    assert mine.mean() == pytest.approx(theirs.mean(), abs=0.05 * theirs.std())


@pytest.mark.parametrize("name", CHANGED)
def test_changed_frames(pixels, drawn, name):
    compared = 0
    while (key := f"{name}{compared}") in pixels:
        strength = drawn["perturb_params"].get(key, 0.0)
        seed = seed_of_noise(strength) if name == "Noise" else 0
        clean = pixels[f"in{compared}"]
        found = pretext_tasks.change(
            clean, KINDS[name], strength=strength, noise=np.random.RandomState(seed)
        )
        if seed is None:
            same_noise(found, pixels[key], clean)
        else:
            np.testing.assert_array_equal(found, pixels[key], err_msg=key)
        compared += 1
    assert compared


def test_drawn_shapes(pixels, drawn):
    for number, case in enumerate(drawn["draws"]):
        shape = pretext_shapes.Drawing(
            shape=case["shape"],
            size=case["size"],
            centre=tuple(case["center"]),
            angle=case["angle"],
            colour=tuple(case["color_bgr"]),  # on a picture in BGR
        )
        black = np.zeros((case["h"], case["w"], 3), np.uint8)
        found = pretext_shapes.draw(black, shape)
        np.testing.assert_array_equal(found, pixels[f"draw{number}"], err_msg=str(case))
        assert np.any(found, axis=-1).sum() == case["area"]
