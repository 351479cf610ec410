"""Updates that are no number or out of proportion: what devices leave out, what the run does."""

import contextlib
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny import EXPERIMENT, RAGGED, batch
from tests.train.test_loop import logged, sigterm_at
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.data.pipeline import BatchMaker
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import MeshConfig, OptimConfig, SftConfig, TrainConfig
from tgvlm_jax.train import guard, loop, optim, state
from tgvlm_jax.train.checkpoint import Checkpoints
from tgvlm_jax.train.guard import Guard
from tgvlm_jax.train.metrics import read_metrics
from tgvlm_jax.train.step import make_step
from tgvlm_jax.types import InputError

# ------------------------------------------------------------------------------ on the devices


def test_the_median_is_of_the_last_updates_that_counted():
    config = TrainConfig(spike_window=3)
    window = guard.empty(config)
    norms, ratios = [4.0, 2.0, 0.0, 8.0, 100.0, 1.0, 1.0], []
    for norm in norms:
        norm, loss = jnp.float32(norm), jnp.float32(1)
        found = guard.ratio(window, norm, loss=None)
        ratios.append(float(found))
        window = guard.seen(window, norm, loss=loss, counts=found < 10)
    # 4 2 8 are the first three; 0 moved nothing, 100 did not count.
    assert ratios == [0, 0, 0, 0, 25.0, 0.25, 0.5]
    assert sorted(np.asarray(window.norms)) == [1, 1, 8]
    assert window.count == 5
    assert guard.ratio(window, jnp.float32(1), loss=jnp.float32(7)) == 7


def start(experiment):
    blueprint = parameters.blueprint(experiment.model)
    shapes = jax.eval_shape(lambda: parameters.init(experiment.model, jax.random.key(0)))
    tx = optim.build(experiment.optim, shapes, matrices=blueprint.matrices, steps=20)
    current = jax.jit(lambda: state.create(experiment, tx))()
    return current, make_step(blueprint, tx, experiment)


def test_a_spike_and_a_nan_change_nothing_and_what_follows_does():
    """Learned answers, then others in their place: the loss jumps."""
    experiment = dataclasses.replace(
        EXPERIMENT,
        optim=OptimConfig(lr=1e-2, warmup_steps=0),
        train=TrainConfig(on_spike="skip", spike_window=4, spike_factor=2.5),
    )
    current, step = start(experiment)
    good = batch(RAGGED)
    worse = dataclasses.replace(good.response, tokens=31 - good.response.tokens)
    spans = jnp.full_like(good.response.spans, jnp.nan)
    spike = dataclasses.replace(good, response=worse)
    nan = dataclasses.replace(good, response=dataclasses.replace(good.response, spans=spans))
    for _ in range(12):
        current, metrics = step(current, good)
        assert metrics["skipped_updates"] == 0
    for bad, spikes in ((spike, 1), (nan, 0)):
        before = jax.device_get((current.params, current.opt_state, current.window))
        current, metrics = step(current, bad)
        assert (metrics["skipped_updates"], metrics["spikes"]) == (1, spikes)
        assert (metrics["spike_ratio"] > 2.5) == bool(spikes)
        assert np.isfinite(metrics["grad_norm"]) == bool(spikes)
        after = jax.device_get((current.params, current.opt_state, current.window))
        jax.tree.map(np.testing.assert_array_equal, after, before)
    current, metrics = step(current, good)
    assert metrics["skipped_updates"] == 0
    assert current.step == 15
    name = "decoder.norm.scale"
    assert np.any(np.asarray(current.params[name]) != before[0][name])


def test_a_mesh_judges_the_same():
    with mesh_lib.use(mesh_lib.make(MeshConfig(fsdp=4, tp=2))):
        window = jax.jit(lambda: guard.empty(TrainConfig(spike_window=2)))()
        for norm in (1.0, 3.0):
            norm = mesh_lib.shard(jnp.float32(norm))
            window = guard.seen(window, norm, loss=norm, counts=norm > 0)
        assert guard.ratio(window, mesh_lib.shard(jnp.float32(6)), loss=None) == 2
        assert window.norms.sharding.is_fully_replicated


