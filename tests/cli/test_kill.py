"""kill -9 at any moment: the same command again ends where an uninterrupted run ends, to the bit.

Every life of a run is a process of its own, forked from one that has imported everything.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import random
import re
import sys
import time

import numpy as np
import pytest

from tgvlm_jax.cli import __main__ as cli
from tgvlm_jax.train.checkpoint import Checkpoints, load_experiment
from tgvlm_jax.train.metrics import read_metrics

PATIENCE = 240.0  # seconds for whatever a life is waited for to do
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    ["tgvlm_jax.cli.train", "tgvlm_jax.cli.session", "tgvlm_jax.train.loop"]
)


def live(words, log):
    """A life: `tgvlm WORDS`, in a process of its own."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout = os.fdopen(1, "w")
    raise SystemExit(cli.main(words))


@dataclasses.dataclass
class Killed:
    """A run that is killed again and again."""

    words: list[str]
    workdir: pathlib.Path
    deaths: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.log = self.workdir.with_suffix(".log")

    @contextlib.contextmanager
    def life(self, *more):
        process = FORK.Process(
            target=live,
            args=(["train", *self.words, *more, "--workdir", str(self.workdir)], self.log),
        )
        process.start()
        try:
            yield process
        finally:
            process.kill()
            process.join()

    def finish(self, *more):
        """A life that nobody ends."""
        with self.life(*more) as process:
            process.join(PATIENCE)
            assert process.exitcode == 0, self.log.read_text()[-2000:]

    def kill(self, moment, *more, after=0.0, count=1):
        """Ends a life some seconds after its start or its `count`-th "step" or "write".

        One that is through before counts as no death.
        """
        with self.life(*more) as process:
            seen: set[str] = set()
            began, old = time.time(), {*self.lines()}
            while len(seen) < count and moment != "start" and process.is_alive():
                assert time.time() < began + PATIENCE
                seen |= {*self.scratch(began)} if moment == "write" else {*self.lines()} - old
                time.sleep(0.002)
            time.sleep(after)
            process.kill()
            process.join()
            assert process.exitcode in (-9, 0), self.log.read_text()[-2000:]
        if process.exitcode:
            self.deaths.append("write" if self.scratch(began) else moment)

    def scratch(self, since=0.0):
        """Checkpoints that are being written, or were when somebody died."""
        found = []
        for path in self.workdir.glob("checkpoints/*tmp*"):
            with contextlib.suppress(OSError):
                found += [path.name] if path.stat().st_mtime >= since else []
        return found

    def lines(self):
        """What is logged."""
        path = self.workdir / "metrics.jsonl"
        return path.read_text().splitlines() if path.exists() else []


def params(workdir):
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as store:
        found = store.restore_params(load_experiment(workdir).model, mesh=None)
    return {name: np.asarray(value) for name, value in found.items()}


def assert_whole(workdir, wanted, *, steps):
    """Nothing lies about, every step is logged once, and its loss is that of the other run."""
    assert {path.name for path in workdir.iterdir()} == {
        "checkpoints", "experiment.json", "metrics.jsonl"
    }  # fmt: skip
    assert all(re.fullmatch(r"\d+", path.name) for path in (workdir / "checkpoints").iterdir())
    mine, theirs = (read_metrics(folder / "metrics.jsonl") for folder in (workdir, wanted))
    assert [one["step"] for one in mine] == list(range(1, steps + 1))
    for name in ("loss", "grad_norm"):
        assert [one[name] for one in mine] == [one[name] for one in theirs], name


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow
def test_killed_while_it_writes_and_while_it_steps(world, tmp_path):
    """Of the same experiment as the run that all tests share, with more checkpoints.

    The first dies as the scratch folder of its second checkpoint appears.
    """
    run = Killed([*world.config, "--config.train.checkpoint_every=10"], tmp_path / "run")
    run.kill("write", count=2)
    run.kill("step", after=0.05)
    assert run.deaths
    run.finish()
    assert_whole(run.workdir, world.run, steps=60)
    assert_same(params(run.workdir), params(world.run))


EIGHT = ["--config.data.batch_size=8", "--config.mesh.fsdp=8", "--config.train.log_every=2"]
FOUR = "--config.mesh.fsdp=4"


def words(world, *more, steps):
    often = [f"--config.train.steps={steps}", "--config.train.checkpoint_every=4"]
    return [*world.config, *EIGHT, *often, *more]


def at_random(run, rng, *more):
    """One kill: while it starts, restores, compiles or steps, or at some time of some write."""
    moment = rng.choice(["start", "step", "write"])
    longest = {"start": 8.0, "step": 1.0, "write": 0.3}[moment]
    run.kill(moment, *more, after=rng.uniform(0, longest), count=rng.randint(1, 3))


def seeded(number):
    return random.Random(int(os.environ.get("KILL_SEED", "0")) + number)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_kills_change_no_bit(world, tmp_path):
    """KILL_SEED=... sets the moments."""
    rng, config = seeded(0), words(world, steps=240)
    whole, run = Killed(config, tmp_path / "whole"), Killed(config, tmp_path / "run")
    whole.finish()
    for _ in range(20):
        at_random(run, rng)
    assert len(run.deaths) == 20
    run.finish()
    print({moment: run.deaths.count(moment) for moment in sorted(set(run.deaths))})
    assert run.deaths.count("write") >= 3
    assert_whole(run.workdir, whole.workdir, steps=240)
    assert_same(params(run.workdir), params(whole.workdir))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_kills_and_fewer_devices(world, tmp_path):
    """Three lives on eight devices, the others on four; at a rate at which nothing is chaotic."""
    rng, config = seeded(1), words(world, "--config.optim.lr=1e-3", steps=120)
    whole, run = Killed(config, tmp_path / "whole"), Killed(config, tmp_path / "run")
    whole.finish()
    for number in range(8):
        at_random(run, rng, *([FOUR] if number > 2 else []))
    with contextlib.closing(Checkpoints(run.workdir, read_only=True)) as store:
        assert store.latest() < 120
    run.finish(FOUR)
    found, wanted = params(run.workdir), params(whole.workdir)
    worst = {name: float(np.abs(found[name] - value).max()) for name, value in wanted.items()}
    # The softmax takes this one out: its gradient is rounding alone, which Adam makes steps of.
    rounding = worst.pop("tower.blocks.k.bias")
    print(f"{run.deaths}: parameters differ by {max(worst.values()):.2e}, {rounding:.2e} in k.bias")
    assert max(worst.values()) <= 1e-5
    logs = (read_metrics(folder / "metrics.jsonl") for folder in (run.workdir, whole.workdir))
    for mine, theirs in zip(*logs, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
