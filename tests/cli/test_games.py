import json
import sys

import numpy as np
import pytest

from tgvlm_jax.cli import __main__ as cli
from tgvlm_jax.data import games, video

WORDS = ["games", "--episodes", "3", "--validation", "2", "--seed", "5", "--out"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pytest.importorskip("minigrid", reason="renders episodes: pip install '.[games]'")
    out = tmp_path_factory.mktemp("games") / "set"
    assert cli.main([*WORDS, str(out)]) == 0
    return out


def lists(folder):
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("train", "val")}


def test_the_same_seed_writes_the_same_set(made, tmp_path, capsys):
    assert cli.main([*WORDS, str(tmp_path / "again")]) == 0
    out = capsys.readouterr().out
    assert "answers that never look" in out
    assert f"tgvlm shard --videos {tmp_path}/again/videos" in out
    for path in sorted(made.rglob("*")):
        if path.is_file():
            again = tmp_path / "again" / path.relative_to(made)
            assert again.read_bytes() == path.read_bytes(), path.name


def test_splits_share_no_film_and_no_room(made):
    found = lists(made)
    films = {split: {one["video"] for one in records} for split, records in found.items()}
    assert films == {
        "train": {f"train-{n:05d}.mp4" for n in range(3)},
        "val": {f"val-{n:05d}.mp4" for n in range(2)},
    }
    told = json.loads((made / "episodes.json").read_text())
    assert len({one["layout"] for one in told}) == 5


def test_a_film_shows_what_was_rendered(made):
    """Its frames, and the length that the records give."""
    episode = games.episode([5, 1, 1])
    shown = video.decode(made / "videos" / "val-00001.mp4", fps=games.FPS, height=96, width=128)
    assert shown.pixels.shape == episode.frames.shape
    assert np.abs(shown.pixels.astype(int) - episode.frames).mean() < 6
    durations = {one["duration"] for one in lists(made)["val"] if "00001" in one["video"]}
    assert durations == {episode.duration} == {shown.info.duration}


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["games", "--out", "{made}"], "exists already; name another folder"),
        (["games", "--out", "{new}", "--kinds", "carry,fly"], "'fly' is not one of carry, open"),
    ],
)
def test_one_line_for_what_is_wrong(made, tmp_path, capsys, words, cause):
    words = [word.format(made=made, new=tmp_path / "new") for word in words]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert cause in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_without_minigrid_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "minigrid", None)
    assert cli.main(["games", "--out", str(tmp_path / "new")]) == 2
    assert 'pip install "tgvlm_jax[games]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
