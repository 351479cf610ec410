"""Rejected answers: well formed, worse in one way only, never the good one, the same by seed."""

import numpy as np
import pytest

from tgvlm_jax.data import annotations, preference
from tgvlm_jax.data.preference import TEMPORAL, Grounded, key_words, reject
from tgvlm_jax.grounding import spans as span_lib
from tgvlm_jax.schema import PERTURBATIONS, PerturbationConfig
from tgvlm_jax.types import InputError

WORDS = ("fence", "violin", "climbs", "purple")


def annotation(answer, spans, *, duration=90.0):
    record = {
        "task": "dvc",
        "video": "a.mp4",
        "duration": duration,
        "tgt": np.ravel(spans).tolist(),
        "conversations": [
            {"from": "human", "value": "<image>\nWhat happens?"},
            {"from": "gpt", "value": answer},
        ],
    }
    made = annotations.parse(record, where="test")
    return Grounded(answer=made.answer, spans=made.spans, end=made.duration)


ONE = annotation("<evi></evi> The event happens in <evi>.", [(12, 20)])
LIST = annotation(
    "<evi><evi><evi></evi> The dog jumps in <evi>, <evi> and <evi>.",
    [(3, 9), (20, 26), (50, 58)],
)
CAPTIONS = annotation(
    "<evi><evi><evi></evi> <evi>, a man opens the red door. <evi>, a woman pours milk. "
    "<evi>, a cat sleeps.",
    [(0, 5.5), (10, 21.25), (60, 75)],
)
PLAIN = annotation("</evi> A boy kicks the ball.", [])
ALL = {"one": ONE, "list": LIST, "captions": CAPTIONS, "plain": PLAIN}


def rejections(one, kind, *, seeds=range(40), **settings):
    config = PerturbationConfig(kinds=(kind,), **settings)
    found = [reject(one, config, seed=seed, words=WORDS) for seed in seeds]
    return [made for made in found if made is not None]


def spoken(answer):
    return answer.partition("</evi>")[2]


@pytest.mark.parametrize("kind", PERTURBATIONS)
@pytest.mark.parametrize("name", ALL)
def test_every_rejection_is_well_formed_and_worse_in_one_way(name, kind):
    one = ALL[name]
    made = rejections(one, kind)
    impossible = {"plain": set(TEMPORAL), "one": {"delete", "merge", "distort"}}
    assert bool(made) == (kind not in impossible.get(name, set()))
    for found in made:
        assert found.kind == kind
        # The contract of an answer, checked by what reads annotations.
        annotations.parse(
            {
                "task": "dvc",
                "video": "a.mp4",
                "duration": one.end,
                "tgt": found.spans.ravel().tolist(),
                "conversations": [
                    {"from": "human", "value": "What happens?"},
                    {"from": "gpt", "value": found.answer},
                ],
            },
            where="",
        )
        assert found.answer != one.answer or not np.array_equal(found.spans, one.spans)
        if kind == "shift":
            assert found.answer == one.answer
        if kind not in TEMPORAL:
            np.testing.assert_array_equal(found.spans, one.spans)


def test_the_same_seed_makes_the_same_answer():
    config = PerturbationConfig()
    for seed in range(10):
        a, b = (reject(CAPTIONS, config, seed=[7, seed], words=WORDS) for _ in range(2))
        assert (a.kind, a.answer) == (b.kind, b.answer)
        np.testing.assert_array_equal(a.spans, b.spans)
    assert len({reject(CAPTIONS, config, seed=s, words=WORDS).answer for s in range(40)}) > 10


@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
def test_a_shift_moves_one_event_far_enough(strength):
    for made in rejections(CAPTIONS, "shift", strength=strength):
        changed = np.flatnonzero(np.any(made.spans != CAPTIONS.spans, axis=1))
        assert len(changed) == 1
        before, after = (x.spans[changed[0]] for x in (CAPTIONS, made))
        assert float(span_lib.iou(before, after)) <= 1 - strength + 1e-9
        assert 0 <= after[0] <= after[1] <= CAPTIONS.end


def test_whole_seconds_stay_whole():
    for kind in ("shift", "add"):
        for made in rejections(LIST, kind):
            np.testing.assert_array_equal(made.spans, np.round(made.spans))
            assert made.spans[:, 0].tolist() == sorted(made.spans[:, 0]) or kind == "shift"


def test_lists_lose_and_gain_an_event_and_stay_sentences():
    texts = {spoken(made.answer) for made in rejections(LIST, "delete")}
    assert texts == {" The dog jumps in <evi> and <evi>."}
    merged = rejections(LIST, "merge")
    assert {tuple(map(tuple, m.spans.tolist())) for m in merged} == {
        ((3, 26), (50, 58)),
        ((3, 9), (20, 58)),
    }
    assert {spoken(m.answer) for m in merged} == {" The dog jumps in <evi> and <evi>."}
    for made in rejections(LIST, "add"):
        assert spoken(made.answer) == " The dog jumps in <evi>, <evi>, <evi> and <evi>."
        assert len(made.spans) == 4


def test_captions_go_with_their_events():
    captions = spoken(CAPTIONS.answer).split("<evi>")[1:]
    for made in rejections(CAPTIONS, "delete"):
        kept = [i for i in range(3) if CAPTIONS.spans[i].tolist() in made.spans.tolist()]
        assert spoken(made.answer).split("<evi>")[1:] == [captions[i] for i in kept]
    for made in rejections(CAPTIONS, "merge"):
        assert spoken(made.answer).split("<evi>")[1] == captions[0]
    for made in rejections(CAPTIONS, "repeat"):
        assert len(set(spoken(made.answer).split("<evi>")[1:])) == 1


def test_a_distortion_replaces_key_words_alone():
    for made in rejections(CAPTIONS, "distort", strength=1.0):
        pairs = zip(spoken(CAPTIONS.answer).split(), spoken(made.answer).split(), strict=True)
        changed = [(a.strip(",."), b.strip(",.")) for a, b in pairs if a != b]
        assert 1 <= len(changed) <= 4
        assert all(b in WORDS and a not in {"the", "a"} for a, b in changed)
    assert not rejections(CAPTIONS, "distort", seeds=()), "no seeds, no answers"
    assert (
        reject(CAPTIONS, PerturbationConfig(kinds=("distort",)), seed=0) is None
    )  # no words to put in


def test_kinds_are_drawn_by_their_probabilities():
    config = PerturbationConfig(kinds=("shift", "merge"), probabilities=(0.9, 0.1))
    drawn = [reject(LIST, config, seed=seed).kind for seed in range(300)]
    assert 0.83 < drawn.count("shift") / 300 < 0.96
    # What does not apply gives way to what does.
    assert reject(
        ONE, PerturbationConfig(kinds=("merge", "shift"), probabilities=(1, 0)), seed=0
    ).kind


def test_words_to_put_in():
    assert key_words([CAPTIONS.answer, PLAIN.answer]) == [
        "ball", "boy", "cat", "door", "kicks", "man", "milk", "opens", "pours", "red", "sleeps",
        "woman",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kinds": ("shfit",)}, "give some of shift"),
        ({"probabilities": (1.0,)}, "1 probabilities for 6 kinds"),
        ({"strength": 0.0}, "strength=0.0"),
    ],
)
def test_settings_that_cannot_be(settings, says):
    with pytest.raises(InputError, match=says):
        PerturbationConfig(**settings)


def test_a_video_full_of_events_leaves_no_room():
    full = annotation("<evi></evi> It is in <evi>.", [(0, 2)], duration=2.0)
    assert preference.reject(full, PerturbationConfig(kinds=("shift", "add")), seed=1) is None
