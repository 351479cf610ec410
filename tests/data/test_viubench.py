import collections
import dataclasses
import json

import numpy as np
import pytest

from tgvlm_jax.data import viubench
from tgvlm_jax.data.pretext_plans import sample_frames
from tgvlm_jax.data.shards import FrameShards, open_shards
from tgvlm_jax.evaluation.viubench import COLUMNS
from tgvlm_jax.rewards import videossr
from tgvlm_jax.schema import DataConfig
from tgvlm_jax.types import InputError

SIZE = (16, 24)


@pytest.fixture
def made(film):
    return viubench.make(film, each=2, seed=5)


@pytest.fixture
def written(made, tmp_path):
    made.save(tmp_path / "questions.json")
    return tmp_path / "questions.json"


def rewrite(path, change):
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def test_nine_subsets_of_the_same_size_in_order(made):
    assert [one.subset for one in made.recipes] == [name for name in COLUMNS for _ in range(2)]
    assert list(viubench.VARIANTS) == list(COLUMNS)
    assert len({one.id for one in made.recipes}) == 18
    videos = collections.Counter(one.video for one in made.recipes)
    assert videos == {"one": 9, "two": 9}  # the third has one frame


def test_what_is_read_back_is_what_was_made_bit_for_bit(made, written, film_folder):
    found = viubench.load(written, open_shards(film_folder))
    assert found.recipes == made.recipes
    for number in range(0, 18, 3):
        one, other = (each.sample(number, size=SIZE) for each in (made, found))
        assert one.frames.shape == (48, *SIZE, 3)
        assert one.frames.tobytes() == other.frames.tobytes()
        assert (one.question, one.answer) == (other.question, other.answer)
        np.testing.assert_array_equal(one.seconds, other.seconds)
    text = written.read_text()
    found.save(written)
    assert written.read_text() == text


def test_answers_do_not_depend_on_the_size_of_frames(made):
    for number in range(18):
        whole = made.sample(number, size=SIZE)
        light = made.sample(number, pixels=False)
        assert (whole.question, whole.answer, whole.clips) == (
            light.question, light.answer, light.clips,
        )  # fmt: skip
        task = whole.kind.partition("/")[0]
        assert videossr.TASKS[task](whole.answer, whole.answer)["strict"] == 1
    assert made.sample(0).frames.shape == (48, 30, 60, 3)


def test_frames_are_those_of_the_released_sampler(made, film):
    for recipe in made.recipes:
        chosen = sample_frames(len(film.seconds(recipe.video)))
        np.testing.assert_array_equal(chosen, recipe.first + recipe.step * np.arange(48))


def test_the_same_seed_gives_the_same_file_and_another_another(film, made):
    assert viubench.make(film, each=2, seed=5).to_json() == made.to_json()
    other = viubench.make(film, each=2, seed=6).to_json()["questions"]
    answers = [[row["answer"] for row in rows] for rows in (made.to_json()["questions"], other)]
    assert answers[0] != answers[1]


def test_held_out_clips_of_an_experiment(film):
    config = DataConfig(fps=12.5, strides=(2, 1), eval_span=(0.5, 1.0))
    made = viubench.make(film, each=3, frames=24, clips=config)
    starts = set()
    for number, recipe in enumerate(made.recipes):
        times = film.seconds(recipe.video)[recipe.first :: recipe.step][:24]
        assert recipe.step == 2
        assert 5.0 <= times[0] < times[-1] < 10.0
        starts.add((recipe.video, recipe.first))
        assert len(made.sample(number, pixels=False).seconds) == 24
    assert len(starts) > 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 40}, "40 frames do not divide into 6 and into 8 clips: give 24, 48"),
        ({"frames": 120}, "no video has 120 frames in its middle 90 %"),
        ({"each": 0}, "0 questions a subset"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_what_cannot_be_made(film, settings, message):
    with pytest.raises(InputError, match=message):
        viubench.make(film, **settings)


def test_other_shards_are_refused(written, film):
    (shard,) = film.manifest.shards
    changed = dataclasses.replace(shard, sha256="0" * 64)
    other = FrameShards(film.directory, dataclasses.replace(film.manifest, shards=(changed,)))
    with pytest.raises(InputError, match="was made from other frame shards than ") as caught:
        viubench.load(written, other)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(version=9), "is no VIUBench of version 1"),
        (lambda raw: raw["questions"][3].pop("seed"), "cannot be understood"),
        (lambda raw: raw["questions"][3].update(subset="odd"), "cannot be understood"),
        (lambda raw: raw["questions"][3].update(first=120), "is not what its recipe makes|underst"),
        (lambda raw: raw["questions"][3].update(seed=1), "counting_hard/1 is not what its recipe"),
        (lambda raw: raw["questions"][3].update(answer="9,9,9"), "is not what its recipe makes"),
    ],
)
def test_a_changed_file_is_refused(written, film, change, message):
    rewrite(written, change)
    with pytest.raises(InputError, match=message) as caught:
        viubench.load(written, film)
    assert "\n" not in str(caught.value)


def test_no_file_and_no_json_are_one_line(film, tmp_path):
    (tmp_path / "bad.json").write_text("[")
    for name in ("none.json", "bad.json"):
        with pytest.raises(InputError, match=name) as caught:
            viubench.load(tmp_path / name, film)
        assert "\n" not in str(caught.value)
