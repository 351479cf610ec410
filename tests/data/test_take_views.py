"""Takes of a real film as samples: windows, views that are missing, kept features, protocols."""

import dataclasses
import json

import numpy as np
import pytest

from tgvlm_jax.cli.demo_run import FILM
from tgvlm_jax.data import view_features
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.data.collate import collate
from tgvlm_jax.data.made_takes import FPS, LEVELS, VIEWS, Part, make_takes
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.data.take_views import TakeViews, frame_numbers, window_starts
from tgvlm_jax.schema import DataConfig, TakesConfig
from tgvlm_jax.types import InputError, ViewFeatures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four takes to train on and two to ask about; the shards lack one view of train0001."""
    base = tmp_path_factory.mktemp("takes") / "made"
    parts = {"train": Part(start=20, end=26, takes=4), "val": Part(start=30, end=35, takes=2)}
    make_takes(FILM, base, **parts)
    files = {
        p.relative_to(base / "videos").with_suffix("").as_posix(): p for p in base.rglob("*.mp4")
    }
    del files["train0001/exo1"]
    write_shards(files, base / "shards", fps=FPS, height=32, width=32, progress=False)
    return base


def config(folder, *, batch_size=2, **change):
    made = TakesConfig(
        views=VIEWS,
        levels=LEVELS,
        commentary=str(folder / "commentary_train.json"),
        eval_commentary=str(folder / "commentary_val.json"),
        window=1.0,
        windows=3,
    )
    return DataConfig(
        shards=str(folder / "shards"),
        annotations=str(folder / "proficiency_train.json"),
        eval_annotations=str(folder / "proficiency_val.json"),
        takes=dataclasses.replace(made, **change),
        frames=(8,),
        template="smollm2",
        batch_size=batch_size,
    )


def source(folder, split="train", **change):
    chosen = config(folder, **change)
    return TakeViews(open_shards(chosen.shards), chosen, size=(16, 16), split=split, seed=3)


def test_frames_of_a_window_are_those_on_screen():
    seconds = np.arange(30) / 10
    np.testing.assert_array_equal(
        frame_numbers(seconds, 0.45, 0.7, frames=8), [4, 5, 6, 7, 8, 9, 10, 11]
    )
    # The reference rule of 32 frames: linspace(start, end, 8), clipped to the last frame inside.
    numbers = frame_numbers(np.arange(64) / 30, 10 / 30 + 1e-9, 32 / 30, frames=8)
    np.testing.assert_array_equal(numbers, np.minimum(np.linspace(10, 42, 8).astype(int), 41))
    np.testing.assert_array_equal(frame_numbers(np.zeros(1), 0.0, 0.5, frames=3), [0, 0, 0])


def test_kept_windows():
    np.testing.assert_allclose(window_starts(4.0, 1.0, 3), [1.5, 0.0, 1.5, 3.0])
    np.testing.assert_allclose(window_starts(0.5, 1.0, 2), [0.0, 0.0, 0.0])


def test_samples(folder):
    made = source(folder)
    one = made.sample(1, frames=8)
    np.testing.assert_array_equal(one.views.mask, [True, False, True])
    assert one.views.clips.shape == (3, 8, 16, 16, 3)
    assert not one.views.clips[1].any()
    assert one.views.clips[0].std() > 5
    assert one.answer.startswith("Proficiency: invert\nAnalysis: One of the views is a negative.")
    assert (one.video, one.kind[:8]) == ("train0001", "shown by")
    again, other = made.sample(1, frames=8), made.sample(1 + len(made), frames=8)
    np.testing.assert_array_equal(again.views.clips, one.views.clips)
    assert other.seconds[0] != one.seconds[0]  # the next pass draws another window
    blank = made.sample(1, frames=8, pixels=False)
    np.testing.assert_array_equal(blank.seconds, one.seconds)
    assert sorted(made.numbers(0) + made.numbers(1)) == [0, 1, 2, 3]


def test_all_views_show_the_same_seconds_or_not(folder):
    made = source(folder, independent_windows=True)
    starts, _ = made._window(0, 2.5)[0]
    assert len(set(starts.tolist())) == 3
    assert len(set(source(folder)._window(0, 2.5)[0][0].tolist())) == 1


def test_evaluation_takes_the_middle_or_the_whole(folder):
    one = source(folder, "eval").sample(0, frames=8)
    assert one.duration - one.seconds[0] == pytest.approx(1.0)
    assert one.seconds[0] == pytest.approx(0.75, abs=0.1)
    whole = source(folder, "eval", eval_window="uniform").sample(0, frames=8)
    assert (whole.seconds[0], whole.duration) == (0.0, pytest.approx(2.5, abs=0.2))


def test_a_batch_has_one_slot_for_all_views(folder):
    made, chosen = source(folder), config(folder)
    chat = open_chat(chosen)
    samples = [made.sample(n, frames=8) for n in (0, 1)]
    encoded = [chat.encode(sample) for sample in samples]
    batch = collate(samples, encoded, config=chosen, pad_id=chat.pad_id)
    assert batch.prompt.visual.clips.shape == (2, 3, 8, 16, 16, 3)
    np.testing.assert_array_equal((batch.prompt.visual_index >= 0).sum(axis=1), [1, 1])
    place = int(np.argmax(encoded[0].prompt == chat.frame_id))
    before = chat.tokenizer.decode(encoded[0].prompt[:place].tolist(), skip_special_tokens=False)
    assert "named SmolLM" in before
    assert before.endswith(chosen.takes.question + "\n")


def test_protocols(folder, tmp_path):
    said = json.loads((folder / "commentary_val.json").read_text())
    (first, remarks), (second, _) = said["annotations"].items()
    said["annotations"] = {first: remarks * 2, second: []}
    (tmp_path / "said.json").write_text(json.dumps(said))
    change = {"eval_commentary": str(tmp_path / "said.json")}
    official = source(folder, "eval", **change)
    assert [len(official), official.sample(1, frames=8, pixels=False).answer] == [
        2, "Proficiency: invert"
    ]  # fmt: skip
    authors = source(folder, "eval", protocol="authors", **change)
    assert [one.take.uid for one in authors.records] == [first, first]
    assert authors.sample(0, frames=8, pixels=False).kind == "music"
    assert "without a commentary: 1" in authors.told()


def test_long_commentaries_are_cut_by_tokens(folder):
    chosen = config(folder, commentary_tokens=20)
    record = source(folder, commentary_tokens=20).records[0]
    assert record.commentary.endswith(".")
    assert len(open_chat(chosen).tokenizer.encode(record.commentary).ids) <= 20


def written(folder, path, videos, **change):
    manifest = view_features.Manifest(
        version=1, encoder="e", width=4, frames=8, window=1.0, windows=3, videos=tuple(videos)
    )
    rows = (np.full((4, 4), i, np.float32) + np.arange(4)[:, None] / 10 for i in range(len(videos)))
    view_features.write_features(path, dataclasses.replace(manifest, **change), rows)
    return str(path)


def test_kept_features_take_the_place_of_frames(folder, tmp_path):
    videos = [
        f"{t}/{v}" for t in ("train0000", "train0001", "train0002", "train0003") for v in VIEWS
    ]
    features = written(folder, tmp_path / "kept", videos)
    made = source(folder, features=features)
    windows = set()
    for turn in range(12):
        one = made.sample(1 + turn * len(made), frames=8)
        assert isinstance(one.views, ViewFeatures)
        ego, missing, exo = one.views.vectors[:, 0]
        assert (int(ego), missing, int(exo)) == (3, 0, 5)
        windows.add(round(float(ego) % 1, 1))
    assert windows == {0.1, 0.2, 0.3}  # never the middle one, which is for evaluation
    with pytest.raises(InputError, match="nothing of 'val0000/ego'; run `tgvlm features`"):
        source(folder, "eval", features=features)
    with pytest.raises(InputError, match=r"made with data.takes.windows=3, not 5"):
        source(folder, features=features, windows=5)
    with pytest.raises(InputError, match="no features there"):
        source(folder, features=str(tmp_path))
    with pytest.raises(InputError, match="exists already"):
        written(folder, tmp_path / "kept", videos)


def test_what_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"has 8 frames a second, too few for 8 in 0.5 s; shard "):
        source(folder, window=0.5)
    with pytest.raises(InputError, match="4 records can be used, 9 are needed"):
        source(folder, batch_size=9)
    with pytest.raises(InputError, match="filmed by none of exo9"):
        source(folder, views=("exo9",))
    with pytest.raises(InputError, match="common windows"):
        TakesConfig(features="x", independent_windows=True)
    records = json.loads((folder / "proficiency_train.json").read_text())
    records["annotations"].append(records["annotations"][0] | {"proficiency_score": "?"})
    (tmp_path / "bad.json").write_text(json.dumps(records))
    chosen = dataclasses.replace(config(folder), annotations=str(tmp_path / "bad.json"))
    made = TakeViews(open_shards(chosen.shards), chosen, size=(16, 16), split="train", seed=0)
    assert made.told().endswith("views ego, exo1, exo2; 1 left out, see skipped.jsonl")
    assert "'?' is none of grayscale" in made.skipped.first()
