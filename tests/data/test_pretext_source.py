import dataclasses
import pickle
import random

import numpy as np
import pytest

from tgvlm_jax.data.annotated import AnnotatedVideos
from tgvlm_jax.data.augment import resize
from tgvlm_jax.data.pretext import AnomalyGrounding
from tgvlm_jax.data.pretext_plans import COUNTING, PAPER_KINDS, RELEASED_KINDS, AnomalyLevel
from tgvlm_jax.data.pretext_source import PretextTasks, anomaly_level, ask, counting_level
from tgvlm_jax.data.sources import open_source
from tgvlm_jax.data.windows import Window
from tgvlm_jax.rewards import videossr
from tgvlm_jax.schema import ANOMALY_KINDS, PRETEXT_KINDS, PRETEXT_TASKS, DataConfig
from tgvlm_jax.types import InputError

SIZE = (24, 36)
CONFIG = DataConfig(
    fps=12.5,
    frames=(12, 24),
    strides=(1, 2),
    tasks=PRETEXT_TASKS,
    train_span=(0.0, 0.6),
    eval_span=(0.6, 1.0),
)
# Nothing is changed about a clip as a whole, but that it may be mirrored.
PLAIN = dataclasses.replace(CONFIG, crop=1.0, jitter=0.0)


def source(film, *, split="train", seed=3, config=CONFIG):
    return PretextTasks(film, config, size=SIZE, split=split, seed=seed)


def only(task, config=PLAIN, **changes):
    return dataclasses.replace(config, tasks=(task,), **changes)


def assert_same(one, other):
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(
            getattr(one, field.name), getattr(other, field.name), err_msg=field.name
        )


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_sample_follows_from_seed_and_index_alone(film, split):
    made = source(film, split=split)
    first = [made.sample(index, frames=12) for index in range(12)]
    copy = pickle.loads(pickle.dumps(source(film, split=split)))
    for index in reversed(range(12)):
        assert_same(copy.sample(index, frames=12), first[index])
    other = source(film, split=split, seed=4)
    assert any(
        other.sample(index, frames=12).frames.tobytes() != first[index].frames.tobytes()
        for index in range(12)
    )


def test_without_pixels_all_else_is_the_same(film):
    made = source(film)
    for index in range(24):
        full = made.sample(index, frames=24)
        light = made.sample(index, frames=24, pixels=False)
        assert light.frames.shape == (24, 0, 0, 3)
        assert full.frames.shape == (24, *SIZE, 3)
        assert full.frames.dtype == np.uint8
        assert_same(dataclasses.replace(full, frames=light.frames), light)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_every_answer_is_the_right_one_in_the_form_that_its_reward_reads(film, split):
    made = source(film, split=split)
    for index in range(60):
        sample = made.sample(index, frames=12, pixels=False)
        task = sample.kind.partition("/")[0]
        assert videossr.TASKS[task](sample.answer, sample.answer) == {
            "smooth": pytest.approx(1.0), "strict": 1.0, "readable": 1.0,
        }  # fmt: skip
        assert "<evi>" not in sample.question + sample.answer
        assert sample.spans.shape == (0, 2)
        assert sample.seconds[0] == 0
        assert sample.seconds[-1] < sample.duration < 10


def test_evaluation_takes_tasks_and_their_variants_in_turn(film):
    config = dataclasses.replace(CONFIG, jigsaw_clips=(2, 3), kinds=("mirror", "noise", "blur"))
    made = source(film, split="eval", config=config)
    kinds = [made.sample(index, frames=12, pixels=False).kind for index in range(9)]
    assert kinds == [
        "grounding/mirror", "counting/easy", "jigsaw/2",
        "grounding/noise", "counting/easy", "jigsaw/3",
        "grounding/blur", "counting/easy", "jigsaw/2",
    ]  # fmt: skip


