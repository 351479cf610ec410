"""Samples from annotated videos: every record once a pass, and none ends a run."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from tgvlm_jax.data.annotated import AnnotatedVideos, Skipped
from tgvlm_jax.data.augment import fit
from tgvlm_jax.data.chat import load_chat
from tgvlm_jax.data.pipeline import BatchMaker
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.schema import DataConfig
from tgvlm_jax.types import InputError

SIZE = (12, 18)
CONFIG = DataConfig(
    fps=2.5,
    batch_size=3,
    frames=(4, 26),
    prompt_bucket=32,
    response_bucket=8,
    max_events=2,
    min_seconds=0.01,
)


def record(number, *, video="one.mp4", duration=10.0, tgt=(1, 4.5), question="", **more):
    found = {
        "task": "tvg",
        "source": "made",
        "video": video,
        "duration": duration,
        "tgt": list(tgt),
        "conversations": [
            {"from": "human", "value": question or f"<image>\nWhen does number {number} pass?"},
            {"from": "gpt", "value": "<evi></evi> It happens in <evi>."},
        ],
    }
    return found | more


@pytest.fixture
def source(film, tmp_path):
    """Makes a source over records, `film` or any other shards, and any change of the config."""

    def make(records, *, shards=film, split="train", seed=0, **change):
        path = tmp_path / f"{split}.json"
        path.write_text(json.dumps(records))
        key = "annotations" if split == "train" else "eval_annotations"
        config = dataclasses.replace(CONFIG, **{key: str(path)} | change)
        return AnnotatedVideos(shards, config, size=SIZE, split=split, seed=seed)

    return make


RECORDS = [record(n, video=("one.mp4", "two", "two.avi")[n % 3]) for n in range(10)]


def test_a_sample_is_its_record(source, film):
    made = source(RECORDS, split="eval")
    assert len(made) == 10
    one = made.sample(1, frames=26)
    assert (one.question, one.kind, one.video) == ("When does number 1 pass?", "tvg", "two")
    assert one.spans.tolist() == [[1, 4.5]]
    seconds = film.seconds("two")
    np.testing.assert_array_equal(one.seconds, seconds[::5])  # 2.5 of 12.5 a second
    assert one.duration == film.video("two").duration
    stored = film.frames("two", 0, len(seconds), step=5)
    np.testing.assert_array_equal(one.frames, fit(stored, SIZE, config=CONFIG))
    few = made.sample(1, frames=4)
    assert few.frames.shape == (4, *SIZE, 3)
    np.testing.assert_array_equal(few.frames[[0, -1]], one.frames[[0, -1]])
    bare = made.sample(1, frames=26, pixels=False)
    assert bare.frames.shape == (len(one.frames), 0, 0, 3)


def test_every_record_once_a_pass_in_another_order(source):
    made, again = source(RECORDS), source(RECORDS)
    passes = []
    for turn in range(2):
        steps = range(3 * turn, 3 * turn + 3)
        numbers = [number for step in steps for number in made.numbers(step)]
        assert len({n % 10 for n in numbers}) == 9  # one is left over, another one each pass
        assert all(n // 10 == turn for n in numbers)
        passes.append([n % 10 for n in numbers])
    assert passes[0] != passes[1]
    assert again.numbers(5) == made.numbers(5)  # without the batches before it
    assert source(RECORDS, seed=1).numbers(5) != made.numbers(5)


def test_batches_are_of_one_bucket(source):
    """A lone frame and a whole film are in one batch only where a bucket is filled up."""
    short = [record(n, video="dot.mp4", duration=1, tgt=(0, 0)) for n in range(7)]
    made = source([*RECORDS, *short])
    buckets = [made.bucket(step) for step in range(5)]
    assert sorted(buckets) == [4, 4, 26, 26, 26]
    for step, bucket in enumerate(buckets):
        counts = [
            len(made.sample(n, frames=bucket, pixels=False).frames) for n in made.numbers(step)
        ]
        assert max(counts) <= bucket
        assert bucket == 26 or max(counts) == 1
    alone = source(RECORDS, frames=(4,))
    assert {alone.bucket(step) for step in range(3)} == {4}


def test_where_the_video_stands(source):
    bare = [record(n, question="When?") for n in range(40)]
    made = source(bare)
    first = [made.sample(n, frames=4, pixels=False).video_first for n in range(80)]
    assert 20 < sum(first) < 60
    assert first[:40] != first[40:]
    assert source(bare, split="eval").sample(3, frames=4).video_first
    pointing = record(0, question="After <evi>?", src=[1, 2])
    assert source([pointing] * 3, max_sources=1).sample(0, frames=4).video_first
    last = source([record(0, question="When?\n<image>")] * 3)
    assert not last.sample(0, frames=4).video_first


BAD = {
    "not in": record(1, video="three.mp4"),
    "could not be sharded": record(2, video="broken.mp4"),
    "2 intervals, but data.max_events=1": record(
        3,
        tgt=(1, 2, 3, 4),
        conversations=[
            {"from": "human", "value": "When?"},
            {"from": "gpt", "value": "<evi><evi></evi> In <evi> and <evi>."},
        ],
    ),
    "1 intervals, but data.max_sources=0": record(4, question="After <evi>?", src=[1, 2]),
    "an interval starts at 40 s, the video has": record(5, duration=60, tgt=(40, 50)),
    "ends before it starts": record(6, tgt=(5, 2)),
}


def test_what_cannot_be_used_is_listed(source, film, tmp_path, monkeypatch):
    manifest = dataclasses.replace(
        film.manifest, skipped=(_skipped("broken", "cut off after 3 s"),)
    )
    monkeypatch.setattr(film, "manifest", manifest)
    made = source([*RECORDS, *BAD.values()], max_events=1, shards=film)
    assert len(made) == len(RECORDS)
    assert len(made.skipped) == len(BAD)
    path = tmp_path / "skipped.jsonl"
    made.skipped.write(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    reasons = {line["where"]: line["reason"] for line in lines}
    for number, cause in enumerate(BAD):
        assert cause in reasons[f"train.json, record {10 + number}"]
    assert "10 records about 3 videos; 6 left out, see skipped.jsonl" in made.told()
    later = Skipped()  # what runs on and finds more
    later.add("x", "y")
    later.write(path)
    assert len(path.read_text().splitlines()) == len(BAD) + 1
    later.write(path)
    assert len(path.read_text().splitlines()) == len(BAD) + 1


def _skipped(name, reason):
    from tgvlm_jax.data.manifest import Skipped as Unread

    return Unread(id=name, source=f"{name}.mp4", reason=reason)


def test_a_file_that_breaks_later_costs_its_samples_only(source, film_folder, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(film_folder, folder)
    made = source(RECORDS, shards=open_shards(folder))
    maker = BatchMaker(source=made, chat=load_chat("tiny", "phi3"), config=made.config, seed=0)
    good = maker(0)
    assert good.response.mask.any(axis=1).all()
    for path in folder.glob("*.arrayrecord"):
        path.unlink()
        path.touch()
    made.shards._readers.clear()
    bad = maker(0)
    assert not bad.response.mask.any()
    assert not bad.prompt.visual.pixels.any()
    np.testing.assert_array_equal(bad.prompt.tokens, good.prompt.tokens)
    assert len(made.skipped) == 3
    assert "frames-00000.arrayrecord" in made.skipped.first()


def test_filters_count_what_they_leave_out(source):
    """By the length that a record says, and by that of the file."""
    short = [record(10, video="dot.mp4", tgt=(0, 0)), record(11, duration=3.0, tgt=(1, 2))]
    made = source([*RECORDS, *short], min_seconds=5.0)
    assert len(made) == len(RECORDS)
    assert made.filtered == {"video not of 5 to 350 seconds": 2}
    assert not made.skipped
    assert len(source([*RECORDS, *short], split="eval", min_seconds=5.0)) == 12


@pytest.mark.parametrize(
    ("records", "change", "says"),
    [
        (RECORDS[:2], {}, r"2 records can be used, 3 are needed"),
        ([record(1, video="three.mp4")] * 3, {}, r"0 records .* 'three\.mp4' is not in"),
        (RECORDS, {"min_seconds": 60.0}, r"left out: .*video not of 60 to 350 seconds"),
        (RECORDS, {"fps": 2.0}, r"12\.5 frames a second, of which data\.fps=2 cannot"),
        (RECORDS, {"annotations": "none.json"}, r"data\.annotations='none\.json': no such file"),
        (RECORDS, {"seed": -1}, r"seed=-1"),
    ],
)
def test_what_cannot_be_trained_on(source, records, change, says):
    with pytest.raises(InputError, match=says):
        source(records, **change)


def test_the_middle_of_a_frame():
    """What lies beside the middle is cut off, and things keep their shape."""
    wide = np.zeros((1, 8, 24, 3), np.uint8)
    wide[:, :, 8:16] = 200
    centre = dataclasses.replace(CONFIG, fit="centre")
    assert np.all(fit(wide, (8, 8), config=centre) == 200)
    tall = wide.swapaxes(1, 2)
    assert np.all(fit(tall, (4, 4), config=centre)[:, 1:3, 1:3] == 200)
    assert fit(wide, (8, 8), config=CONFIG).mean() < 100
