"""Reinforcement learning end to end on a small model: what is sampled is what is trained on."""

import collections
import dataclasses
import gzip
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.processes import run_alone
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.models import parameters
from tgvlm_jax.objectives import grpo
from tgvlm_jax.rewards import functions
from tgvlm_jax.schema import GrpoConfig, LoraConfig, PolicyConfig, SamplingConfig
from tgvlm_jax.train import loop
from tgvlm_jax.train.metrics import read_metrics
from tgvlm_jax.train.rollouts import Rollouts
from tgvlm_jax.train.state import TrainState
from tgvlm_jax.train.step import make_step
from tgvlm_jax.types import InputError

GROUP, LENGTH = 4, 6
GRPO = GrpoConfig(
    reward="grounding",
    num_generations=GROUP,
    max_tokens=LENGTH,
    sampling=SamplingConfig(temperature=1.5),
    spans=1.0,
    rollout_size=1,
)
NO_LIMIT = PolicyConfig(log_ratio_limit=0.0, dual_clip=0.0)
LORA = (LoraConfig(pattern=r"decoder\.blocks\.(q|v)", rank=2, alpha=4.0, dropout=0.5),)


def change(experiment, **changes):
    return dataclasses.replace(experiment, **changes)


@pytest.fixture(scope="module")
def learns(experiment):
    """Factorised, with adapters, from random weights of which none is zero."""
    model = change(experiment.model, lora=LORA)
    return change(experiment, model=model, objective=GRPO)


@pytest.fixture(scope="module")
def talks(experiment):
    """Text alone, about the pretext tasks."""
    data = change(experiment.data, tasks=("counting",), frames=(8,), prompt_bucket=128)
    model = change(experiment.model, evidence=None)
    objective = change(GRPO, reward="videossr", spans=0.0, rollout_size=0)
    return change(experiment, model=model, data=data, objective=objective)


def moved(experiment):
    """Initial parameters with noise, so that adapters and heads do something."""
    params = parameters.init(experiment.model, jax.random.key(0))
    rng = np.random.default_rng(0)
    return {
        name: x + 0.1 * jax.device_put(rng.standard_normal(x.shape, np.float32))
        for name, x in sorted(params.items())
    }


def roll(experiment, params=None, *, reward=None, copy=None):
    chat = open_chat(experiment.data)
    blueprint = parameters.blueprint(experiment.model)
    rollouts = Rollouts(experiment, blueprint=blueprint, chat=chat, mesh=None, copy=copy)
    rollouts.reward = reward or rollouts.reward
    params = moved(experiment) if params is None else params
    state = TrainState(step=jnp.int32(0), params=params, opt_state=(), key=jax.random.key(3))
    data = loop.batches(experiment, chat)
    try:
        return params, rollouts(state, next(data))
    finally:
        data.close()
        rollouts.close()


@pytest.mark.parametrize("name", ["learns", "talks"])
def test_a_training_pass_gives_the_log_probabilities_of_the_sampler(name, request):
    experiment = request.getfixturevalue(name)
    params, rolled = roll(experiment)
    batch = rolled.batch

    @jax.jit
    def again(params, batch):
        model = parameters.blueprint(experiment.model).build(params)
        response = jax.tree.map(grpo.flat, batch.response)
        predicted = model.extend(model.prefill(batch.prompt), response)
        found = grpo.answer_log_probs(model, predicted, response, config=experiment.objective)
        scores = predicted.scores
        drawn = None if batch.drawn is None else grpo.flat(batch.drawn.frames)
        spans = None if drawn is None else grpo.bernoulli_log_probs(scores, drawn)
        return found, spans

    found, spans = again(params, batch)
    mask = np.asarray(batch.response.mask)
    assert mask.any(axis=2).all()
    np.testing.assert_allclose(
        grpo.grouped(found, GROUP)[mask], np.asarray(batch.log_probs)[mask], atol=1e-4
    )
    if spans is not None:
        there = np.asarray(batch.drawn.mask)
        np.testing.assert_allclose(
            grpo.grouped(spans, GROUP)[there], np.asarray(batch.drawn.log_probs)[there], atol=1e-4
        )


