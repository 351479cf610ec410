"""A small trained model answers; what is read from it has the right shapes, clocks and scores."""

import dataclasses

import numpy as np
import pytest

from tests.cli import small_config
from tests.data.bad_videos import BIKES
from tgvlm_jax.config import freeze
from tgvlm_jax.data.chat import load_chat
from tgvlm_jax.data.pretext import AnomalyGrounding
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.evaluation import runner
from tgvlm_jax.rollout.sampler import Generation, Grounding
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import loop
from tgvlm_jax.types import Sample

CHAT = load_chat("tiny", "phi3")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    shards = tmp_path_factory.mktemp("shards")
    write_shards([BIKES], shards, fps=8.0, height=16, width=16, progress=False)
    config = small_config.get_config()
    config.data.shards = str(shards)
    return freeze(config, Experiment)


@pytest.fixture(scope="module")
def params(experiment, tmp_path_factory):
    return loop.train(experiment, tmp_path_factory.mktemp("run")).params


def changed(experiment, **groups):
    """The experiment with some keys of some groups changed."""
    new = {
        name: dataclasses.replace(getattr(experiment, name), **keys)
        for name, keys in groups.items()
    }
    return dataclasses.replace(experiment, **new)


def clip(count, *, start=3.0, kind="invert"):
    """`count` frames, unevenly spaced, on the clock of a long film."""
    rng = np.random.default_rng(count)
    seconds = start + np.cumsum(rng.uniform(0.05, 0.4, count))
    return Sample(
        frames=rng.integers(0, 256, (count, 16, 16, 3), np.uint8),
        seconds=seconds,
        duration=float(seconds[-1] + 0.2),
        question="When are the colours inverted?",
        answer="",
        spans=np.array([[seconds[0], seconds[-1] + 0.2]]),
        video="clip",
        kind=kind,
    )


def answer(params, samples, experiment):
    return runner.answer(params, samples, experiment=experiment, chat=CHAT)


# ------------------------------------------------------------------------------- a real model


def test_answers_have_their_shapes_and_the_films_clock(params, experiment):
    samples = [clip(8), clip(5), clip(7), clip(8, start=100.0), clip(6)]  # not a whole batch more
    found = answer(params, samples, experiment)
    assert [one.sample for one in found] == samples
    assert any(len(one.spans) for one in found)
    for one in found:
        sample, count = one.sample, len(one.spans)
        bounds = [*sample.seconds, sample.duration]
        assert one.spans.shape == (count, 2)
        assert one.probabilities.shape == (count, len(sample.frames))
        assert np.all((one.probabilities >= 0) & (one.probabilities <= 1))
        assert set(one.spans.ravel()) <= set(bounds)
        assert np.all(one.spans[:, 0] < one.spans[:, 1])
        assert one.raw.count("<evi>") == len(one.mentions) >= count
        assert "<evi>" not in one.text
        if count == 1:  # the truth is the whole clip
            length = (one.spans[0, 1] - one.spans[0, 0]) / (bounds[-1] - bounds[0])
            assert one.iou == pytest.approx(length)


def test_a_ragged_batch_answers_as_single_clips_do(params, experiment):
    samples = [clip(8), clip(3), clip(5), clip(4)]
    buckets = changed(experiment, data={"frames": (4, 8)})
    alone = changed(buckets, evaluation={"batch_size": 1})
    together = answer(params, samples, buckets)
    single = [answer(params, [sample], alone)[0] for sample in samples]
    assert any(len(one.spans) for one in single)
    for a, b in zip(together, single, strict=True):
        assert a.raw == b.raw
        np.testing.assert_array_equal(a.spans, b.spans)
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-5)


def test_place_in_the_batch_changes_nothing(params, experiment):
    samples = [clip(8), clip(7), clip(6)]
    forward = answer(params, samples, experiment)
    backward = answer(params, samples[::-1], experiment)[::-1]
    assert [one.raw for one in forward] == [one.raw for one in backward]
    for a, b in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(a.spans, b.spans)


def test_the_model_never_sees_the_answer(params, experiment):
    """Truths that are given along change what is scored, and nothing that is said."""
    sample = runner.held_out_samples(experiment)[0]
    blank = dataclasses.replace(sample, answer="", spans=np.zeros((0, 2)))
    told, untold = answer(params, [sample, blank], experiment)
    assert told.raw == untold.raw
    np.testing.assert_array_equal(told.spans, untold.spans)
    assert untold.iou is None
    assert told.iou is not None


def test_evaluate_adds_up(params, experiment):
    found = runner.evaluate(params, experiment=experiment, chat=CHAT)
    assert len(found.answered) == found.scores.count == 6
    assert found.scores.mean_iou == pytest.approx(found.ious.mean())
    assert {kind: scores.count for kind, scores in found.kinds.items()} == {
        "invert": 3, "grayscale": 3
    }  # fmt: skip
    for kind, scores in found.kinds.items():
        mine = [one.iou for one in found.answered if one.sample.kind == kind]
        assert scores.mean_iou == pytest.approx(np.mean(mine))
    whole = [
        (one.sample.spans[0, 1] - one.sample.spans[0, 0])
        / (one.sample.duration - one.sample.seconds[0])
        for one in found.answered
    ]
    assert found.blind["whole clip"].mean_iou == pytest.approx(np.mean(whole))
    assert found.best_blind == max(scores.mean_iou for scores in found.blind.values())
    json = found.to_json()
    assert json["held_out"]["mean_iou"] == found.scores.mean_iou
    assert json["kinds"]["invert"]["count"] == 3


