"""Everything a person can get wrong: one line that says what and what to do, and nothing half-made.

Each case goes through the front door, as on a terminal; `fails` fills in the words in braces.
"""

import json
import re
import shutil

import numpy as np
import pytest

from tests.cli import small_config
from tests.data import bad_videos

ASK = "ask --checkpoint {run} --video {film} --out {new}/answer.html"
QUESTION = "'When are the colours inverted?'"
EVAL = "eval --checkpoint {run} --workdir {new}"
TRAIN = "train {config} --workdir {new}"
SHARD = "shard --videos {film} --out {new} --fps 2 --height 16 --width 16 --workers 1"


# ------------------------------------------------------------------------------------ videos

VIDEOS = {
    "missing": (bad_videos.missing, "No such file"),
    "directory": (bad_videos.is_directory, "is a directory"),
    "zero byte": (bad_videos.zero_byte, "is empty (0 bytes); download or copy it again"),
    "text": (bad_videos.text, "not a video, whatever its name says"),
    "no index": (bad_videos.no_index, "without its index (moov atom), cut off; get it again"),
    "truncated": (bad_videos.cut_in_data, "damaged or cut off: only the first 5."),
    "noise": (bad_videos.overwritten, "none of its frames can be decoded; get an intact copy"),
    "audio only": (bad_videos.audio_only, "has no video stream (only audio); leave it out"),
}


@pytest.mark.parametrize(("make", "cause"), VIDEOS.values(), ids=VIDEOS)
@pytest.mark.parametrize("words", [SHARD, f"{ASK} {QUESTION}"], ids=["shard", "ask"])
def test_bad_video(fails, tmp_path, words, make, cause):
    film = make(tmp_path)
    if words is SHARD and make is bad_videos.is_directory:
        cause = "no video files there"
    line = fails(words, film=film)
    assert line.startswith(f"{film}: ")
    assert cause in line
    left = tmp_path / "new"
    assert not left.exists() or list(left.iterdir()) == []


@pytest.mark.parametrize(
    "make", [bad_videos.variable_rate, bad_videos.late_start, bad_videos.one_frame]
)
def test_odd_but_good_video(world, tgvlm, tmp_path, make):
    film, page = make(tmp_path), tmp_path / "answer.html"
    question = "When are the colours inverted?"
    said = tgvlm("ask", "--checkpoint", world.run, "--video", film, "--out", page, question)
    assert (said.status, said.err) == (0, "")
    assert said.out.endswith(f"look:  {page}\n")
    assert question in page.read_text()


def test_folder_with_a_bad_video_goes_on(tgvlm, tmp_path):
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    shutil.copy(bad_videos.BIKES, films)
    bad_videos.cut_in_data(films).rename(films / "cut.mp4")
    (films / "whole.mp4").unlink()
    said = tgvlm("shard", "--videos", films, "--out", out, "--fps=2", "--height=16", "--width=16")
    assert said.status == 0
    assert {line[:7] for line in said.err.splitlines()} <= {"shard: "}  # progress, if it took long
    assert f"{out}: 1 video, 10.0 s of film\n" in said.out
    assert f"  1 skipped:\n    cut: {films / 'cut.mp4'}: damaged or cut off" in said.out


# ------------------------------------------------------------------------------------ shards


def cut_shard(shards):
    path = shards / "frames-00000.arrayrecord"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def disagreeing_manifest(shards):
    path = shards / "manifest.json"
    raw = json.loads(path.read_text())
    raw["videos"][0]["seconds"].pop()
    path.write_text(json.dumps(raw))


def half_manifest(shards):
    path = shards / "manifest.json"
    path.write_bytes(path.read_bytes()[:200])


def no_shards(shards):
    shutil.rmtree(shards)


DAMAGES = {
    "cut in half": (cut_shard, "frames-00000.arrayrecord: has ", "re-run `tgvlm shard`"),
    "manifest disagrees": (disagreeing_manifest, "manifest.json: counts 79", "re-run"),
    "half a manifest": (half_manifest, "manifest.json: is not JSON", "re-run `tgvlm shard`"),
    "none": (no_shards, ": no frame shards there", "make them: tgvlm shard --videos FILMS --out "),
}


