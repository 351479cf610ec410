"""Video-MTR: parsing, rewards, sampling, rollouts, turn-level advantages, PPO losses."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax.data import frame_pool, qwen_patches
from tgvlm_jax.evaluation.relative_accuracy import mean_relative_accuracy
from tgvlm_jax.objectives import advantages, critic, policy
from tgvlm_jax.rewards import videomtr
from tgvlm_jax.rollout import retrieval, turn_masks
from tgvlm_jax.schema import CreditConfig, PolicyConfig
from tgvlm_jax.types import InputError

RELEASED = videomtr.PRESETS["released"]


@pytest.fixture
def cases(suite):
    return lambda name: json.loads((suite / f"{name}.json").read_text())["cases"]


@pytest.fixture
def arrays(suite):
    def load(name):
        with np.load(suite / f"{name}.npz") as found:
            return {key: found[key] for key in found.files}

    return load


def test_actions(cases):
    for case in cases("parse"):
        given, wanted = case["inp"], case["out"]
        task = retrieval.Task(
            pool=given["max_frame_idx"] + 1,
            kind=given["problem_type"],
            options=tuple(given["options"]),
        )
        found = retrieval.parse(given["response"], task)
        assert found.kind == wanted["action_type"], case
        assert found.valid == wanted["action_valid"], case
        assert found.formatted == wanted["format_correct"], case
        # The original has no name for an answer in the wrong form, and often no message.
        error = "none" if found.error == "answer_error" else found.error
        assert error == wanted["error_type"], case
        assert bool(found.message) == (not found.valid), case
        assert found.think == wanted["think_content"], case
        assert found.content == wanted["action_content"], case
        assert found.text == wanted["llm_response"], case


def test_answers(cases):
    for case in cases("answer_reward"):
        given = case["inp"]
        found = videomtr.answer_reward(
            given["answer"],
            given["solution"],
            kind=given["question_type"],
            turn=given["step_id"],
            decay=RELEASED.turn_decay,
        )
        assert found == pytest.approx(case["out"], abs=1e-12), case


def test_frames_in_common(cases):
    for case in cases("frame_iou"):
        found = retrieval.frame_iou(case["inp"]["a"], case["inp"]["b"])
        assert found == pytest.approx(case["out"], abs=1e-12)


def test_shown_frames(cases):
    for case in cases("frame_sampling"):
        given, wanted = case["inp"], case["out"]
        first = retrieval.uniform(given["pool"], given["init_frames"]).tolist()
        assert first == wanted["init_idx"]
        ask = functools.partial(
            retrieval.interval, given["pool"], given["start"], given["end"], most=given["turn_cap"]
        )
        if wanted["retrieved_idx"] == "AssertionError":
            with pytest.raises(InputError):
                ask()
            continue
        assert ask().tolist() == wanted["retrieved_idx"], case
        assert sorted({*first, *ask().tolist()}) == wanted["seen"]


def test_candidate_pools(cases):
    for case in cases("pool_sampling"):
        given, wanted = case["inp"], case["out"]
        make = functools.partial(
            frame_pool.frame_pool, given["total_frames"], given["fps"], most=given["max_frames"]
        )
        if not isinstance(wanted, dict):
            with pytest.raises(InputError):
                make()
            continue
        pool = make()
        assert pool.frames.tolist() == wanted["idx"], case
        assert len(pool.frames) == wanted["n"]
        assert pool.fps == pytest.approx(wanted["sample_fps"], rel=1e-12)


def test_frame_sizes(cases):
    for case in cases("frame_resolution"):
        given, wanted = case["inp"], case["out"]
        found = qwen_patches.video_size(
            given["n_frames"],
            given["height"],
            given["width"],
            rule=frame_pool.size_rule(given["factor"]),
        )
        assert found == (wanted["height"], wanted["width"]), case


def episode(given):
    """The turns that scripted responses lead to, the one before them first."""
    sample, limits = given["sample"], given["cfg"]
    budget = retrieval.Budget(
        first=limits["init_sample_num"], each=limits["max_turn_frames"], turns=limits["max_turns"]
    )
    relevant = sample.get("relevant_sample_frames")
    task = retrieval.Task(
        pool=given["pool"],
        kind=sample["problem_type"],
        options=tuple(sample["options"]),
        relevant=None if relevant is None else frozenset(relevant),
    )
    turns = [retrieval.begin(task, budget)]
    for response in given["responses"]:
        turns.append(retrieval.step(task, budget, before=turns[-1], response=response))
    return turns


def outcome(turns, sample):
    """The episode as the rewards take it."""
    first, *later = turns

    def numbers(turn):
        return np.nan if turn.iou is None else turn.iou

    def answer(turn):
        if not turn.action.valid or turn.action.kind != "answer":
            return 0.0
        return videomtr.answer_reward(
            turn.action.content,
            sample["solution"],
            kind=sample["problem_type"],
            turn=turn.number,
            decay=RELEASED.turn_decay,
        )

    valid = [turn.action.kind if turn.action.valid else None for turn in later]
    return videomtr.Turns(
        taken=np.ones((1, len(later)), bool),
        retrieved=np.asarray([[kind == "retrieve" for kind in valid]]),
        answered=np.asarray([[kind == "answer" for kind in valid]]),
        iou=np.asarray([[numbers(turn) for turn in later]]),
        start_iou=np.asarray([numbers(first)]),
        answer=np.asarray([[answer(turn) for turn in later]]),
    )


def test_episodes(cases):
    for case in cases("env_rollouts"):
        given, wanted = case["inp"], case["out"]
        turns = episode(given)
        assert list(turns[0].frames) == wanted["initial"]["idx"]
        rewards = given["cfg"]["rewards"]
        # The frame terms are switched one by one in the original.
        terms = videomtr.turn_terms(
            outcome(turns, given["sample"]),
            videomtr.RewardRule(
                reference="last",
                margin=RELEASED.margin,
                drop=0.0,
                frame=rewards["frame_reward"] if rewards["add_step_frame_reward"] else 0.0,
                final=rewards["frame_reward"] if rewards["add_final_frame_reward"] else 0.0,
            ),
        )
        earned = sum(terms.values())[0]
        for turn, reward, one in zip(turns[1:], earned, wanted["steps"], strict=True):
            assert turn.action is not None
            assert turn.number == one["turn"]
            # The original leaves the limit to whoever calls it.
            assert turn.done == (one["done"] or turn.number >= given["cfg"]["max_turns"])
            assert turn.action.valid == one["action_valid"]
            assert turn.action.formatted == one["format_correct"]
            assert turn.action.kind == one["action_type"]
            assert list(turn.frames) == (one["obs"]["idx"] or [])
            assert sorted(turn.seen) == one["seen"]
            assert reward == pytest.approx(one["reward"], abs=1e-6), (case, one)
            if turn.iou is not None:
                assert turn.iou == pytest.approx(one["iou"][str(turn.number)], abs=1e-12)
            else:
                assert str(turn.number) not in one.get("iou", {})


def test_gate_and_bootstrap(cases):
    for number, case in enumerate(cases("batch_shaping")):
        rows = case["inp"]["turn_rewards"]
        longest = max(len(row) for row in rows)
        earned = np.asarray([row + [0.0] * (longest - len(row)) for row in rows], np.float32)
        taken = np.asarray([[i < len(row) for i in range(longest)] for row in rows])
        gated = videomtr.gate_by_last_positive(earned)
        # Rewards as they are: all of it an answer's, which the released rules do not look at.
        turns = videomtr.Turns(
            taken=taken,
            retrieved=np.zeros_like(taken),
            answered=np.ones_like(taken),
            iou=np.full(taken.shape, np.nan),
            start_iou=np.full(len(rows), np.nan),
            answer=earned,
        )
        rule = videomtr.RewardRule(
            format=0.0, gate="last_positive", bootstrap="trajectories", patience=0
        )
        shaped = videomtr.shape(turns, rule, state=videomtr.BootstrapState())
        wanted = case["out"]
        for row, length in enumerate(map(len, rows)):
            np.testing.assert_array_equal(
                gated[row, :length], np.float32(wanted["after_gate"][row])
            )
            np.testing.assert_allclose(
                shaped.total[row, :length],
                wanted["after_bonus"][row],
                atol=1e-6,
                err_msg=f"case {number}",
            )
        assert shaped.rate == pytest.approx(wanted["tool_ratio"], abs=1e-9)
        assert np.any(shaped.terms["bootstrap"]) <= wanted["bonus_applied"]


def test_relative_accuracy(cases):
    for case in cases("mean_relative_accuracy"):
        found = mean_relative_accuracy(case["inp"]["pred"], case["inp"]["target"])
        assert found == pytest.approx(case["out"], abs=1e-6), case


CREDIT = {"bilevel": "bilevel", "masked": "masked", "turnwise": "turn", "plain": "plain"}


@functools.partial(jax.jit, static_argnames="config")
def credit(rewards, values, mask, ends, config):
    return advantages.token_credit(rewards, values, mask=mask, ends=ends, config=config)


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("name", CREDIT)
def test_credit(arrays, name, whiten):
    recorded = arrays("advantages")
    suffix = "" if whiten else "_unwhitened"
    if f"{name}_adv{suffix}" not in recorded:
        pytest.skip("recorded whitened only")
    # The plain estimator does not know who wrote a token.
    own = recorded["attn_mask" if name == "plain" else "loss_mask"].astype(bool)
    ends = recorded["turn_end_mask"].astype(bool)
    for i in range(len(own)):
        gamma, lam, turn_gamma = (float(recorded[n][i]) for n in ("gamma", "lam", "turn_gamma"))
        config = CreditConfig(
            estimator=CREDIT[name],
            gamma=gamma,
            lam=lam,
            turn_gamma=turn_gamma,
            turn_lam=lam,
            whiten=whiten,
        )
        found = credit(recorded["rewards"][i], recorded["values"][i], own[i], ends[i], config)
        for mask, mine, theirs in (
            (own[i], found.advantages, f"{name}_adv{suffix}"),
            (np.asarray(found.asked), found.returns, f"{name}_ret"),
        ):
            np.testing.assert_allclose(
                np.asarray(mine)[mask], recorded[theirs][i][mask], rtol=1e-5, atol=1e-5
            )


def test_group_credit(arrays):
    recorded = arrays("advantages")
    own = recorded["loss_mask"].astype(bool)
    rewards, group = recorded["rewards"].sum(axis=-1), recorded["grpo_group"]
    estimate = functools.partial(advantages.group_advantages, config=advantages.PRESETS["verl"])
    found = np.asarray(jax.jit(jax.vmap(estimate))(rewards, group))[..., None] * own
    # Where a group's rewards are nearly equal, the recorded ones are the rounding of their sums.
    spread = np.zeros(rewards.shape)
    for row, ids in enumerate(group):
        for one in np.unique(ids):
            same = rewards[row, ids == one].astype(np.float64)
            spread[row, ids == one] = same.std(ddof=1) if len(same) > 1 else 1.0
    tolerance = 1e-5 + 1e-6 * np.abs(rewards).max() / (spread + 1e-6)
    assert np.all(np.abs(found - recorded["grpo_adv"]) <= tolerance[..., None])


def test_ppo_losses(arrays):
    recorded = arrays("ppo_losses")
    for i in range(len(recorded["clip"])):
        now, old, ref, gain, before, values, returns = (
            jnp.asarray(recorded[name][i])
            for name in (
                "logp",
                "old_logp",
                "ref_logp",
                "advantages",
                "values",
                "vpreds",
                "returns",
            )
        )
        mask = jnp.asarray(recorded["loss_mask"][i], bool)
        clip, value_clip = float(recorded["clip"][i]), float(recorded["value_clip"][i])
        config = PolicyConfig(clip_low=clip, clip_high=clip, dual_clip=0.0)
        found = losses(now, old, gain, mask, before, values, returns, config, value_clip)
        names = ("pg_loss", "pg_clipfrac", "ppo_kl", "vf_loss", "vf_clipfrac")
        wanted = [recorded[name][i] for name in names]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        for theirs, ours in (("k1", "k1"), ("abs", "abs"), ("mse", "k2"), ("low_var", "k3")):
            kl = policy.divergence(old, ref, config=PolicyConfig(kl_estimator=ours))
            np.testing.assert_allclose(kl, recorded[f"kl_{theirs}"][i], rtol=1e-5, atol=1e-5)


@functools.partial(jax.jit, static_argnames=("config", "value_clip"))
def losses(now, old, gain, mask, before, values, returns, config, value_clip):
    group = jnp.arange(len(now))
    made = policy.Sampled(
        old_log_probs=old,
        ref_log_probs=None,
        advantages=gain,
        mask=mask,
        scale=policy.row_scale(mask, group, config=config),
    )
    weight = policy.weights(mask, group, config=config)["policy"]
    metrics = policy.metrics(now, made, config=config)
    value = critic.value_terms(values, returns, old_values=before, mask=mask, clip=value_clip)
    means = {n: term.sum / term.weight for n, term in {**metrics, **value}.items()}
    loss = policy.sums(now, made, config=config)["policy"] / weight
    names = ("clip_fraction", "old_kl", "value", "value_clip_fraction")
    return jnp.stack([loss, *(means[name] for name in names)])


def test_masks_from_markers(arrays):
    recorded = arrays("loss_mask")
    found = turn_masks.from_markers(
        recorded["input_ids"],
        recorded["attention_mask"].astype(bool),
        begin=int(recorded["begin_id"]),
        end=int(recorded["end_id"]),
        pad=int(recorded["pad_id"]),
    )
    for mine, theirs in (
        (found.tokens, "out_ids"),
        (found.attended, "out_attn"),
        (found.own, "out_loss"),
        (found.ends, "out_end"),
    ):
        np.testing.assert_array_equal(mine, recorded[theirs], err_msg=theirs)
