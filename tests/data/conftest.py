"""A small shard directory out of a real video, for all that makes samples."""

import pathlib

import pytest

from tests.data import bad_videos
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.data.shards import open_shards


@pytest.fixture(scope="session")
def film_folder(tmp_path_factory) -> pathlib.Path:
    """Two copies of ten seconds of film at 12.5 fps, and a video too short for any clip."""
    base = tmp_path_factory.mktemp("film")
    videos = {"one": bad_videos.BIKES, "dot": bad_videos.one_frame(base), "two": bad_videos.BIKES}
    settings = {"fps": 12.5, "height": 30, "width": 60, "progress": False}
    write_shards(videos, base / "shards", **settings)
    return base / "shards"


@pytest.fixture
def film(film_folder):
    return open_shards(film_folder)
