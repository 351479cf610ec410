"""Every verb is run as a person runs it, by its words; one tiny trained model serves all tests."""

import contextlib
import dataclasses
import io
import pathlib
import shlex
import shutil

import pytest

from tests.cli import small_config
from tests.data.bad_videos import BIKES
from tgvlm_jax.cli import __main__ as cli


@dataclasses.dataclass(frozen=True, kw_only=True)
class Said:
    """What one command left behind: its exit status, its output and its complaints."""

    status: int
    out: str
    err: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """A sharded clip, a model trained on it, and what the two commands said."""

    shards: pathlib.Path
    run: pathlib.Path
    sharding: Said
    training: Said

    @property
    def config(self) -> list[str]:
        """The words that name the experiment of `run`."""
        return ["--config", small_config.__file__, f"--config.data.shards={self.shards}"]

    def copy(self, folder: pathlib.Path) -> "World":
        """The same in another place, to be damaged."""
        shards, run = folder / "shards", folder / "run"
        shutil.copytree(self.shards, shards)
        shutil.copytree(self.run, run)
        return dataclasses.replace(self, shards=shards, run=run)


@pytest.fixture
def tgvlm(capfd):
    """Runs a command; what C++ libraries print is part of what it said."""

    def run(*words: object) -> Said:
        capfd.readouterr()
        status = cli.main([str(word) for word in words])
        return Said(status=status, **capfd.readouterr()._asdict())

    return run


@pytest.fixture
def fails(world, tgvlm, tmp_path):
    """Runs words that must fail, and gives back the one line that says why.

    Words in braces are filled in: {film} a good video, {shards} and {run} good shards and a good
    run, {config} the experiment of that run, {new} a folder that is not there yet, and whatever
    else a test names.
    """

    def run(words: str, **places: object) -> str:
        names = {
            "film": BIKES,
            "shards": world.shards,
            "run": world.run,
            "config": shlex.join(world.config),
            "new": tmp_path / "new",
        }
        said = tgvlm(*shlex.split(words.format(**names | places)))
        assert said.status not in (0, None)
        assert said.err.startswith("tgvlm: error: ")
        assert said.err.count("\n") == 1, said.err
        return said.err.removeprefix("tgvlm: error: ").rstrip()

    return run


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """Read it, never change it."""
    folder = tmp_path_factory.mktemp("world")
    shards, run = folder / "shards", folder / "run"
    size = ["--fps", "8", "--height", "16", "--width", "16", "--workers", "1"]
    config = ["--config", small_config.__file__, f"--config.data.shards={shards}"]
    return World(
        shards=shards,
        run=run,
        sharding=_quietly("shard", "--videos", str(BIKES), "--out", str(shards), *size),
        training=_quietly("train", *config, "--workdir", str(run)),
    )


def _quietly(*words: str) -> Said:
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        status = cli.main(words)
    return Said(status=status, out=out.getvalue(), err=err.getvalue())