@pytest.mark.parametrize(("damage", "what", "todo"), DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize(
    "words",
    [TRAIN + " --config.data.shards={copy}", "inspect --shards {copy}"],
    ids=["train", "inspect"],
)
def test_damaged_shards(world, fails, tmp_path, words, damage, what, todo):
    copy = shutil.copytree(world.shards, tmp_path / "copy")
    damage(copy)
    line = fails(words, copy=copy)
    assert line.startswith(str(copy))
    assert what in line
    assert todo in line
    assert not (tmp_path / "new").exists()


def test_eval_without_its_shards(fails, tmp_path):
    line = fails(EVAL + " {config} --config.data.shards=" + str(tmp_path / "gone"))
    assert line.startswith(f"{tmp_path / 'gone'}: no frame shards there")


# ----------------------------------------------------------------------------------- configs

SETTINGS = {
    "unknown key": ("optim.lrr=1", "unknown config key 'optim.lrr'; did you mean 'optim.lr'?"),
    "wrong type": ("optim.lr=fast", "config key 'optim.lr' wants float, got 'fast'"),
    "wrong element": ("data.frames=8,9.5", "config key 'data.frames[1]' wants int, got 9.5"),
    "no choice": ("optim.name=adam", "'adam' is not a choice; did you mean 'adamw'?"),
    "no kind": ("data.kinds=inverted", "kinds: 'inverted' is not one of grayscale, invert"),
    "no steps": ("train.steps=0", "config group 'train': steps=0: give at least 1"),
    "no rows": ("data.batch_size=0", "config group 'data': batch_size=0: give at least 1"),
    "no stride": ("data.strides=1,0", "strides=(1, 0): give at least 1"),
    "no clips": (
        "evaluation.samples=0",
        "group 'evaluation': samples=0: give at least 1",
    ),
    "accumulation": ("train.accumulate=3", "train.accumulate=3 must divide data.batch_size=2"),
    "patches": ("model.tower.patch=5", "patch=5 must divide height=16"),
    "frame rate": ("data.fps=4", "has 8 frames a second, but data.fps=4; set data.fps=8, or"),
    "long clip": ("data.frames=200", "no video has room for a training clip of 200 frames: take"),
    "short clip": ("data.frames=2", "a clip needs at least 4 frames"),
    "span": ("data.train_span=0.5,0.2", "must be fractions 0 <= start < end <= 1"),
    "vocabulary": (
        "model.decoder.vocab_size=100",
        "tokens, model.decoder.vocab_size=100; make the model's at least as large",
    ),
    "template": ("data.template=chatty", "data.template='chatty': known are phi3"),
    "tokenizer": ("data.tokenizer=nowhere", "nowhere/tokenizer.json is not there; give a Hugging"),
    "no shards": ("data.shards=", "data.shards names no folder; set it to what `tgvlm shard`"),
    "mesh over batch": ("mesh.fsdp=4", "=2 does not divide by mesh axis dcn x fsdp=4"),
    "mesh over frames": ("mesh.tp=3", "data.frames=8 does not divide by mesh axis tp=3"),
    "mesh over devices": ("mesh.fsdp=16", "does not fit the 8 devices there are: set mesh.fsdp="),
}


@pytest.mark.parametrize(("setting", "message"), SETTINGS.values(), ids=SETTINGS)
def test_bad_setting(fails, tmp_path, setting, message):
    assert message in fails(f"{TRAIN} --config.{setting}")
    assert not (tmp_path / "new").exists()


CONFIGS = {
    "missing": (None, "no config file '"),
    "raises": ("def get_config():\n    return 1 / 0\n", "c.py:2: ZeroDivisionError: division"),
    "no function": ("x = 1\n", "c.py: defines no get_config(arg); see the files in configs/"),
    "no python": ("def get_config(:\n", "c.py:1: invalid syntax"),
    "wrong key": (
        f"import runpy\n"
        f"def get_config():\n"
        f"    config = runpy.run_path({small_config.__file__!r})['get_config']()\n"
        f"    config.optim.lrr = 1.0\n"
        f"    return config\n",
        "c.py:4: no config key 'lrr'; did you mean 'lr'?",
    ),
    "other keys": (
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'optim': {'lr': 'fast'}})\n",
        "config key 'optim.lr' wants float, got 'fast' (str)",
    ),
}