# ------------------------------------------------------------------------------ on the host


def record(number, *, skipped=1.0, spikes=0.0):
    """A step as the devices report it."""
    loss = math.nan if skipped > spikes else 2.0
    figures = {"step": number, "loss": loss, "grad_norm": 40.0, "spike_ratio": 20.0}
    return figures | {"skipped_updates": skipped, "spikes": spikes}


def test_skips_in_a_row_stop_a_run():
    judge = Guard(TrainConfig(skips=3))
    for number in (1, 2, 4, 5):
        assert not judge.judge(record(number))
        if number == 2:
            assert not judge.judge(record(3, skipped=0.0))
    says = (
        r"^step 6: loss nan, gradient norm 40, and by train.on_nan='skip' none of the last 3 steps"
    )
    with pytest.raises(InputError, match=says):
        judge.judge(record(6))


def test_a_step_of_which_some_updates_were_applied_is_none_in_a_row():
    judge = Guard(TrainConfig(skips=2), updates=4)
    assert not any(judge.judge(record(number, skipped=3.0)) for number in range(9))


def test_only_so_many_rewinds_and_a_resumed_run_counts_on():
    judge = Guard(TrainConfig(on_nan="rewind", rewinds=2))
    assert judge.judge(record(1))
    again = Guard(judge.config)
    again.set_state(judge.get_state())
    assert not again.judge(record(2, skipped=0.0))
    assert again.judge(record(3))
    with pytest.raises(InputError, match=r"step 4: loss nan.*after train.rewinds=2 rewinds"):
        again.judge(record(4))


def test_a_spike_has_its_own_policy():
    judge = Guard(TrainConfig(on_nan="skip", on_spike="stop"))
    assert not judge.judge(record(1))
    says = r"step 2: loss 2, gradient norm 40, 20 times the median of .*train.spike_factor"
    with pytest.raises(InputError, match=says):
        judge.judge(record(2, spikes=1.0))


@pytest.mark.parametrize("change", [{"spike_factor": 1.0}, {"skips": 0}, {"rewinds": 0}])
def test_settings_that_make_no_sense(change):
    with pytest.raises(InputError, match=next(iter(change))):
        TrainConfig(**change)


# ------------------------------------------------------------------------------ a whole run


def no_numbers(response):
    spans = np.full_like(response.spans, np.nan)
    mask = np.ones_like(response.evidence_mask)
    return dataclasses.replace(response, spans=spans, evidence_mask=mask)


def one_token(response):
    """Less to take the mean of: a larger gradient."""
    first = np.cumsum(response.mask, axis=1) == 1
    return dataclasses.replace(response, mask=response.mask & first)


@contextlib.contextmanager
def spoilt(*numbers, how=no_numbers):
    """Answers of batches `numbers` (the first is 1) are changed."""
    real = BatchMaker.__call__

    def make(self, step):
        made = real(self, step)
        if step + 1 not in numbers:
            return made
        return dataclasses.replace(made, response=how(made.response))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchMaker, "__call__", make)
        yield


def small(experiment, **train):
    """Of one frame bucket."""
    data = dataclasses.replace(experiment.data, frames=(4,))
    config = dataclasses.replace(experiment.train, **train)
    return dataclasses.replace(experiment, data=data, train=config)


