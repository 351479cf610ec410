"""Sharding on Beam's own engine.

Needs the extra `beam`, which wants older protobuf and pyarrow than the tested set: `make beam` runs
this in an environment of its own. The steps are tested without Beam in test_shard_tasks.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.data import clips
from tests.data.test_shards import content, tmpfs, wait_for
from tgvlm_jax.data.beam_shards import write_shards_beam
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.types import InputError

SETTINGS = {"fps": 2.0, "height": 34, "width": 60, "shard_bytes": 8000, "progress": False}
needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="needs Apache Beam, which the tested set of packages excludes; run `make beam`",
)


def films_in(folder, count):
    """By their ids: `count` good clips, and ten bad ones between them."""
    folder.mkdir()
    paths = [*clips.cut(folder, count), *clips.spoil(folder)]
    return {path.stem: path for path in sorted(paths, key=lambda path: path.name[-6:])}


@needs_beam
@pytest.mark.filterwarnings("default")  # Beam and what it imports warn of each other
def test_beam_makes_what_one_machine_makes(tmp_path, capfd):
    films = films_in(tmp_path / "films", 6)
    for bad in sorted(films)[:7]:  # three of them are enough here
        del films[bad]
    here, there = tmp_path / "here", tmp_path / "there"
    write_shards(films, there, **SETTINGS)
    shown = SETTINGS | {"progress": True}
    manifest = write_shards_beam(films, here, **shown, workers=2)
    assert "of 9 videos 0 kept, 0 found, 6 decoded, 3 skipped" in capfd.readouterr().err
    assert len(manifest.videos) == 6
    assert {one.id for one in manifest.skipped} == {key for key in films if "bad" in key}
    assert content(here) == content(there)
    again = write_shards_beam(films, here, **shown, workers=1)
    assert "of 9 videos 6 kept, 0 found, 0 decoded, 3 skipped" in capfd.readouterr().err
    assert again == manifest
    assert content(here) == content(there)


@needs_beam
@pytest.mark.filterwarnings("default")
def test_what_goes_wrong_on_a_worker_is_one_line(tmp_path):
    films = films_in(tmp_path / "films", 1)
    bad = {key: path for key, path in films.items() if "bad" in key}
    with pytest.raises(InputError, match=r"none of 10 videos can be read; the first: \S+bad_"):
        write_shards_beam(bad, tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()
    with tmpfs(tmp_path / "small", "size=32k") as small:
        with pytest.raises(
            InputError, match=r"Beam job failed.*No space left.*run it again$"
        ) as no:
            write_shards_beam(films, small / "out", **SETTINGS | {"fps": 25.0})
        assert "\n" not in str(no.value)


@needs_beam
def test_options_are_checked(tmp_path):
    films = films_in(tmp_path / "films", 1)

    def refuses(options, words, **more):
        with pytest.raises(InputError, match=words):
            write_shards_beam(films, tmp_path / "out", **SETTINGS, options=options, **more)

    refuses(["num_worker=3"], r"no option 'num_worker'; did you mean 'num_workers'\?")
    refuses(["num_workers=three"], "--beam num_workers=three: .*invalid int value")
    refuses([], r"films\S* *: Dataflow cannot see it|out: Dataflow", runner="dataflow")
    refuses([], "0 workers", workers=0)
    assert not (tmp_path / "out").exists()


def test_without_beam(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    films = films_in(tmp_path / "films", 1)
    with pytest.raises(InputError, match=r"needs Apache Beam.*tgvlm_jax\[beam\]"):
        write_shards_beam(films, tmp_path / "out", **SETTINGS)


@needs_beam
@pytest.mark.slow
def test_killed_again_and_again(tmp_path):
    """200 clips, ten bad, killed while decoding and while writing: the bytes of one run."""
    films_in(tmp_path / "films", 190)

    def command(out, *more):
        words = f"shard --videos {tmp_path / 'films'} --out {out} --fps 2 --height 90 --width 160"
        command = [sys.executable, "-m", "tgvlm_jax", *words.split(), "--shard_mb", "1", *more]
        return [*command, "--runner", "direct"]

    def run(*words):
        began = time.monotonic()
        done = subprocess.run(command(*words), check=True, capture_output=True, text=True)
        print(*words, f"{time.monotonic() - began:.1f} s", done.stderr.splitlines()[-1])
        return done.stderr

    once, killed = tmp_path / "once", tmp_path / "killed"
    assert "0 found, 190 decoded, 10 skipped" in run(once, "--workers", "2")
    notes = killed / ".writing"
    for enough in (
        lambda: len([*notes.glob("*.json")]) >= 40,
        lambda: len([*notes.glob("*.json")]) >= 120,
        lambda: any(killed.glob("frames-*")),
    ):
        process = subprocess.Popen(command(killed, "--workers", "2"), start_new_session=True)
        wait_for(enough)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (killed / "manifest.json").exists()
    said = run(killed, "--workers", "3")
    assert "190 found, 0 decoded, 10 skipped" in said
    assert content(killed) == content(once)
    manifest = json.loads((killed / "manifest.json").read_text())
    assert len(manifest["videos"]) == 190
    assert {one["id"][:4] for one in manifest["skipped"]} == {"bad_"}
    assert len(open_shards(killed, verify="hash").video_ids) == 190
    plain = tmp_path / "plain"
    words = [*command(plain)[:-2], "--workers", "1"]
    subprocess.run(words, check=True, capture_output=True)
    assert content(plain) == content(once)