@pytest.mark.parametrize(("text", "message"), CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("words", ["train --config {c} --workdir {new}", "inspect --config {c}"])
def test_bad_config_file(fails, tmp_path, words, text, message):
    path = tmp_path / "c.py"
    if text is not None:
        path.write_text(text)
    assert message in fails(words, c=path)
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------------- words

WORDS = {
    "verb": ("trian --workdir x", "unknown verb 'trian'; did you mean 'train'?"),
    "flag": ("train {config} --workdri x", "unknown flag --workdri; did you mean '--workdir'?"),
    "no flag": ("train {config}", "--workdir is missing (see tgvlm train --help)"),
    "no value": (
        "eval --checkpoint",
        "Missing value for flag --checkpoint (see tgvlm eval",
    ),
    "no question": (ASK, "QUESTION is missing (see tgvlm ask --help)"),
    "two questions": (f"{ASK} When? Where?", "unexpected word 'Where?' (see tgvlm ask --help)"),
    "empty question": (f"{ASK} ' '", "the question is empty; ask such as"),
    "no number": (f"{ASK} When? --start=early", "flag --start=early: could not convert string"),
    "reversed": (f"{ASK} When? --start 5 --end 3", "runs from 0 to 10.0 s; --start 5 --end 3"),
    "past the end": (f"{ASK} When? --start 11", "runs from 0 to 10.0 s; --start 11"),
    "nothing": ("inspect", "say what to inspect: --config FILE, --shards DIR, --annotations"),
    "verify what": ("inspect {config} --verify", "--verify is about shards; name them"),
    "no quality": (f"{SHARD} --quality 101", "flag --quality=101: 101 is not an integer in"),
    "no fps": (f"{SHARD} --fps 0", "cannot shard at 0.0 fps"),
    "no seeds": ("demo --seeds 0 --workdir {new}", "flag --seeds=0: 0 is not a positive integer"),
}


@pytest.mark.parametrize(("words", "message"), WORDS.values(), ids=WORDS)
def test_bad_words(fails, tmp_path, words, message):
    assert message in fails(words)
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------- checkpoints


def other(change):
    def damage(run):
        path = run / "experiment.json"
        raw = json.loads(path.read_text())
        change(raw)
        path.write_text(json.dumps(raw))

    return damage


def empty(run):
    shutil.rmtree(run)
    run.mkdir()


def foreign(run):
    empty(run)
    (run / "model.safetensors").write_bytes(b"12345678")


def no_run(run):
    shutil.rmtree(run)


def written(text):
    return lambda run: (run / "experiment.json").write_bytes(text)


def no_checkpoints(run):
    shutil.rmtree(run / "checkpoints")


def no_steps(run):
    no_checkpoints(run)
    (run / "checkpoints").mkdir()


def newest(run):
    return max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))


