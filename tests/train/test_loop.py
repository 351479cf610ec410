"""The training run as a whole: what it logs, saves and compiles, and how it stops and goes on."""

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import os
import shutil
import signal
import threading

import jax
import numpy as np
import pytest

from tgvlm_jax.data.chat import load_chat
from tgvlm_jax.data.pipeline import Batches
from tgvlm_jax.models import parameters
from tgvlm_jax.objectives import fpo as preferred
from tgvlm_jax.schema import FpoConfig, MeshConfig, OptimConfig, PerturbationConfig
from tgvlm_jax.train import loop
from tgvlm_jax.train.checkpoint import Checkpoints
from tgvlm_jax.train.metrics import read_metrics
from tgvlm_jax.types import InputError

NUMBERS = ("step", "loss", "language", "grounding", "consistency", "grad_norm")


def logged(workdir):
    """What a run computed, without its timing."""
    records = read_metrics(workdir / "metrics.jsonl")
    return [{name: record[name] for name in NUMBERS} for record in records]


def assert_same_run(params, workdir, whole):
    """Bit for bit: every logged loss and every parameter."""
    assert logged(workdir) == logged(whole.workdir)
    assert params.keys() == whole.params.keys()
    for name, value in whole.params.items():
        np.testing.assert_array_equal(params[name], value, err_msg=name)


@dataclasses.dataclass(frozen=True)
class Run:
    workdir: object
    params: dict
    ran: int
    compiled: list


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    """An uninterrupted run, and the names of what XLA compiled meanwhile, as jax logs them."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    names = []
    listener = logging.Handler()
    listener.emit = lambda record: names.append(record.getMessage())
    logger = logging.getLogger("jax._src.interpreters.pxla")
    logger.addHandler(listener)
    with jax.log_compiles():
        trained = loop.train(experiment, workdir)
    logger.removeHandler(listener)
    return Run(
        workdir=workdir,
        params={name: np.asarray(value) for name, value in trained.params.items()},
        ran=trained.ran,
        compiled=[name for name in names if name.startswith("Compiling")],
    )


def buckets(experiment):
    """The shapes of each step's batch: frames, prompt, response."""
    chat = load_chat(experiment.data.tokenizer, experiment.data.template)
    with contextlib.closing(loop.batches(experiment, chat)) as data:
        made = [next(data) for _ in range(experiment.train.steps)]
    return [tuple(x.shape for x in jax.tree.leaves(batch)) for batch in made]


def test_every_step_is_logged_and_the_last_is_saved(whole, experiment):
    records = read_metrics(whole.workdir / "metrics.jsonl")
    assert whole.ran == 8
    assert [record["step"] for record in records] == list(range(1, 9))
    assert all(math.isfinite(record[name]) for record in records for name in NUMBERS)
    assert records[-1]["loss"] < records[0]["loss"]
    for record in records:
        spent = [record[name] for name in record if name.startswith("seconds_")]
        assert len(spent) == 4  # input, step, checkpoint, other
        assert sum(spent) == pytest.approx(record["step_time"])
        assert 0 <= record["input_wait"] <= 1
        assert record["flops_per_second"] > 0
    store = Checkpoints(whole.workdir, read_only=True)
    assert store.steps() == [4, 8]
    params = store.restore_params(experiment.model, mesh=None)
    store.close()
    for name, value in whole.params.items():
        np.testing.assert_array_equal(params[name], value, err_msg=name)


def test_nothing_compiles_after_the_first_step_of_a_bucket(whole, experiment):
    sizes = buckets(experiment)
    first, second = sorted(set(sizes))
    assert sizes[:2] == [first, second]
    assert min(sizes.count(first), sizes.count(second)) >= 3  # else this shows little
    records = read_metrics(whole.workdir / "metrics.jsonl")
    counts = [0, *(record["compiles"] for record in records)]
    for number, size in enumerate(sizes):
        new = size not in sizes[:number]
        grew = counts[number + 1] > counts[number]
        assert grew == new, f"step {number + 1} of {size}"
    assert sum("jit(step)" in name for name in whole.compiled) == 2, whole.compiled


def test_a_finished_run_has_nothing_left_to_do(whole, experiment):
    again = loop.train(experiment, whole.workdir)
    assert again.ran == 0
    assert_same_run(again.params, whole.workdir, whole)


@contextlib.contextmanager
def sigterm_at(number):
    """SIGTERM comes to this process while batch `number` is made."""
    real, count = Batches.__next__, itertools.count(1)

    def send_and_go_on(batches):
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batches, "__next__", send_and_go_on)
        yield


