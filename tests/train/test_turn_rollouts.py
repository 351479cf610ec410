"""Several turns end to end on a small model: what was said and shown is what is trained on."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.models import parameters
from tgvlm_jax.objectives import grpo, ppo
from tgvlm_jax.rewards.videomtr import BootstrapState
from tgvlm_jax.schema import (
    CreditConfig,
    CriticConfig,
    ImitateConfig,
    LoraConfig,
    PolicyConfig,
    PpoConfig,
    SamplingConfig,
    TurnsConfig,
)
from tgvlm_jax.train import loop, turn_rollouts
from tgvlm_jax.train.demonstrations import Demonstrations
from tgvlm_jax.train.metrics import read_metrics
from tgvlm_jax.train.state import TrainState
from tgvlm_jax.train.turn_rollouts import TurnRollouts
from tgvlm_jax.types import InputError

LENGTH, GROUP = 16, 2
PPO = PpoConfig(
    num_generations=GROUP,
    max_tokens=LENGTH,
    sampling=SamplingConfig(temperature=1.3),
    credit=CreditConfig(gamma=0.99, lam=0.9, turn_lam=0.8),
    policy=PolicyConfig(entropy=1e-3),
)
TURNS = TurnsConfig(first=3, each=6, turns=3, tokens=64, prompts="short")
LORA = (LoraConfig(pattern=r"decoder\.blocks\.(q|v)", rank=2, alpha=4.0),)


def change(experiment, **changes):
    return dataclasses.replace(experiment, **changes)


@pytest.fixture(scope="module")
def looks(experiment):
    """Marks hidden in a clip, a critic with adapters of its own."""
    data = change(experiment.data, frames=(12,), turns=TURNS, prompt_tokens=64)
    decoder = change(experiment.model.decoder, vocab_size=520)
    critic = CriticConfig(kind="adapters", lora=LORA)
    model = change(
        experiment.model, decoder=decoder, evidence=None, two_way_frames=False, critic=critic
    )
    return change(experiment, data=data, model=model, objective=PPO)


def moved(experiment):
    """Initial parameters with noise, so that adapters and heads do something."""
    params = parameters.init(experiment.model, jax.random.key(0))
    rng = np.random.default_rng(0)
    return {
        name: x + 0.1 * jax.device_put(rng.standard_normal(x.shape, np.float32))
        for name, x in sorted(params.items())
    }


def roll(experiment, params, *, script=None, bootstrap=None, monkeypatch=None):
    """One rollout; with a script, what the policy says is put into its mouth."""
    chat, blueprint = (
        open_chat(experiment.data, experiment.model),
        parameters.blueprint(experiment.model),
    )
    made = TurnRollouts(experiment, blueprint=blueprint, chat=chat, mesh=None)
    made.bootstrap = bootstrap or BootstrapState()
    if script is not None:

        def recite(params, prompt, reply, *, end_id, sampling, key, samples, **settings):
            lines = [[made.talks.prompts.ids(line) for line in lines] for lines in script]
            return turn_rollouts.turns.recite(params, lines, reply, **settings)

        monkeypatch.setattr(turn_rollouts.turns, "converse", recite)
    state = TrainState(step=jnp.int32(0), params=params, opt_state=(), key=jax.random.key(3))
    data = loop.batches(experiment, chat)
    try:
        return made, made(state, next(data))
    finally:
        data.close()


def test_a_training_pass_gives_the_log_probabilities_and_values_of_the_rollout(looks):
    params = moved(looks)
    _, rolled = roll(looks, params)
    batch = rolled.batch

    @jax.jit
    def again(params, batch):
        blueprint = parameters.blueprint(looks.model)
        model, text = blueprint.build(params), jax.tree.map(grpo.flat, batch.text)
        final = model.follow(model.prefill(batch.prompt), text).final
        temperature = looks.objective.sampling.temperature
        found = ppo.written(model, final, text.tokens, temperature=temperature)
        return found, ppo.values(blueprint.build_critic(params), batch.prompt, text)

    found, values = (grpo.grouped(x, GROUP) for x in again(params, batch))
    own = np.asarray(batch.own)
    assert own.any(axis=2).all()
    np.testing.assert_allclose(found[own], np.asarray(batch.log_probs)[own], atol=1e-4)
    np.testing.assert_allclose(values[own], np.asarray(batch.old_values)[own], atol=1e-4)
    assert np.all(np.asarray(batch.credit.advantages)[~own] == 0)
    assert rolled.metrics["turns"] == 3  # random weights never answer
    assert rolled.metrics["invalid"] == 1


GOOD = "<think></think><retrieve>{},{}</retrieve>"
SAY = "<think></think><answer>{}</answer>"


def test_only_a_right_answer_keeps_what_was_earned_before_it(looks, monkeypatch):
    """Four conversations about two questions: right, wrong, right at once, and garbage at the end.

    A long wrong one must not beat a short right one, nor one that stops after a good look.
    """
    chat = open_chat(looks.data, looks.model)
    data = loop.batches(looks, chat)
    first, second = next(data).samples
    data.close()

    def where(sample):
        inside = np.flatnonzero(
            (sample.seconds >= sample.spans[0, 0]) & (sample.seconds <= sample.spans[0, 1])
        )
        return GOOD.format(inside[0], inside[-1])

    wrong = "ABCD"[("ABCD".index(first.answer) + 1) % 4]
    script = [
        [where(first), SAY.format(first.answer)],
        [where(first), SAY.format(wrong)],
        [SAY.format(second.answer)],
        [where(second), "garbage", "<answer>A</answer>"],
    ]
    one = change(
        looks, objective=change(PPO, baseline="group"), model=change(looks.model, critic=None)
    )
    _, rolled = roll(
        one,
        moved(one),
        script=script,
        bootstrap=BootstrapState(over=True),
        monkeypatch=monkeypatch,
    )
    got = [told.rewards for told in rolled.told]
    np.testing.assert_allclose(got, [(1.7, 0.1), (1.1, 0.0)], atol=1e-6)
    metrics = rolled.metrics
    assert metrics["accuracy"] == 0.5
    assert metrics["answered"] == 0.75
    assert metrics["looks"] == 3 / 8
    assert metrics["right_looks"] == 3 / 8
    assert metrics["evidence"] == 0.5
    assert metrics["invalid"] == 2 / 8
    gained = np.asarray(rolled.batch.credit.advantages)
    own = np.asarray(rolled.batch.own)
    for row, sign in zip(np.ndindex(2, 2), (1, -1, 1, -1), strict=True):
        assert np.all(np.sign(gained[row][own[row]]) == sign)
    told = rolled.told[0].turns[0]
    assert told[0].frames == (0, 5, 11)
    assert told[1].text == SAY.format(first.answer)
    assert "frame" in told[0].terms
    assert "answer" in told[1].terms


def test_the_bootstrap_pays_looks_until_they_are_common(looks, monkeypatch):
    script = [[GOOD.format(1, 2)] * 3] * 4
    made, rolled = roll(looks, moved(looks), script=script, monkeypatch=monkeypatch)
    assert rolled.metrics["reward_bootstrap"] == 0  # all turns look
    assert made.get_state() == {"above": 1, "over": False}
    script = [[SAY.format("A")]] * 3 + [[GOOD.format(1, 2), SAY.format("A")]]
    made, rolled = roll(looks, moved(looks), script=script, monkeypatch=monkeypatch)
    assert rolled.metrics["reward_bootstrap"] == pytest.approx(0.5 / 4)


@pytest.mark.parametrize("kind", ["adapters", pytest.param("copy", marks=pytest.mark.slow)])
def test_a_run_resumes_to_the_bit_and_compiles_once(looks, kind, tmp_path):
    """Four steps in one go; then again from the checkpoint in the middle."""
    critic = CriticConfig(kind=kind, lora=LORA if kind == "adapters" else ())
    steps = change(looks.train, steps=4, checkpoint_every=2, log_every=2)
    whole = change(looks, train=steps, model=change(looks.model, critic=critic))
    straight, parts = tmp_path / "whole", tmp_path / "parts"
    params = jax.device_get(loop.train(whole, straight).params)
    shutil.copytree(straight, parts)
    shutil.rmtree(parts / "checkpoints" / "4")
    resumed = loop.train(whole, parts)
    assert resumed.ran == 2
    for name, value in params.items():
        np.testing.assert_array_equal(value, resumed.params[name], err_msg=name)
    records = read_metrics(straight / "metrics.jsonl")
    assert {"reward", "value", "entropy", "right_looks", "retrieval_rate"} <= set(records[0])
    assert len({one["compiles"] for one in records[1:]}) == 1
    line = read_metrics(straight / "rollouts.jsonl")[0]
    assert len(line["answers"][0]["turns"]) == 3
    assert sorted(map(int, line["pictures"])) == [0, 5, 11]


def test_a_copied_critic_begins_as_the_policy(looks):
    model = change(looks.model, critic=CriticConfig())
    params = parameters.init(model, jax.random.key(0))
    blueprint = parameters.blueprint(model)
    assert params.keys() == blueprint.shapes.keys()
    own = [name for name in params if name.startswith("critic.") and name != "critic.value"]
    assert len(own) == len(params) // 2
    for name in own:
        np.testing.assert_array_equal(params[name], params[name.removeprefix("critic.")])
    loaded = {name: x + 1 for name, x in params.items() if not name.startswith("critic.")}
    begun = parameters.copied(params | loaded, loaded)
    np.testing.assert_array_equal(begun["critic.decoder.norm.scale"], loaded["decoder.norm.scale"])


def test_demonstrations_look_and_answer(looks):
    one = change(
        looks,
        objective=ImitateConfig(right=1.0, max_tokens=LENGTH),
        model=change(looks.model, critic=None),
    )
    chat = open_chat(one.data, one.model)
    made = Demonstrations(one, blueprint=parameters.blueprint(one.model), chat=chat, mesh=None)
    data = loop.batches(one, chat)
    state = TrainState(step=jnp.int32(0), params=moved(one), opt_state=(), key=jax.random.key(3))
    rolled = made(state, next(data))
    data.close()
    assert rolled.metrics["accuracy"] == 1
    assert rolled.metrics["right_looks"] == 0.5
    text, own = rolled.batch.text, np.asarray(rolled.batch.own)
    said = chat.decode(np.asarray(text.tokens)[0, 0][own[0, 0]][:-1].tolist())
    assert said.startswith("<think></think><retrieve>")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": change(PPO, updates=3)}, "updates=3 x train.accumulate=1 does not divide"),
        ({"objective": change(PPO, baseline="group")}, "model.critic must be there"),
        ({"objective": change(PPO, reference="copy", kl_reward=0.1)}, "needs train.init_from"),
        ({"data": {"turns": None}}, "wants data.turns"),
        ({"model": {"two_way_frames": True}}, "two_way_frames=False"),
        ({"data": {"frames": (4,)}}, "hide nothing"),
    ],
)
def test_experiments_that_do_not_fit(looks, changes, message, tmp_path):
    for name, value in changes.items():
        if isinstance(value, dict):
            value = change(getattr(looks, name), **value)
        looks = change(looks, **{name: value})
    with pytest.raises(InputError, match=message):
        loop.train(looks, tmp_path / "x")
    assert not (tmp_path / "x").exists()