def cut_arrays(run):
    """Every file that holds numbers loses its second half."""
    for path in (newest(run) / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_arrays(run):
    for path in (newest(run) / "state").rglob("d/*"):
        path.unlink()


def half_metadata(run):
    path = newest(run) / "state" / "_METADATA"
    path.write_bytes(path.read_bytes()[:100])


def no_state(run):
    shutil.rmtree(newest(run) / "state")


def flipped_arrays(run):
    for path in (newest(run) / "state").rglob("d/*"):
        raw = np.frombuffer(path.read_bytes(), np.uint8).copy()
        raw[len(raw) // 3 : len(raw) // 2] ^= 0xFF
        path.write_bytes(raw.tobytes())


RUNS = {
    "missing": (no_run, "no such folder"),
    "empty": (empty, "no checkpoint of ours there (no experiment.json); give the --workdir of"),
    "foreign": (foreign, "no checkpoint of ours there (no experiment.json); give the --workdir of"),
    "half a config": (written(b'{"name": "sm'), "experiment.json: damaged, or of another version"),
    "no config": (written(b""), "experiment.json: damaged, or of another version"),
    "a list": (written(b"[1]"), "experiment.json: damaged, or of another version (it holds no"),
    "binary": (written(b"\xff\x00\x9d"), "experiment.json: damaged, or of another version"),
    "newer": (other(lambda raw: raw.update(z=1)), "version (unknown config key 'z'"),
    "wrong type": (other(lambda raw: raw["optim"].update(lr="1")), "'optim.lr' wants float"),
    "nothing saved": (no_checkpoints, "no checkpoint yet; train for some steps first"),
    "no steps": (no_steps, "no checkpoint yet; train for some steps first"),
    "other model": (
        other(lambda raw: raw["model"]["decoder"].update(hidden=32)), "checkpoints/60: "
    ),
    "arrays cut": (cut_arrays, "checkpoints/60: "),
    "arrays gone": (no_arrays, "checkpoints/60: "),
    "arrays flipped": (flipped_arrays, "checkpoints/60: "),
    "metadata cut": (half_metadata, "checkpoints/60: "),
    "state gone": (no_state, "checkpoints/60: "),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("words", [EVAL, f"{ASK} {QUESTION}"], ids=["eval", "ask"])
def test_bad_run(world, fails, tmp_path, words, damage, message):
    copy = world.copy(tmp_path).run
    damage(copy)
    line = fails(words, run=copy)
    assert line.startswith(str(copy))
    assert message in line
    left = tmp_path / "new"
    assert not left.exists() or list(left.iterdir()) == []


@pytest.mark.parametrize("damage", [cut_arrays, half_metadata, no_state])
def test_training_does_not_go_on_from_a_damaged_checkpoint(world, fails, tmp_path, damage):
    copy = world.copy(tmp_path).run
    damage(copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    line = fails("train {config} --workdir {run}", run=copy)
    assert line.startswith(f"{copy / 'checkpoints' / '60'}: ")
    assert "delete this folder, then the checkpoint before it counts" in line
    del before[copy / "experiment.json"]  # the same again
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_the_checkpoint_before_a_damaged_one(world, tgvlm, tmp_path):
    """What the line advises works: the run goes on from step 30 to the same end."""
    copy = world.copy(tmp_path).run
    shutil.rmtree(copy / "checkpoints" / "60")
    said = tgvlm("train", *world.config, "--workdir", copy)
    assert (said.status, said.err) == (0, "")
    assert f"{copy}: 30 steps; now: " in said.out
    losses = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (world.run, copy)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "train {config} --config.data.batch_size=4 --workdir {run}",
            "{run}: holds a run with data.batch_size=2, the config says 4; give another --workdir",
        ),
        (
            "train {config}:steps=61 --config.seed=1 --workdir {run}",
            "{run}: holds a run with seed=0, the config says 1 (and 1 more keys); give another",
        ),
        (
            EVAL + " {config} --config.model.decoder.layers=3",
            "{run}: holds a run with model.decoder.layers=2, the config says 3; give another",
        ),
        (
            EVAL + " {config} --config.data.fps=4",
            "{shards}: has 8 frames a second, but data.fps=4; set data.fps=8, or shard again",
        ),
        (
            EVAL + " {config} --config.data.frames=30",
            "no video has room for an evaluation clip of 30 frames: take fewer (data.frames)",
        ),
    ],
)
def test_other_config(world, fails, words, message):
    words = words.replace("{config}:steps=61", "{config} --config.train.steps=61")
    assert fails(words).startswith(message.format(run=world.run, shards=world.shards))


def test_a_loss_that_is_no_number(fails):
    line = fails(f"{TRAIN} --config.optim.lr=1e30 --config.optim.clip=0")
    assert re.match(r"step \d+: loss (nan|inf), ", line)
    assert "lower optim.lr" in line
