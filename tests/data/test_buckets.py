"""Shards and videos in a bucket: real clients, a small imitation of Google's service."""

import importlib.util
import pickle
import sys

import numpy as np
import pytest

from tests.data import bad_videos, clips, fake_gcs
from tests.data.test_shard_tasks import finished, spooled, states
from tests.data.test_shards import content
from tgvlm_jax.cli import inspect as inspect_verb
from tgvlm_jax.cli import shard as shard_verb
from tgvlm_jax.data import storage
from tgvlm_jax.data.decode_pool import Decoder
from tgvlm_jax.data.manifest import ShardError
from tgvlm_jax.data.shard_tasks import Plan
from tgvlm_jax.data.shard_writer import checked_settings, write_shards
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.types import InputError

needs_gcsfs = pytest.mark.skipif(
    importlib.util.find_spec("gcsfs") is None, reason="needs the extra gcs: gcsfs"
)
SETTINGS = {"fps": 2.0, "height": 34, "width": 60}
LIMIT = 8000


@pytest.fixture(scope="module")
def service():
    """Buckets that both clients find by their environment, which they read once."""
    with fake_gcs.serving() as service, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", service.url)  # gcsfs
        patch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", service.url)  # ArrayRecord
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks by gRPC what a bucket is
        yield service


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A folder of three clips and a broken video."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "a").mkdir()
    clips.cut(folder / "a", 2)
    clips.cut(folder, 1)[0].rename(folder / "one.mp4")
    bad_videos.zero_byte(folder)
    return folder


@pytest.fixture(scope="module")
def local(films, tmp_path_factory):
    """What this machine makes of them."""
    out = tmp_path_factory.mktemp("local") / "out"
    found = shard_verb.find_videos(films)
    write_shards(found, out, **SETTINGS, shard_bytes=LIMIT, progress=False)
    return out


@pytest.fixture
def bucket(service, films):
    """The service, with nothing but the films in it."""
    service.objects.clear()
    for path in films.rglob("*.mp4"):
        service.put(f"bucket/films/{path.relative_to(films)}", path.read_bytes())
    return service


@pytest.fixture
def stored(bucket, local):
    """The service, with the shards in it too."""
    for name, stored in content(local).items():
        bucket.put(f"bucket/shards/{name}", stored)
    bucket.requests.clear()
    return bucket


def objects(service):
    """What is in the bucket beside the films."""
    return {
        key.removeprefix("bucket/shards/"): data
        for key, data in service.objects.items()
        if not key.startswith("bucket/films/")
    }


def moved(local, films):
    """What is in a local folder, as if the films had lain in the bucket."""
    found, ours = content(local), str(films).encode()
    return found | {"manifest.json": found["manifest.json"].replace(ours, b"gs://bucket/films")}


def shard(videos="gs://bucket/films", out="gs://bucket/shards", **changes):
    settings = SETTINGS | {"quality": 90, "shard_bytes": LIMIT, "workers": 1} | changes
    shard_verb.run(storage.at(videos), storage.at(out), **settings)


@needs_gcsfs
def test_from_bucket_to_bucket(bucket, local, films, capsys):
    shard()
    assert "zero: gs://bucket/films/zero.mp4: is empty" in capsys.readouterr().out
    assert objects(bucket) == moved(local, films)
    bucket.requests.clear()
    shard()
    assert objects(bucket) == moved(local, films)
    assert [ask for ask in bucket.requests if ask.startswith("POST") and "frames" in ask] == []


@needs_gcsfs
def test_steps_in_a_bucket(bucket, local, films):
    """The steps that Beam takes: stopped, gone on with, and cleaned up after."""
    settings = checked_settings(**SETTINGS, quality=90)
    plan = Plan(out="gs://bucket/shards", settings=settings, shard_bytes=LIMIT, timeout_s=60.0)
    videos, decoder = shard_verb.find_videos(storage.at("gs://bucket/films")), Decoder()
    assert list(videos) == ["a/clip000", "a/clip001", "one", "zero"]
    try:
        spooled(plan, videos, decoder, only={"a/clip001"})
        outcomes = spooled(plan, videos | {"gone": storage.at("gs://bucket/gone.mp4")}, decoder)
    finally:
        decoder.kill()
    assert states(outcomes) == ["decoded", "found", "decoded", "skipped", "skipped"]
    assert outcomes["gone"].reason.startswith("gs://bucket/gone.mp4: is not there")
    del outcomes["gone"]
    finished(plan, outcomes)
    assert objects(bucket) == moved(local, films)


@needs_gcsfs
def test_reading_takes_few_requests(stored, local):
    here, there = open_shards(local), open_shards("gs://bucket/shards")
    assert len(stored.requests) == 2  # the listing and the manifest
    assert there.manifest == here.manifest
    for key in here.video_ids:
        count = len(here.seconds(key))
        np.testing.assert_array_equal(there.frames(key, 0, count), here.frames(key, 0, count))
    assert there.frames("one", 1, 1).shape[0] == 0
    again = pickle.loads(pickle.dumps(there))
    assert again.jpegs("one", 0, 2) == here.jpegs("one", 0, 2)
    stored.requests.clear()
    there.jpegs("a/clip001", 1, 4)
    assert len(stored.requests) == 1


@needs_gcsfs
def test_damage_in_a_bucket_is_said(stored, capsys):
    place = "gs://bucket/shards"
    inspect_verb._shards(place, verify=True)
    said = capsys.readouterr().out
    assert said.startswith("gs://bucket/shards: 3 videos")
    assert "all content hashes agree" in said
    name = "bucket/shards/frames-00000.arrayrecord"
    whole = stored.objects[name]
    stored.put(name, whole[:-1] + b"?")
    with pytest.raises(ShardError, match=r"gs://bucket/shards/frames-00000\S+: has another"):
        open_shards(place, verify="hash")
    opened = open_shards(place)
    del stored.objects[name]
    with pytest.raises(ShardError, match=r"cannot be opened \(.*check the network"):
        opened.frames("a/clip000", 0, 1)
    with pytest.raises(ShardError, match=r"frames-00000\S+: is missing"):
        open_shards(place)
    with pytest.raises(ShardError, match="gs://bucket/other: no frame shards there"):
        open_shards("gs://bucket/other")


@needs_gcsfs
def test_one_video_or_none(bucket, capsys):
    shard(videos="gs://bucket/films/one.mp4", out="gs://bucket/single")
    assert capsys.readouterr().out.startswith("gs://bucket/single: 1 video, ")
    with pytest.raises(InputError, match=r"gs://bucket/none\S*: is not there"):
        shard(videos="gs://bucket/none.mp4")


@needs_gcsfs
@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="see test_beam_shards")
@pytest.mark.filterwarnings("default")
def test_beam_in_a_bucket(bucket, local, films):
    shard(runner="direct", workers=2)
    assert objects(bucket) == moved(local, films)


def test_other_schemes_and_a_missing_extra(monkeypatch):
    with pytest.raises(InputError, match=r"s3://bucket/shards: only gs:// and local paths"):
        open_shards("s3://bucket/shards")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'tgvlm_jax\[gcs\]'"):
        open_shards("gs://bucket/shards")