def test_training_draws_every_task_alike_often(film):
    config = dataclasses.replace(CONFIG, kinds=ANOMALY_KINDS[:3], jigsaw_clips=(2, 4))
    made = source(film, config=config)
    kinds = [made.sample(index, frames=12, pixels=False).kind for index in range(600)]
    assert set(kinds) == {
        *(f"grounding/{kind}" for kind in ANOMALY_KINDS[:3]),
        "counting/easy", "jigsaw/2", "jigsaw/4",
    }  # fmt: skip
    for task in PRETEXT_TASKS:
        # 200 expected, standard deviation 11.5
        assert abs(sum(kind.startswith(task) for kind in kinds) - 200) < 58


@pytest.mark.parametrize("kind", [*ANOMALY_KINDS, "rotate90", "rotate270"])
def test_exactly_the_frames_of_the_answer_are_changed(film, kind):
    made = source(film, split="eval", config=only("grounding", kinds=(kind,)))
    for index in range(3):
        sample = made.sample(index, frames=24)
        unmarked = resize(stored(made, index, 24), SIZE)
        differs = np.any(sample.frames != unmarked, axis=(1, 2, 3))
        start, end = videossr.read_interval(sample.answer)
        bounds = np.round([*sample.seconds, sample.duration], 1)
        first, behind = (int(np.argmin(np.abs(bounds - time))) for time in (start, end))
        assert differs.any()
        assert not differs[:first].any()
        # Two frames may have the same time in tenths of a second.
        assert not differs[behind + 1 :].any()
        if kind not in ("shuffle", "stutter"):
            assert differs[first + 1 : behind - 1].all()
        assert 4 / 24 - 0.02 <= (end - start) / sample.duration <= 8 / 24 + 0.06


def stored(made, index, frames):
    """The frames that a sample is made of."""
    rng = np.random.default_rng([made.seed, int(made.training), index])
    made._draw(index, rng)
    window = made.windows.draw(frames, rng)
    return made.windows.stored(window.video, window.numbers)


@pytest.mark.parametrize(("kind", "speed"), [("slow", 0.5), ("fast", 2.0)])
def test_a_stretch_at_another_speed_has_other_frames_at_even_times(kind, speed):
    window = Window(video="one", numbers=range(3, 195, 8), seconds=np.arange(24) / 3, end=8.0)
    for seed in range(8):
        asked = []

        def read(numbers):
            asked.extend(numbers)  # noqa: B023
            return np.zeros((24, 4, 4, 3), np.uint8)

        sample = ask(window, "grounding", kind, plans=random.Random(seed), noise=0, read=read)
        first, behind = (round(3 * time) for time in videossr.read_interval(sample.answer))
        assert 4 <= behind - first <= 8
        steps = np.diff(asked)
        inside = np.zeros(23, bool)
        inside[first:behind] = True
        assert steps[inside].mean() / steps[~inside].mean() == pytest.approx(speed, rel=0.1)
        assert (asked[0], len(asked)) == (3, 24)
        assert 170 < asked[-1] <= 187
        np.testing.assert_array_equal(sample.seconds, window.seconds)


def test_the_papers_kinds_can_all_be_asked_for():
    assert {*PAPER_KINDS} <= {*PRETEXT_KINDS}
    assert {*RELEASED_KINDS} - {*PRETEXT_KINDS} == {"swap"}
    only("grounding", kinds=PRETEXT_KINDS)
    with pytest.raises(InputError, match="kinds: 'slow' is not one of grayscale"):
        DataConfig(kinds=("slow",))


def test_jigsaw_clips_are_the_answers_permutation_of_the_film(film):
    made = source(film, split="eval", config=only("jigsaw", jigsaw_clips=(4,)))
    for index in range(6):
        sample = made.sample(index, frames=12)
        whole = resize(stored(made, index, 12), SIZE)
        assert sample.clips == (3, 3, 3, 3)
        shown = sample.frames.reshape(4, 3, *SIZE, 3)
        right = np.concatenate([shown[int(digit) - 1] for digit in sample.answer])
        np.testing.assert_array_equal(right, whole)
        # Times run on and tell nothing about the order.
        other = made.sample(index + 6, frames=12)
        np.testing.assert_allclose(sample.seconds, np.arange(12) * 0.08, atol=1e-6)
        np.testing.assert_allclose(sample.seconds, other.seconds, atol=1e-6)


