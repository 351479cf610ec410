import contextlib
import fcntl
import hashlib
import json
import os
import pickle
import pty
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from tests.data import bad_videos
from tests.data.bad_videos import BIKES
from tgvlm_jax.cli import shard as cli
from tgvlm_jax.data import decode_pool, shard_progress
from tgvlm_jax.data import shards as shards_module
from tgvlm_jax.data.manifest import ShardError
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.data.video import decode
from tgvlm_jax.types import InputError

FILM = BIKES.parent.parent.parent / "tgvlm_jax" / "assets" / "big_buck_bunny.mp4"
SETTINGS = {"fps": 2.0, "height": 34, "width": 80, "progress": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two good videos in one shard directory; read it, never change it."""
    base = tmp_path_factory.mktemp("made")
    vfr = bad_videos.variable_rate(base)
    write_shards({"bikes": BIKES, "vfr": vfr}, base / "out", **SETTINGS)
    return base / "out"


@pytest.fixture
def copied(made, tmp_path):
    """The same directory, to be damaged."""
    out = tmp_path / "copied"
    out.mkdir()
    for path in made.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    return out


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_frames_and_times_come_back(made):
    shards = open_shards(made, verify="hash")
    assert shards.video_ids == ("bikes", "vfr")
    source = decode(BIKES, fps=2.0, height=34, width=80)
    np.testing.assert_allclose(shards.seconds("bikes"), source.seconds, atol=1e-6)
    frames = shards.frames("bikes", 0, 20)
    assert frames.shape == source.pixels.shape
    assert frames.dtype == np.uint8
    assert np.abs(frames.astype(int) - source.pixels).mean() < 4
    np.testing.assert_array_equal(shards.frames("bikes", 7, 12), frames[7:12])
    assert shards.frames("vfr", 3, 3).shape == (0, 34, 80, 3)


def test_manifest_describes_source_and_files(made):
    manifest = open_shards(made).manifest
    bikes = manifest.videos[0]
    assert bikes.sha256 == hashlib.sha256(BIKES.read_bytes()).hexdigest()
    assert (bikes.source, bikes.duration, bikes.fps) == ("bikes.mp4", 10.0, 25.0)
    assert (bikes.width, bikes.height, len(bikes.seconds)) == (80, 34, 20)
    assert manifest.skipped == ()
    for shard in manifest.shards:
        stored = (made / shard.file).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(stored), hashlib.sha256(stored).hexdigest())
        reader = ArrayRecordReader(str(made / shard.file))
        assert reader.num_records() == shard.records
        assert "group_size:1," in reader.writer_options_string() + ","
    assert sorted(content(made)) == ["frames-00000.arrayrecord", "manifest.json"]


def test_width_none_keeps_each_shape(tmp_path):
    vfr = bad_videos.variable_rate(tmp_path)
    settings = SETTINGS | {"width": None}
    write_shards({"bikes": BIKES, "vfr": vfr}, tmp_path / "out", **settings)
    shards = open_shards(tmp_path / "out")
    assert shards.frames("bikes", 0, 1).shape == (1, 34, 80, 3)
    assert shards.frames("vfr", 0, 1).shape == (1, 34, 46, 3)


def test_files_fill_up_to_a_limit(tmp_path):
    videos = {f"copy {k}": BIKES for k in range(3)}  # each has about 26 kB
    manifest = write_shards(videos, tmp_path, **SETTINGS, shard_bytes=50_000)
    assert [len(shard.file) for shard in manifest.shards] == [len("frames-00000.arrayrecord")] * 3
    shards = open_shards(tmp_path, verify="hash")
    for video_id in videos:
        np.testing.assert_array_equal(
            shards.frames(video_id, 0, 20), shards.frames("copy 0", 0, 20)
        )


def test_workers_change_nothing(made, tmp_path):
    vfr = bad_videos.variable_rate(tmp_path)
    out = tmp_path / "out"
    write_shards({"bikes": BIKES, "vfr": vfr}, out, **SETTINGS, workers=3)
    assert content(out) == content(made)


def test_second_run_decodes_nothing(copied):
    vfr = bad_videos.variable_rate(copied.parent)
    before, stamp = content(copied), (copied / "frames-00000.arrayrecord").stat()
    began = time.monotonic()
    write_shards({"bikes": BIKES, "vfr": vfr}, copied, **SETTINGS)
    assert time.monotonic() - began < 0.5  # less than it takes to start a decoder
    assert content(copied) == before
    assert (copied / "frames-00000.arrayrecord").stat().st_mtime_ns == stamp.st_mtime_ns


def test_only_changed_videos_are_decoded_again(copied, monkeypatch):
    vfr = bad_videos.synthetic(copied.parent / "vfr.mp4", [k / 10 for k in range(30)])
    kept = open_shards(copied).jpegs("bikes", 0, 20)
    asked = []
    decoders = decode_pool.Decoders
    real_map = decoders.map
    monkeypatch.setattr(
        decoders,
        "map",
        lambda self, jobs, report: asked.extend(jobs) or real_map(self, jobs, report),
    )
    manifest = write_shards({"vfr": vfr, "bikes": BIKES}, copied, **SETTINGS)
    assert [job.id for job in asked] == ["vfr"]
    assert [entry.id for entry in manifest.videos] == ["vfr", "bikes"]
    shards = open_shards(copied, verify="hash")
    assert shards.jpegs("bikes", 0, 20) == kept
    np.testing.assert_allclose(shards.seconds("vfr"), np.arange(6) / 2, atol=1e-6)
    names = {shard.file for shard in manifest.shards}
    assert names | {"manifest.json"} == set(content(copied))


def test_other_settings_replace_everything(copied):
    manifest = write_shards({"bikes": BIKES}, copied, **SETTINGS | {"height": 20})
    assert [entry.height for entry in manifest.videos] == [20]
    assert len(content(copied)) == 2
    assert open_shards(copied, verify="hash").frames("bikes", 0, 20).shape == (20, 20, 80, 3)


def test_damaged_shard_is_made_again(copied):
    path = copied / "frames-00000.arrayrecord"
    good = path.read_bytes()
    path.write_bytes(good[:1000] + bytes([good[1000] ^ 255]) + good[1001:])
    vfr = bad_videos.variable_rate(copied.parent)
    (shard,) = write_shards({"bikes": BIKES, "vfr": vfr}, copied, **SETTINGS).shards
    assert (copied / shard.file).read_bytes() == good
    open_shards(copied, verify="hash")


def test_dataset_goes_on_past_bad_videos(tmp_path):
    bad = [make(tmp_path) for make in (bad_videos.zero_byte, bad_videos.cut_in_data)]
    bad += [bad_videos.audio_only(tmp_path), bad_videos.missing(tmp_path)]
    out = tmp_path / "out"
    manifest = write_shards([bad[0], BIKES, *bad[1:]], out, **SETTINGS)
    assert [entry.id for entry in manifest.videos] == ["bikes"]
    assert [skip.source for skip in manifest.skipped] == [path.name for path in bad]
    reasons = " / ".join(skip.reason for skip in manifest.skipped)
    for words in ("is empty", "readable", "no video stream", "No such file"):
        assert words in reasons
    assert open_shards(out).manifest == manifest


def test_nothing_readable_is_an_error_and_leaves_nothing(tmp_path):
    text, zero = bad_videos.text(tmp_path), bad_videos.zero_byte(tmp_path)
    with pytest.raises(InputError, match=r"none of 2 videos.*text\.mp4: not a video"):
        write_shards([text, zero], tmp_path / "out", **SETTINGS)
    with pytest.raises(InputError, match=r"^\S+zero\.mp4: is empty"):
        write_shards([zero], tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sign", "reason"),
    [(signal.SIGKILL, r"crashed \(SIGKILL\)"), (signal.SIGSTOP, "no frame in 1 s")],
    ids=["crash", "hang"],
)
def test_dying_decoder_costs_one_video(tmp_path, sign, reason):
    """A real signal to the real child, while it decodes the ten-minute film."""
    box = {}

    def work():
        settings = SETTINGS | {"fps": 12.0, "timeout_s": 1.0}
        box["manifest"] = write_shards([FILM, BIKES], tmp_path / "out", **settings)

    thread = threading.Thread(target=work)
    thread.start()
    spool = tmp_path / "out" / ".writing" / "0.jpegs"
    wait_for(lambda: spool.exists() and spool.stat().st_size > 0)
    (child,) = psutil.Process().children()
    child.send_signal(sign)
    thread.join()
    manifest = box["manifest"]
    assert [entry.id for entry in manifest.videos] == ["bikes"]
    assert [skip.id for skip in manifest.skipped] == ["big_buck_bunny"]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(manifest.skipped[0].reason)
    assert psutil.Process().children() == []


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_what_a_decoding_process_imports():
    """One is started for every worker, and again for every film that ends it."""
    seen = "print('jax' in sys.modules, 'av' in sys.modules)"
    code = f"import sys; import tgvlm_jax.data.decode_pool; {seen}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False True\n"


@pytest.mark.slow
def test_killed_run_goes_on_where_it_was(tmp_path):
    """kill -9 after the first shard file: it is kept, and the end is what one run would give."""
    script = """
import sys
from tgvlm_jax.data.shard_writer import write_shards
videos = {str(k): sys.argv[1] for k in range(5)}
settings = dict(fps=25.0, height=34, width=80, shard_bytes=1000, progress=False)
write_shards(videos, sys.argv[2], **settings)
"""
    command = [sys.executable, "-c", script, str(BIKES)]
    once, twice = tmp_path / "once", tmp_path / "twice"
    process = subprocess.Popen([*command, str(twice)])
    wait_for(lambda: (twice / "manifest.partial.json").exists())
    process.kill()
    process.wait()
    with pytest.raises(ShardError, match=r"not finished; re-run `tgvlm shard`"):
        open_shards(twice)
    first = twice / "frames-00000.arrayrecord"
    stamp = first.stat().st_mtime_ns
    subprocess.run([*command, str(twice)], check=True)
    subprocess.run([*command, str(once)], check=True)
    assert first.stat().st_mtime_ns == stamp
    assert content(twice) == content(once)
    assert len(open_shards(twice, verify="hash").video_ids) == 5


@pytest.mark.slow
def test_bar_on_a_terminal(tmp_path):
    script = "import sys; from tgvlm_jax.data.shard_writer import write_shards as write;"
    script += "write(sys.argv[1:2], sys.argv[2], fps=2.0, height=34)"
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-c", script, str(BIKES), str(tmp_path / "out")]
    subprocess.run(command, stderr=theirs, check=True)
    os.close(theirs)
    said = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "shard: 100%" in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_lines_elsewhere(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(shard_progress, "_LINE_SECONDS", 0.0)
    videos = {"a": BIKES, "b": BIKES}
    write_shards(videos, tmp_path, **SETTINGS | {"progress": True})
    said = capfd.readouterr().err.splitlines()
    assert said[-1] == "shard: 2 of 2 videos, 100%, 0 s left"
    write_shards(videos, tmp_path, **SETTINGS | {"height": 20})
    assert capfd.readouterr().err == ""


# ------------------------------------------------------------------------------------- disks


@contextlib.contextmanager
def tmpfs(directory, options):
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount the small file system that this needs")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.parametrize(
    ("size", "settings"),
    [("64k", {"fps": 25.0}), ("96k", {}), ("8k", {"height": 2, "width": 2})],
    ids=["while decoding", "in the shard file", "at once"],
)
def test_disk_full(tmp_path, size, settings):
    with tmpfs(tmp_path / "small", f"size={size}") as small:
        with pytest.raises(InputError, match=r"disk full; free some space") as caught:
            write_shards([BIKES], small / "out", **SETTINGS | settings)
        assert "\n" not in str(caught.value)
        assert list(small.iterdir()) == []


def test_disk_full_after_a_shard_file(copied, tmp_path):
    """The shard file just fits, the note that says so does not: then neither may stay."""
    trial = shutil.copytree(copied, tmp_path / "trial")
    (shard,) = write_shards({"bikes": BIKES}, trial, **SETTINGS).shards
    sizes = [*map(len, content(copied).values()), shard.bytes]
    pages = sum(-(-size // 4096) for size in sizes)
    with tmpfs(tmp_path / "small", f"size={4 * pages}k") as small:
        for name, stored in content(copied).items():
            (small / name).write_bytes(stored)
        with pytest.raises(InputError, match="disk full"):
            write_shards({"bikes": BIKES}, small, **SETTINGS)
        assert content(small) == content(copied)


def test_disk_full_keeps_the_old_set(copied, tmp_path):
    with tmpfs(tmp_path / "small", "size=500k") as small:
        for name, stored in content(copied).items():
            (small / name).write_bytes(stored)
        with pytest.raises(InputError, match="disk full"):
            write_shards([BIKES], small, **SETTINGS | {"fps": 25.0})
        assert content(small) == content(copied)
        assert open_shards(small, verify="hash").frames("bikes", 0, 20).any()


def test_unwritable_directory(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(InputError, match=r"cannot be written to \(.*choose another"):
            write_shards([BIKES], out, **SETTINGS)


def test_read_only_disk(tmp_path):
    with (
        tmpfs(tmp_path / "fixed", "ro") as fixed,
        pytest.raises(InputError, match="Read-only file system"),
    ):
        write_shards([BIKES], fixed / "out", **SETTINGS)


def test_two_runs_in_one_place(copied):
    handle = os.open(copied, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(InputError, match="another run is writing"):
            write_shards([BIKES], copied, **SETTINGS)
    finally:
        os.close(handle)


# ------------------------------------------------------------------------------------ reading


def edit(change):
    def damage(directory):
        path = directory / "manifest.json"
        raw = json.loads(path.read_text())
        change(raw)
        path.write_text(json.dumps(raw))

    return damage


def cut_shard(directory):
    path = directory / "frames-00000.arrayrecord"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_shard(directory):
    (directory / "frames-00000.arrayrecord").unlink()


def no_manifest(directory):
    (directory / "manifest.json").unlink()


def half_manifest(directory):
    path = directory / "manifest.json"
    path.write_text(path.read_text()[:300])


def drop_frame(raw):
    raw["videos"][0]["seconds"].pop()


def add_size(raw):
    raw["shards"][0]["bytes"] += 1


DAMAGES = {
    "no manifest": (no_manifest, r"manifest\.json: cannot be read"),
    "half a manifest": (half_manifest, r"manifest\.json: is not JSON"),
    "a list": (
        lambda directory: (directory / "manifest.json").write_text("[]"),
        r"manifest\.json: has format version None",
    ),
    "version": (edit(lambda raw: raw.update(version=2)), "has format version 2"),
    "key gone": (edit(lambda raw: raw["videos"][1].pop("sha256")), r"videos\[1\] does not have"),
    "key too many": (edit(lambda raw: raw["settings"].update(x=1)), "settings does not have"),
    "wrong type": (edit(lambda raw: raw["videos"][0].update(width="80")), r"videos\[0\]\.width"),
    "times no list": (edit(lambda raw: raw["videos"][0].update(seconds=1)), r"\.seconds has"),
    "no videos": (edit(lambda raw: raw.update(videos=None)), "videos is not a list"),
    "fewer frames": (edit(drop_frame), r"frames-00000"),
    "unknown file": (edit(lambda raw: raw["videos"][0].update(shard="x")), "wrong place in x"),
    "wrong size": (edit(add_size), r"frames-00000\.arrayrecord: has \d+ bytes, not the \d+"),
    "shard cut": (cut_shard, r"frames-00000\.arrayrecord: has \d+ bytes, not the \d+"),
    "shard gone": (no_shard, r"frames-00000\.arrayrecord: is missing"),
}


@pytest.mark.parametrize(("damage", "cause"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_one_clear_line(copied, damage, cause):
    open_shards(copied)
    damage(copied)
    with pytest.raises(ShardError, match=cause) as caught:
        open_shards(copied)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(copied))
    assert "re-run `tgvlm shard`" in message


def test_flipped_byte(copied):
    path = copied / "frames-00000.arrayrecord"
    stored = bytearray(path.read_bytes())
    stored[5000] ^= 255
    path.write_bytes(stored)
    with pytest.raises(ShardError, match=r"frames-00000.*another content.*re-run"):
        open_shards(copied, verify="hash")
    shards = open_shards(copied)
    with pytest.raises(ShardError, match=r"frames-00000.*cannot be read; re-run"):
        shards.frames("bikes", 0, 20)


def test_count_that_disagrees_with_the_file(copied):
    """Manifest and size agree, the records do not."""
    path = copied / "frames-00000.arrayrecord"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    writer.write(b"x" * 100)
    writer.close()
    edit(lambda raw: raw["shards"][0].update(bytes=path.stat().st_size))(copied)
    with pytest.raises(ShardError, match=r"has 1 records, not the \d+ promised"):
        open_shards(copied).frames("bikes", 0, 1)


def test_record_that_is_no_jpeg(copied):
    path = copied / "frames-00000.arrayrecord"
    count = ArrayRecordReader(str(path)).num_records()
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for _ in range(count):
        writer.write(b"x" * 100)
    writer.close()
    edit(lambda raw: raw["shards"][0].update(bytes=path.stat().st_size))(copied)
    with pytest.raises(ShardError, match="broken frame of bikes"):
        open_shards(copied).frames("bikes", 0, 1)


def test_asking_for_what_is_not_there(made):
    shards = open_shards(made)
    with pytest.raises(ShardError, match="no video 'bike'"):
        shards.seconds("bike")
    for start, stop in ((-1, 3), (5, 4), (0, 21)):
        with pytest.raises(IndexError, match=f"{start}:{stop} in 20"):
            shards.frames("bikes", start, stop)


@pytest.fixture
def busy_switching():
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("busy_switching")
def test_threads_read_the_right_frames(made):
    shards = open_shards(made)
    whole = {key: shards.frames(key, 0, len(shards.seconds(key))) for key in shards.video_ids}

    def check(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            key = rng.choice(shards.video_ids)
            start, stop = sorted(rng.integers(0, len(whole[key]) + 1, 2).tolist())
            np.testing.assert_array_equal(
                shards.frames(str(key), start, stop), whole[key][start:stop]
            )
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(16)))


def test_pickled_copy_reads(made):
    shards = open_shards(made)
    frames = shards.frames("vfr", 0, 3)
    copy = pickle.loads(pickle.dumps(shards))
    assert copy.manifest == shards.manifest
    np.testing.assert_array_equal(copy.frames("vfr", 0, 3), frames)


def test_many_files_with_few_open(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "_OPEN_READERS", 2)
    write_shards({str(k): BIKES for k in range(4)}, tmp_path, **SETTINGS, shard_bytes=1)
    shards = open_shards(tmp_path)
    for k in (0, 1, 2, 3, 0, 3, 1):
        assert len(shards.jpegs(str(k), 0, 20)) == 20
    assert len(shards._readers) == 2


# ------------------------------------------------------------------------------------ arguments


def test_equal_names_need_ids(tmp_path):
    with pytest.raises(InputError, match="both get the id 'bikes'"):
        write_shards([BIKES, tmp_path / "bikes.mkv"], tmp_path / "out", **SETTINGS)
    with pytest.raises(InputError, match="no videos"):
        write_shards([], tmp_path / "out", **SETTINGS)


@pytest.mark.parametrize(
    "wrong",
    [{"fps": 0.0}, {"height": 0}, {"width": 0}, {"quality": 101}, {"workers": 0}],
    ids=str,
)
def test_wrong_settings(tmp_path, wrong):
    with pytest.raises(InputError):
        write_shards([BIKES], tmp_path / "out", **SETTINGS | wrong)
    assert not (tmp_path / "out").exists()


def test_command_line(tmp_path, capsys):
    films = tmp_path / "films"
    (films / "deep").mkdir(parents=True)
    bad_videos.zero_byte(films)
    bad_videos.one_frame(films)
    bad_videos.one_frame(films / "deep", ".mkv")
    bad_videos.one_frame(films / "deep", ".mp4")
    (films / "notes.txt").write_text("not looked at")
    settings = {"fps": 1.0, "height": 24, "width": None, "quality": 90, "workers": 2}
    cli.run(films, tmp_path / "out", **settings)
    said = capsys.readouterr().out
    shards = open_shards(tmp_path / "out")
    assert shards.video_ids == ("deep/one.mkv", "deep/one.mp4", "one")
    for words in ("3 videos", "3 frames at 1 a second", "1 skipped:", "zero.mp4: is empty"):
        assert words in said
    cli.run(BIKES, tmp_path / "single", **settings)
    assert open_shards(tmp_path / "single").video_ids == ("bikes",)
    with pytest.raises(InputError, match="no video files there"):
        cli.run(tmp_path / "single", tmp_path / "none", **settings)