def test_the_reference_is_a_copy_or_the_model_without_adapters(learns):
    """A copy of the policy itself says what the policy says; without adapters it says less."""
    policy, params = PolicyConfig(kl=0.1), moved(learns)
    start = change(learns.train, init_from="somewhere")
    copy = change(learns, train=start, objective=change(GRPO, policy=policy, reference="copy"))
    same = roll(copy, params, copy=params)[1].batch
    mask = np.asarray(same.response.mask)
    np.testing.assert_allclose(same.ref_log_probs[mask], same.log_probs[mask], atol=1e-4)
    plain = change(learns, objective=change(GRPO, policy=policy, reference="base"))
    other = roll(plain, params)[1].batch
    np.testing.assert_array_equal(other.response.tokens, same.response.tokens)
    assert np.abs(other.ref_log_probs[mask] - same.ref_log_probs[mask]).max() > 1e-3
    silent = {name: x * (0 if "lora_b" in name else 1) for name, x in params.items()}
    bare = roll(copy, params, copy=silent)[1].batch
    np.testing.assert_allclose(bare.ref_log_probs[mask], other.ref_log_probs[mask], atol=1e-5)


def test_advantages_compare_the_answers_to_one_prompt(talks):
    _, rolled = roll(talks, reward=lambda text, spans, sample: float(len(text)))
    rewards = np.asarray([one.rewards for one in rolled.told])
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    wanted = centred / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(rolled.batch.advantages[..., 0], wanted, atol=1e-4)
    assert np.ptp(rolled.batch.advantages, axis=2).max() == 0  # the same for all tokens
    assert [one.sample.kind for one in rolled.told] == ["counting/easy"] * 2
    assert rolled.metrics["reward"] == pytest.approx(rewards.mean())


def test_equal_rewards_teach_nothing_and_are_counted(talks):
    _, rolled = roll(talks, reward=lambda *_: 1 / 3)
    np.testing.assert_array_equal(rolled.batch.advantages, 0)
    assert rolled.metrics["equal_groups"] == 1.0
    assert rolled.metrics["reward_spread"] == pytest.approx(0, abs=1e-6)


def test_a_reward_that_fails_is_named_and_its_answer_left_out(talks):
    calls = []

    def fails(text, spans, sample):
        calls.append(text)
        if len(calls) % GROUP == 1:
            raise KeyError("no such shape")
        return float("inf") if len(calls) % GROUP == 2 else float(len(text))

    one = change(talks, objective=change(talks.objective, reward_threads=1))
    _, rolled = roll(one, reward=fails)
    assert rolled.metrics["failed_rewards"] == 0.5
    assert len(rolled.failures) == 4
    assert rolled.failures[0].startswith("counting/easy, bikes")
    assert "KeyError: 'no such shape'" in rolled.failures[0]
    assert "the reward is inf" in rolled.failures[1]
    np.testing.assert_array_equal(rolled.batch.response.mask[:, :2], False)
    np.testing.assert_array_equal(rolled.batch.advantages[:, :2], 0)
    assert np.all(np.isfinite(rolled.batch.advantages))


def test_parameters_that_are_no_numbers_stop_the_run(talks):
    broken = {name: x * np.float32("nan") for name, x in moved(talks).items()}
    with pytest.raises(InputError, match="parameters are no longer numbers"):
        roll(talks, broken)


def test_a_run_resumes_to_the_bit_and_compiles_once(learns, tmp_path, monkeypatch):
    """Six steps in one go, two of them traced; then again from the checkpoint in the middle."""
    monkeypatch.setitem(functions.FUNCTIONS, "grounding", odd)
    steps = change(learns.train, steps=6, checkpoint_every=3, log_every=2)
    whole = change(learns, train=steps, data=change(learns.data, frames=(6,)))
    straight, parts = tmp_path / "whole", tmp_path / "parts"
    run_alone(train_oddly, change(whole, profile="3:5"), straight)
    params = jax.device_get(loop.train(whole, straight).params)  # that are there
    shutil.copytree(straight, parts)
    shutil.rmtree(parts / "checkpoints" / "6")
    resumed = loop.train(whole, parts)
    assert resumed.ran == 3
    for name, value in params.items():
        np.testing.assert_array_equal(value, resumed.params[name], err_msg=name)

    assert traced(straight) == {
        "input": 2,
        "rollout": 2,
        "reward": 2,
        "checkpoint": 1,
        "3": 1,
        "4": 1,
    }
    records = read_metrics(straight / "metrics.jsonl")
    assert {"reward", "clip_fraction", "answer_tokens", "spans"} <= set(records[0])
    assert len({one["compiles"] for one in records}) == 1
    assert all(one["reward_spread"] > 0 and one["grad_norm"] > 0 for one in records)
    for one in records:
        assert one["flops_per_second"] > 0
        spent = [one[name] for name in one if name.startswith("seconds_")]
        assert sum(spent) == pytest.approx(one["step_time"])
    # Not of every step: on a busy machine the end of the update before may be seen that late.
    assert sum(one.get("seconds_rollout", 0.0) for one in records) > 0
    assert sum(one.get("seconds_reward", 0.0) for one in records) > 0
    groups = read_metrics(parts / "rollouts.jsonl")
    assert [one["step"] for one in groups] == [1, 2, 4, 6]
    assert len(groups[0]["answers"]) == GROUP