def start_state(experiment):
    shapes = jax.eval_shape(lambda: parameters.init(experiment.model, jax.random.key(0)))
    matrices = parameters.blueprint(experiment.model).matrices
    tx = optim.build(experiment.optim, shapes, matrices=matrices, steps=8)
    return lambda: state.create(experiment, tx)


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_step_that_is_no_number_is_skipped_and_named(experiment, tmp_path, capsys):
    config = small(experiment)
    with spoilt(3):
        trained = loop.train(config, tmp_path)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [one["step"] for one in records if one["skipped_updates"]] == [3]
    assert [one["step"] for one in records if not math.isfinite(one["loss"])] == [3]
    assert "not applied: step 3: loss nan" in capsys.readouterr().out
    assert all(np.isfinite(x).all() for x in jax.device_get(trained.params).values())
    assert len({one["compiles"] for one in records[1:]}) == 1


@pytest.mark.parametrize(
    ("number", "applied"),
    [(6, 6), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [(1, 7), (5, 7), (8, 4)])],
)
def test_a_rewound_run_forgets_what_led_to_it(number, applied, experiment, tmp_path, capsys):
    """To the parameters of step 4, or of none, with the data that follows; nothing compiles.

    A good step is lost with step 6, three are with the last, whose state must be saved, too.
    """
    config = small(experiment, on_nan="rewind")
    with spoilt(number):
        trained = loop.train(config, tmp_path)
    back = 4 if number > 4 else 0
    says = f"step {number}: back to the parameters of step {back}, on with the data after it"
    assert says in capsys.readouterr().out
    assert [one["step"] for one in logged(tmp_path)] == list(range(1, 9))
    counts = [one["compiles"] for one in read_metrics(tmp_path / "metrics.jsonl")]
    assert counts[-1] == counts[1] or number < 3
    with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as store:
        found, kept = store.restore(8, jax.eval_shape(start_state(config)), mesh=None)
    assert (int(found.step), kept["next_index"]) == (8, 8)
    assert kept["guard"] == {"skipped_in_a_row": 0, "rewinds": 1}
    assert next(x for x in jax.tree.leaves(found.opt_state) if x.ndim == 0) == applied
    assert_same(jax.device_get(found.params), jax.device_get(trained.params))


@pytest.mark.slow
def test_where_nothing_was_learned_in_between_a_rewind_is_a_skip(experiment, tmp_path):
    with spoilt(5):
        rewound = loop.train(small(experiment, on_nan="rewind"), tmp_path / "rewound")
        skipped = loop.train(small(experiment), tmp_path / "skipped")
    assert_same(jax.device_get(rewound.params), jax.device_get(skipped.params))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["skip", "rewind"])
def test_a_resumed_run_decides_the_same(experiment, tmp_path, policy):
    """SIGTERM after step 5, between a window that fills and the spikes that it tells."""
    config = small(experiment, on_spike=policy, spike_factor=1.05, spike_window=3, rewinds=9)
    config = dataclasses.replace(config, objective=SftConfig(grounding=0.0, consistency=0.0))
    with spoilt(6, 7, how=one_token):
        whole = loop.train(config, tmp_path / "whole")
        lines = read_metrics(tmp_path / "whole" / "metrics.jsonl")
        ratios = [one["spike_ratio"] for one in lines]
        assert any(one["spikes"] for one in lines if one["step"] > 5), ratios
        with sigterm_at(5), contextlib.suppress(loop.Preempted):
            loop.train(config, tmp_path / "run")
        rest = loop.train(config, tmp_path / "run")
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")
    assert_same(jax.device_get(rest.params), jax.device_get(whole.params))


def test_a_run_of_before_has_an_empty_window(experiment, tmp_path):
    """A checkpoint that has none, as older ones: the window fills anew."""
    make = start_state(experiment)
    old = dataclasses.replace(jax.jit(make)(), window=None)
    store = Checkpoints(tmp_path)
    store.save(2, old, data={"next_index": 2})
    store.close()
    store = Checkpoints(tmp_path, read_only=True)
    found, _ = store.restore(2, jax.eval_shape(make), mesh=None)
    store.close()
    assert found.window.count == 0
    assert found.window.norms.shape == (experiment.train.spike_window,)
    assert_same(jax.device_get(found.params), jax.device_get(old.params))