# ------------------------------------------------------------- what is read from a generation


@pytest.fixture
def says(monkeypatch, experiment):
    """Lets the sampler return given tokens, with a given frame range at each of them."""

    def read(sample, text, ranges):
        tokens = CHAT.tokenizer.encode(text, add_special_tokens=False).ids
        size, most = experiment.evaluation.batch_size, 16
        grounding = Grounding(
            spans=np.zeros((size, most, 2), np.int32),
            probabilities=np.full((size, most, 8), 0.5, np.float32),
        )
        tokens_of = np.full((size, most), CHAT.pad_id, np.int32)
        mask = np.ones(tokens_of.shape, bool)
        made = Generation(tokens=tokens_of, mask=mask, grounding=grounding)
        made.tokens[:, : len(tokens)] = tokens
        places = [i for i, token in enumerate(tokens) if token == CHAT.evidence_id]
        for number, (place, frames) in enumerate(zip(places, ranges, strict=True)):
            grounding.spans[:, place] = frames
            grounding.probabilities[:, place] = number / 10
        monkeypatch.setattr(runner, "generate", lambda *_, **__: made)
        return answer({}, [sample], experiment)[0]

    return read


def test_spoken_intervals_win_over_grounding_ones(says):
    sample = clip(8)
    text = "<evi></evi> From <evi> the colours are inverted.<|end|>"
    found = says(sample, text, [(0, 7), (2, 3)])
    spoken = [sample.seconds[2], sample.seconds[4]]
    np.testing.assert_array_equal(found.spans, [spoken])
    np.testing.assert_array_equal(found.mentions, [[sample.seconds[0], sample.duration], spoken])
    np.testing.assert_allclose(found.probabilities, np.full((1, 8), 0.1), rtol=1e-6)
    share = (spoken[1] - spoken[0]) / (sample.duration - sample.seconds[0])
    assert found.iou == pytest.approx(share)
    times = f"From {spoken[0]:.1f} s to {spoken[1]:.1f} s the colours are inverted."
    assert found.text == times


def test_two_events_are_two_intervals(says):
    sample = clip(8)
    text = "<evi><evi></evi> First <evi>, then <evi>.<|end|>"
    found = says(sample, text, [(0, 0), (1, 1), (2, 3), (6, 7)])
    bounds = [*sample.seconds, sample.duration]
    np.testing.assert_array_equal(found.spans, [[bounds[2], bounds[4]], [bounds[6], bounds[8]]])
    assert found.probabilities.shape == (2, 8)
    assert found.text.count(" s to ") == 2


@pytest.mark.parametrize("text", ["<evi></evi> Somewhere.<|end|>", "<evi> it is.<|end|>", "<evi>"])
def test_without_a_spoken_interval_the_grounding_one_counts(says, text):
    sample = clip(8)
    found = says(sample, text, [(4, 4)])
    np.testing.assert_array_equal(found.spans, [[sample.seconds[4], sample.seconds[5]]])


@pytest.mark.parametrize("text", ["<|end|>", "Never.<|end|>", "</evi> Never.<|end|>"])
def test_no_interval_scores_nothing(says, text):
    found = says(clip(8), text, [])
    assert found.spans.shape == (0, 2)
    assert found.probabilities.shape == (0, 8)
    assert found.iou == 0.0
    assert found.text == text.replace("<|end|>", "").replace("</evi>", "").strip()


def test_what_follows_the_end_is_not_read(says):
    found = says(clip(8), "</evi> Never.<|end|> From <evi>.", [(1, 2)])
    assert found.iou == 0.0
    assert found.text == "Never."


# --------------------------------------------------------------------------------- held out


def test_held_out_clips_lie_outside_the_training_part(experiment):
    shards = open_shards(experiment.data.shards)
    border = 10.0 * 2 / 3
    held_out = runner.held_out_samples(changed(experiment, evaluation={"samples": 60}))
    assert min(sample.seconds[0] for sample in held_out) >= border
    source = AnomalyGrounding(shards, experiment.data, size=(16, 16), split="train", seed=0)
    trained = [source.sample(index, frames=8, pixels=False) for index in range(300)]
    assert max(sample.seconds[-1] for sample in trained) < border
    assert max(sample.seconds[-1] for sample in trained) > border - 1  # it comes close


def test_held_out_clips_do_not_depend_on_the_training_seed(experiment):
    one = runner.held_out_samples(experiment)
    other = runner.held_out_samples(dataclasses.replace(experiment, seed=7))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.spans, b.spans)
        assert (a.question, a.kind) == (b.question, b.kind)


def test_held_out_clips_in_another_size_are_the_same_clips(experiment):
    small = runner.held_out_samples(experiment)
    large = runner.held_out_samples(experiment, size=(30, 40))
    for a, b in zip(small, large, strict=True):
        assert b.frames.shape == (8, 30, 40, 3)
        np.testing.assert_array_equal(a.seconds, b.seconds)
        np.testing.assert_array_equal(a.spans, b.spans)