def test_shapes_are_drawn_on_few_frames_and_only_there(film):
    for level in ("easy", "hard"):
        made = source(film, split="eval", config=only("counting", counting=level))
        for index in range(4):
            sample = made.sample(index, frames=24)
            assert sample.kind == f"counting/{level}"
            whole = resize(stored(made, index, 24), SIZE)
            marked = np.any(sample.frames != whole, axis=(1, 2, 3)).sum()
            counts = videossr.read_counts(sample.answer, kinds=3)
            most = COUNTING[level].appearances
            assert 3 <= marked <= 3 * most
            assert all(1 <= count <= most * COUNTING[level].instances for count in counts)
            assert marked <= sum(counts)


def test_levels_of_48_frames_are_those_of_the_paper():
    assert anomaly_level(48) == AnomalyLevel()
    assert counting_level("easy", 48) == COUNTING["easy"]
    assert counting_level("hard", 48) == COUNTING["hard"]
    assert anomaly_level(6) == AnomalyLevel(frames=6, shortest=2, longest=2)


@pytest.mark.parametrize("kind", ["shuffle", "stutter"])
def test_a_moved_stretch_does_move(film, kind):
    """Of two frames every second released shuffle is none."""
    config = only("grounding", kinds=(kind,), frames=(6,))
    made = source(film, config=config)
    for index in range(20):
        moved = made.sample(index, frames=6)
        assert len({frame.tobytes() for frame in moved.frames}) == (5 if kind == "stutter" else 6)


def test_the_look_is_that_of_the_whole_clip(film):
    """Frames outside the stretch are those of the same clip with another anomaly."""
    made = [source(film, config=only("grounding", CONFIG, kinds=(k,))) for k in ("invert", "blur")]
    for index in range(5):
        one, other = (each.sample(index, frames=24) for each in made)
        assert one.answer == other.answer
        same = np.all(one.frames == other.frames, axis=(1, 2, 3))
        assert 24 - 8 <= same.sum() <= 24 - 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": (12, 20)}, r"data\.jigsaw_clips=\(6,\): 20 frames do not divide into 6 clips"),
        ({"frames": (6, 12)}, r"data\.frames=\(6, 12\): data\.tasks want 7 frames at least"),
        ({"frames": (96,)}, "no video has room for a training clip of 96 frames"),
        ({"tasks": ()}, "name at least one pretext task"),
    ],
)
def test_what_cannot_be_asked_for(film, change, message):
    with pytest.raises(InputError, match=message) as caught:
        source(film, config=dataclasses.replace(CONFIG, **change))
    assert "\n" not in str(caught.value)


def test_jigsaws_have_a_digit_for_each_clip():
    for clips in ((1,), (10,), ()):
        with pytest.raises(InputError, match="jigsaw_clips"):
            dataclasses.replace(CONFIG, jigsaw_clips=clips)


def test_the_config_says_which_source_it_is(film_folder, tmp_path):
    config = dataclasses.replace(CONFIG, shards=str(film_folder))
    opened = open_source(config, "train", size=SIZE, seed=0)
    assert isinstance(opened, PretextTasks)
    plain = dataclasses.replace(config, tasks=())
    assert isinstance(open_source(plain, "eval", size=SIZE, seed=0), AnomalyGrounding)
    named = dataclasses.replace(config, annotations=str(tmp_path / "none.json"))
    with pytest.raises(InputError, match=r"data\.annotations=.*no such file"):
        open_source(named, "train", size=SIZE, seed=0)
    assert not isinstance(open_source(named, "eval", size=SIZE, seed=0), AnnotatedVideos)
