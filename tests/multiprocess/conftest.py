"""Real processes of `tgvlm train` that are one run, with gloo between them."""

import dataclasses
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from tests.multiprocess import small
from tgvlm_jax.config import freeze
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.schema import Experiment

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PATIENCE = 1000  # seconds, for a machine that is busy with other things


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bikes")
    film = ROOT / "tests" / "assets" / "bikes.mp4"
    write_shards([film], folder, fps=8, height=24, width=32, workers=1)
    return folder


def experiment(shards, *, arg=None, devices=8, mesh=None, **train):
    """What the processes run, for this one; `mesh` has other axes than fsdp."""
    config = small.get_config(arg)
    config.data.shards = str(shards)
    config.mesh.update(mesh or {"fsdp": devices})
    for name, value in train.items():
        config.train[name] = value
    return freeze(config, Experiment)


@dataclasses.dataclass(frozen=True)
class Host:
    """One process; its output goes to a file."""

    process: subprocess.Popen
    log: pathlib.Path

    def ends(self):
        """Its exit status, and the last line that it said."""
        status = self.process.wait(PATIENCE)
        return status, (self.log.read_text().splitlines() or [""])[-1]


@pytest.fixture
def launch(shards, tmp_path):
    """Starts the hosts of a run, `devices` in all; `each` has more words for each host."""
    started = []

    def launch(workdir, *words, arg="", hosts=2, devices=8, each=(), program=("-m", "tgvlm_jax")):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        flags = os.environ["XLA_FLAGS"].replace(
            "device_count=8", f"device_count={devices // hosts}"
        )
        config = f"{ROOT}/tests/multiprocess/small.py{arg and ':' + arg}"
        found = []
        for number in range(hosts):
            log = tmp_path / f"{workdir.name}.{len(started) + number}.log"
            where = [f"--coordinator=127.0.0.1:{port}", f"--processes={hosts}"]
            command = ["train", f"--config={config}", f"--config.data.shards={shards}"]
            command += [f"--workdir={workdir}", *where, f"--process_id={number}", *words]
            command += each[number] if each else []
            with log.open("w") as file:
                process = subprocess.Popen(
                    [sys.executable, *program, *command],
                    cwd=ROOT,
                    env=os.environ | {"XLA_FLAGS": flags, "PYTHONUNBUFFERED": "1"},
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            found.append(Host(process, log))
        started.extend(found)
        return found

    yield launch
    for host in started:
        if host.process.poll() is None:
            host.process.kill()
            host.process.wait()