def train_oddly(experiment, workdir):
    functions.FUNCTIONS["grounding"] = odd
    loop.train(experiment, workdir)


def traced(workdir):
    """How often each phase, and each step by its number, stands in the profile of a run."""
    (file,) = workdir.glob("profile/plugins/profile/*/*.trace.json.gz")
    (whole,) = workdir.glob("profile/plugins/profile/*/*.xplane.pb")
    assert whole.stat().st_size > 0
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    names = ("input", "rollout", "reward", "checkpoint")
    found = collections.Counter(one["name"] for one in events if one.get("name") in names)
    steps = [one["args"]["step_num"] for one in events if one.get("name") == "train"]
    assert any(one.get("name") == "step" for one in events)
    return found + collections.Counter(steps)


def odd(text, spans, sample):
    """A reward that tells random answers apart."""
    return sum(map(ord, text)) % 7 / 7


def test_an_update_that_is_not_finite_is_skipped_and_counted(talks):
    """Half of the batch has log-probabilities that blow the ratio up; each half is an update."""
    two = change(talks, objective=change(talks.objective, updates=2, policy=NO_LIMIT))
    params, rolled = roll(two, reward=lambda text, *_: float(len(text)))
    spoilt = np.asarray(rolled.batch.log_probs).copy()
    spoilt[1] = -1e4  # of the second prompt
    batch = change(rolled.batch, log_probs=spoilt)
    tx = optax.sgd(1e-2)
    start = TrainState(
        step=jnp.int32(0), params=params, opt_state=tx.init(params), key=jax.random.key(0)
    )
    kept = jax.device_get(params)
    new, metrics = make_step(parameters.blueprint(two.model), tx, two)(start, batch)
    assert metrics["skipped_updates"] == 1
    assert new.step == 2
    assert all(np.isfinite(x).all() for x in jax.device_get(new.params).values())
    assert any(np.any(new.params[name] != kept[name]) for name in kept)


@pytest.mark.slow
def test_a_rewound_run_goes_on_with_other_answers(learns, tmp_path, monkeypatch, capsys):
    """Step 3 of two updates is no number; its checkpoint is that of step 2, so nothing is lost.

    The answers of later steps, which were sampled before it was known, are sampled again.
    """
    monkeypatch.setitem(functions.FUNCTIONS, "grounding", odd)
    real = Rollouts.__call__

    def spoilt(self, state, questions):
        rolled = real(self, state, questions)
        if int(state.step) != 4:
            return rolled
        nothing = rolled.batch.advantages * jnp.float32("nan")
        return change(rolled, batch=change(rolled.batch, advantages=nothing))

    monkeypatch.setattr(Rollouts, "__call__", spoilt)
    whole = change(
        learns,
        data=change(learns.data, frames=(6,)),
        objective=change(learns.objective, updates=2),
    )
    found = {}
    for policy in ("rewind", "skip"):
        run = change(learns.train, steps=6, checkpoint_every=2, log_every=1, on_nan=policy)
        found[policy] = loop.train(change(whole, train=run), tmp_path / policy).params
    assert "step 3: back to the parameters of step 2, on with" in capsys.readouterr().out
    for name, value in jax.device_get(found["skip"]).items():
        np.testing.assert_array_equal(found["rewind"][name], value, err_msg=name)
    rewound, skipped = (
        [(one["step"], one["skipped_updates"], one["reward"]) for one in records]
        for records in (read_metrics(tmp_path / policy / "metrics.jsonl") for policy in found)
    )
    assert rewound == skipped
    assert [(step, count) for step, count, _ in rewound if count] == [(3, 2)]
    assert [step for step, _, _ in rewound] == [1, 2, 3, 4, 5, 6]
    one, other = ((tmp_path / policy / "rollouts.jsonl").read_text() for policy in found)
    assert one == other
    assert len(one.splitlines()) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout_size": 3}, "rollout_size=3 does not divide"),
        ({"updates": 3}, "updates=3 x train.accumulate=1 does not divide"),
        ({"reference": "copy"}, "needs train.init_from"),
        ({"reference": "base"}, "needs adapters"),
        ({"spans": 1.0}, "no evidence heads"),
    ],
)
def test_objectives_that_do_not_fit(talks, changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        loop.train(change(talks, objective=change(talks.objective, **changes)), tmp_path / "x")
    assert not (tmp_path / "x").exists()
