"""The steps of sharding, taken by hand: out of order, twice, or not to the end."""

import os
import pathlib
import shutil
import tempfile

import pytest

from tests.data import bad_videos, clips
from tgvlm_jax.data import shard_files, shard_tasks, storage
from tgvlm_jax.data.decode_pool import Decoder
from tgvlm_jax.data.manifest import load
from tgvlm_jax.data.shard_tasks import Plan
from tgvlm_jax.data.shard_writer import SCRATCH, checked_settings, write_shards
from tgvlm_jax.data.shards import open_shards

SETTINGS = {"fps": 2.0, "height": 34, "width": 60}
LIMIT = 8_000  # bytes of a shard file: the set needs several
IDS = ("a", "bad", "b", "c/c", "d?")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Four real clips and a broken one, by id."""
    folder = tmp_path_factory.mktemp("films")
    good = clips.cut(folder, 4)
    return dict(zip(IDS, [good[0], bad_videos.zero_byte(folder), *good[1:]], strict=True))


@pytest.fixture(scope="module")
def whole(films, tmp_path_factory):
    """What one machine makes of them in one go."""
    out = tmp_path_factory.mktemp("whole") / "out"
    write_shards(films, out, **SETTINGS, shard_bytes=LIMIT, progress=False)
    assert len(list(out.iterdir())) >= 3
    return out


@pytest.fixture(scope="module")
def decoder():
    child = Decoder()
    yield child
    child.kill()


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def plan_of(out, **changes):
    (out / SCRATCH).mkdir(parents=True, exist_ok=True)
    settings = checked_settings(**({"quality": 90} | SETTINGS | changes))
    return Plan(out=str(out), settings=settings, shard_bytes=LIMIT, timeout_s=60.0)


def spooled(plan, films, decoder, *, only=None, backwards=False):
    """Takes the first steps; the outcomes by id."""
    shard_tasks.save_tasks(plan, films)
    files = shard_tasks.promised_files(plan)
    intact = [file.file for file in files if shard_files.is_intact(plan.place, file)]
    tasks = [task for task in shard_tasks.read_tasks(plan) if only is None or task.id in only]
    return {
        task.id: shard_tasks.spool(task, plan, decoder, intact=intact)
        for task in (reversed(tasks) if backwards else tasks)
    }


def finished(plan, outcomes):
    """Takes the other steps, that of writing backwards and twice."""
    files = shard_tasks.arrange(plan, outcomes.values())
    written = [shard_tasks.write(file, plan) for file in [*files, *reversed(files)]]
    shard_tasks.conclude(plan, outcomes.values(), written)
    manifest = load(plan.scratch / shard_tasks.RESULT)
    disk = None if storage.is_remote(plan.place) else plan.scratch
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        shard_files.finish(manifest, plan.place, scratch=pathlib.Path(folder))
    storage.remove_folder(plan.scratch)


def states(outcomes):
    return [outcome.state for outcome in sorted(outcomes.values(), key=lambda one: one.index)]


def test_any_order_gives_the_same_bytes(films, whole, decoder, tmp_path):
    plan = plan_of(tmp_path / "out")
    outcomes = spooled(plan, films, decoder, backwards=True)
    assert states(outcomes) == ["decoded", "skipped", "decoded", "decoded", "decoded"]
    finished(plan, outcomes)
    assert content(tmp_path / "out") == content(whole)


def test_a_stopped_run_goes_on(films, whole, decoder, tmp_path):
    """What is decoded is not decoded again, and what is half written does no harm."""
    plan = plan_of(tmp_path / "out")
    spooled(plan, films, decoder, only={"b", "bad", "c/c"})
    (tmp_path / "out" / "frames-00000.arrayrecord").write_bytes(b"half")
    (plan.scratch / "tgvlm-x").mkdir()
    outcomes = spooled(plan_of(tmp_path / "out"), films, decoder)
    assert states(outcomes) == ["decoded", "skipped", "found", "found", "decoded"]
    finished(plan, outcomes)
    assert content(tmp_path / "out") == content(whole)


def test_what_was_decoded_must_still_fit(films, decoder, tmp_path):
    shutil.copy(films["a"], tmp_path / "one.mp4")
    one = {"one": tmp_path / "one.mp4"}
    plan = plan_of(tmp_path / "out")
    assert states(spooled(plan, one, decoder)) == ["decoded"]
    assert states(spooled(plan, one, decoder)) == ["found"]
    assert states(spooled(plan_of(tmp_path / "out", height=20), one, decoder)) == ["decoded"]
    assert states(spooled(plan, one, decoder)) == ["decoded"]
    (spool,) = plan.scratch.glob("*.jpegs")
    spool.write_bytes(spool.read_bytes()[:-1])
    assert states(spooled(plan, one, decoder)) == ["decoded"]
    (note,) = (path for path in plan.scratch.glob("*.json"))
    note.write_text(note.read_text()[:-9])
    assert states(spooled(plan, one, decoder)) == ["decoded"]
    os.utime(one["one"], (0, 0))
    assert states(spooled(plan, one, decoder)) == ["decoded"]


@pytest.mark.parametrize("change", ["added", "dropped", "replaced", "damaged"])
def test_an_earlier_set_is_reused_as_one_machine_would(films, whole, decoder, tmp_path, change):
    old, here, there = dict(films), tmp_path / "here", tmp_path / "there"
    shutil.copytree(whole, here)
    expected = ["kept", "skipped", "kept", "kept", "kept"]
    if change == "added":
        old |= {"late": bad_videos.late_start(tmp_path)}
        expected.append("decoded")
    elif change == "dropped":
        del old["b"], expected[2]
    elif change == "replaced":
        name = tmp_path / films["c/c"].name
        old["c/c"] = bad_videos.synthetic(name, [k / 10 for k in range(9)])
        expected[3] = "decoded"
    else:
        videos = open_shards(whole).manifest.videos
        path = here / videos[0].shard
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        for video in videos:
            if video.shard == path.name:
                expected[IDS.index(video.id)] = "decoded"
        assert expected[4] == "kept"
    shutil.copytree(here, there)
    plan = plan_of(here)
    outcomes = spooled(plan, old, decoder)
    assert states(outcomes) == expected
    finished(plan, outcomes)
    write_shards(old, there, **SETTINGS, shard_bytes=LIMIT, progress=False)
    assert content(here) == content(there)
    assert {*open_shards(here, verify="hash").video_ids} == {*old} - {"bad"}


def test_a_lost_note_is_said(films, decoder, tmp_path):
    plan = plan_of(tmp_path / "out")
    outcomes = spooled(plan, films, decoder, only={"a"})
    (file,) = shard_tasks.arrange(plan, outcomes.values())
    (note,) = plan.scratch.glob("*.json")
    note.unlink()
    with pytest.raises(OSError, match="is gone; run again"):
        shard_tasks.write(file, plan)