def test_sigterm_saves_and_the_same_run_goes_on(whole, experiment, tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    says = "stopped at step 1 of 8; start again"
    with sigterm_at(1), pytest.raises(loop.Preempted, match=says):
        loop.train(experiment, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert len(logged(tmp_path)) == 1  # though lines are written every third step
    rest = loop.train(experiment, tmp_path)
    assert rest.ran == 7
    assert_same_run(rest.params, tmp_path, whole)


@pytest.mark.slow
def test_a_run_may_move_to_other_devices(whole, experiment, tmp_path):
    """Half on one device, half on four: the losses agree to rounding."""
    workdir = shutil.copytree(whole.workdir, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "8")
    moved = dataclasses.replace(experiment, mesh=MeshConfig(fsdp=2, tp=2))
    assert loop.train(moved, workdir).ran == 4
    for mine, theirs in zip(logged(workdir), logged(whole.workdir), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)


def test_a_loss_that_is_no_number_stops_the_run(experiment, tmp_path):
    """Nothing of it is logged or saved, threads and files are closed, and the advice works."""
    data = dataclasses.replace(experiment.data, frames=(4,))
    optim = OptimConfig(lr=1e30, clip=0.0, warmup_steps=2)
    train = dataclasses.replace(experiment.train, on_nan="stop")
    wild = dataclasses.replace(experiment, data=data, optim=optim, train=train)
    threads = set(threading.enumerate())
    with pytest.raises(InputError, match=r"^step \d: loss (nan|inf).* lower optim.lr"):
        loop.train(wild, tmp_path)
    assert set(threading.enumerate()) <= threads
    assert all(math.isfinite(record["loss"]) for record in logged(tmp_path))
    store = Checkpoints(tmp_path, read_only=True)
    assert store.steps() == []
    store.close()


def test_what_is_wrong_is_said_before_anything_is_written(experiment, shards, tmp_path):
    decoder = dataclasses.replace(experiment.model.decoder, vocab_size=100)
    small = dataclasses.replace(experiment.model, decoder=decoder)
    wrong = {
        "data.tokenizer has .* model.decoder.vocab_size=100": {"model": small},
        "mesh .* does not fit": {"mesh": MeshConfig(fsdp=3, tp=3)},
        "data.batch_size .* does not divide": {"mesh": MeshConfig(fsdp=4)},
    }
    for says, change in wrong.items():
        with pytest.raises(InputError, match=says):
            loop.train(dataclasses.replace(experiment, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def margin(experiment, params):
    """Of the first batch, in log-probability."""
    chat = load_chat(experiment.data.tokenizer, experiment.data.template)
    with contextlib.closing(loop.batches(experiment, chat)) as data:
        batch = next(data)
    model = parameters.blueprint(experiment.model).build(jax.device_put(params))
    found = jax.jit(lambda batch: preferred.sums(model, batch, config=experiment.objective))(batch)
    return float(found["margin"])


def annotated(experiment, path, **change):
    """The experiment on annotated videos, one of which is not there."""
    records = [
        {
            "task": "tvg",
            "video": f"{'gone' if number == 3 else 'bikes'}.mp4",
            "duration": 10.0,
            "tgt": [number, number + 2],
            "conversations": [
                {"from": "human", "value": f"<image>\nWhen does bike {number} pass?"},
                {"from": "gpt", "value": "<evi></evi> It passes in <evi>."},
            ],
        }
        for number in range(6)
    ]
    path.write_text(json.dumps(records))
    data = dataclasses.replace(experiment.data, annotations=str(path), **change)
    train = dataclasses.replace(experiment.train, steps=4, checkpoint_every=2)
    return dataclasses.replace(experiment, data=data, train=train)


@pytest.mark.slow
def test_annotated_videos_go_on_where_they_stopped(experiment, tmp_path):
    changed = annotated(experiment, tmp_path / "evi.json")
    trained = loop.train(changed, tmp_path / "whole")
    assert (trained.ran, trained.skipped) == (4, 1)
    (skipped,) = map(json.loads, (tmp_path / "whole" / "skipped.jsonl").read_text().splitlines())
    assert skipped["where"] == "evi.json, record 3"
    with sigterm_at(2), pytest.raises(loop.Preempted):
        loop.train(changed, tmp_path / "run")
    assert loop.train(changed, tmp_path / "run").ran == 2
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")


@pytest.mark.slow
def test_preferences_are_learned_from_a_finished_run(whole, experiment, tmp_path):
    """FPO goes on from SFT: its margin grows, it compiles once a bucket, and it resumes exactly."""
    objective = FpoConfig(beta=1.0, perturbation=PerturbationConfig(kinds=("shift",), moment=0.1))
    train = dataclasses.replace(experiment.train, init_from=str(whole.workdir))
    optim = OptimConfig(lr=1e-2, warmup_steps=1)
    fpo = dataclasses.replace(experiment, objective=objective, train=train, optim=optim)
    trained = loop.train(fpo, tmp_path / "whole")
    records = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert records[-1]["compiles"] == len(set(buckets(fpo)))
    assert margin(fpo, trained.params) > margin(fpo, whole.params)
    with sigterm_at(3), pytest.raises(loop.Preempted):
        loop.train(fpo, tmp_path / "again")
    rest = loop.train(fpo, tmp_path / "again")
    assert rest.ran == 5
    assert logged(tmp_path / "again") == logged(tmp_path / "whole")
