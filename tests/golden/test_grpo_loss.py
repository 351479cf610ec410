"""Advantages, policy losses and their gradients of three RL libraries.

verl's and TRL's losses were recorded in float64 and are compared in it, so that ratios without a
bound do not overflow; Tunix's are float32. Advantages were recorded in float32.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tgvlm_jax.objectives import advantages, policy
from tgvlm_jax.objectives.policy import PRESETS
from tgvlm_jax.schema import PolicyConfig

VALUES, GRADIENTS, FLOAT32 = 1e-5, 1e-4, 1e-6
KL_ONLY = 1e9  # a weight that leaves nothing of the policy term


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """How one recorded loss is ours.

    Attributes:
        advantages: name of the recorded ones.
        per_step: TRL divides by the accumulation steps, where ours is exact without.
        global_tokens: the denominator is the recorded count of the global batch.
        micro: rows are cut into so many micro-batches and the losses averaged.
        factor: of our loss over the recorded one.
    """

    config: PolicyConfig
    advantages: str = "adv_verl"
    per_step: bool = False
    global_tokens: bool = False
    on_policy: bool = False
    micro: int = 1
    factor: float = 1.0


def verl():
    aggregations = {
        "token-mean": "token_mean",
        "seq-mean-token-sum": "sequence_sum",
        "seq-mean-token-mean": "sequence_mean",
        "seq-mean-token-sum-norm": "length_sum",
    }
    clips = {
        "clip02": {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0},
        "cliphigher": {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0},
        "tight": {"clip_low": 0.1, "clip_high": 0.3, "dual_clip": 1.5},
    }
    base = PRESETS["verl"]
    for clip, bounds in clips.items():
        for name, aggregation in aggregations.items():
            config = dataclasses.replace(base, **bounds, aggregation=aggregation, count_empty=True)
            yield f"verl/vanilla/{clip}/{name}", Case(config=config)
    yield "verl/gspo_paper", Case(config=PRESETS["gspo"])
    yield "verl/gspo_02", Case(config=PRESETS["verl_gspo"])
    yield "verl/geo_mean/clip02", Case(config=PRESETS["gmpo"])
    for kind in ("k1", "abs", "k2", "k3"):
        config = dataclasses.replace(base, kl=KL_ONLY, kl_estimator=kind)
        yield f"verl/kl/{kind}", Case(config=config, factor=KL_ONLY)
    videossr = PRESETS["videossr"]
    yield "verl/videossr/offpolicy", Case(config=videossr)
    yield "verl/videossr/onpolicy", Case(config=videossr, on_policy=True)
    yield "verl/videossr/onpolicy_2micro", Case(config=videossr, on_policy=True, micro=2)


def trl():
    options = {
        "b0": {},
        "b0.04__high0.28": {"kl": 0.04, "clip_high": 0.28},
        "b0__delta2": {"dual_clip": 2.0},
        "b0.04__biascorr": {"kl": 0.04, "kl_ratio": True},
        "b0.04__gspo_eps": {"kl": 0.04, "clip_low": 3e-4, "clip_high": 4e-4},
    }
    made = {
        "grpo": ("token/b0", "token/b0.04__high0.28", "sequence/b0", "token/b0__delta2",
                 "token/b0.04__biascorr", "sequence/b0.04__gspo_eps"),
        "bnpo": ("token/b0", "token/b0.04__high0.28", "sequence/b0"),
        "dr_grpo": ("token/b0", "token/b0.04__high0.28", "sequence/b0"),
        "dapo": ("token/b0", "token/b0.04__high0.28", "sequence/b0"),
        "luspo": ("sequence/b0",),
        "cispo": ("token/b0__high5",),
        "sapo": ("token/b0",),
        "vespo": ("token/b0",),
    }  # fmt: skip
    for kind, variants in made.items():
        for variant in variants:
            level, option = variant.split("/")
            # The presets of a kind are as published; here the clip range is TRL's default.
            clip = {} if kind == "cispo" else {"clip_high": 0.2}
            changes = {"ratio": level, **clip, **options.get(option, {})}
            if kind == "dr_grpo":
                changes["length"] = 6
            globally = kind in ("dapo", "cispo", "vespo")
            yield (
                f"trl/{kind}/{level}/{option.replace('__', '/')}",
                Case(
                    config=dataclasses.replace(PRESETS[kind], **changes),
                    advantages="adv_trl",
                    per_step=not globally,
                    global_tokens=globally,
                ),
            )


def tunix():
    vary = functools.partial(dataclasses.replace, PRESETS["tunix"])
    plain = {
        "sequence-mean-token-mean": {"aggregation": "sequence_mean"},
        "token-mean": {"aggregation": "token_mean"},
        "sequence-mean-token-scale": {"aggregation": "length_mean"},
        "seq-mean-token-sum": {"aggregation": "sequence_sum"},
        "sequence-mean-token-sum-norm": {"aggregation": "sequence_sum", "count_empty": True},
    }
    for name, changes in plain.items():
        yield f"tunix/grpo/{name}/b0", Case(config=vary(kl=0.0, **changes))
    yield "tunix/grpo/default/b0.04/k1", Case(config=PRESETS["tunix"])
    config = vary(aggregation="token_mean", kl_estimator="k3", clip_high=0.28, dual_clip=3.0)
    yield "tunix/grpo/token-mean/b0.04/k3/high0.28/c3", Case(config=config)
    yield "tunix/gspo-token/sequence-mean-token-mean/b0", Case(config=PRESETS["tunix_gspo"])


CASES = {**dict(verl()), **dict(trl()), **dict(tunix())}
METRICS = {"clipfrac": "clip_fraction", "clipfrac_lower": "dual_clip_fraction", "ppo_kl": "old_kl"}


def load(suite, name):
    with np.load(suite / f"{name}.npz") as arrays:
        return {key.replace("__", "/"): arrays[key] for key in arrays.files}


@pytest.fixture
def inputs(suite):
    found = load(suite, "inputs")
    rows = np.arange(found["mask"].shape[1])
    found["group"] = rows // found["n"][:, None]
    return found


def log_probs(logits, ids):
    return jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], axis=-1)[..., 0]


def sampled(case, now, old, ref, advantage, mask, group, config):
    return policy.Sampled(
        old_log_probs=jax.lax.stop_gradient(now) if case.on_policy else old,
        ref_log_probs=ref,
        advantages=jnp.broadcast_to(advantage[:, None], now.shape),
        mask=mask,
        scale=policy.row_scale(mask, group, config=config),
    )


def total(logits, one, case):
    """Our loss of one recorded batch."""
    config, count = case.config, case.micro
    now = log_probs(logits, one["ids"])
    parts = []
    for rows in np.split(np.arange(len(now)), count):
        mask, group = one["mask"][rows], one["group"][rows]
        made = sampled(
            case, now[rows], one["old"][rows], one["ref"][rows], one["advantage"][rows],
            mask, group, config,
        )  # fmt: skip
        weights = policy.weights(mask, group, config=config)
        sums = policy.sums(now[rows], made, config=config)
        coefficients = policy.coefficients(config)
        weight = dict.fromkeys(sums, one["tokens"]) if case.global_tokens else weights
        parts.append(
            sum(coefficients[n] * sums[n] / weight[n].astype(now.dtype) for n in sums) / case.factor
        )
    return sum(parts) / count


@functools.partial(jax.jit, static_argnames="case")
def losses(arrays, case):
    return jax.vmap(lambda one: jax.value_and_grad(total)(one["logits"], one, case))(arrays)


def arrays_of(inputs, case, dtype):
    ids = jnp.asarray(inputs["ids"], jnp.int32)
    real = {name: jnp.asarray(inputs[name], dtype) for name in ("logits",)}
    for name in ("old", "ref"):
        real[name] = log_probs(jnp.asarray(inputs[f"{name}_logits"], dtype), ids)
    return {
        **real,
        "ids": ids,
        "advantage": jnp.asarray(inputs[case.advantages], dtype),
        "tokens": jnp.asarray(inputs["num_items"], dtype),
        "mask": jnp.asarray(inputs["mask"], bool),
        "group": jnp.asarray(inputs["group"], jnp.int32),
    }


def test_nothing_recorded_is_left_out(suite):
    recorded = set(load(suite, "losses"))
    metrics = {f"verl/vanilla/{clip}/{name}" for clip in CLIPS for name in METRICS}
    assert recorded == set(CASES) | metrics
    assert set(load(suite, "grads")) <= set(CASES)


CLIPS = ("clip02", "cliphigher", "tight")


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients(suite, inputs, name):
    case = CASES[name]
    double = not name.startswith("tunix/")
    with jax.enable_x64(double):
        dtype = jnp.float64 if double else jnp.float32
        value, gradient = jax.tree.map(np.asarray, losses(arrays_of(inputs, case, dtype), case))
    if case.per_step:
        value = value / inputs["accum"]
        gradient = gradient / inputs["accum"][:, None, None, None]
    wanted = load(suite, "losses")[name]
    # verl divides an answer without tokens by zero; ours leaves it out.
    broken = np.isnan(wanted)
    assert not np.any(broken & np.all(inputs["mask"].any(axis=-1), axis=-1))
    assert np.all(np.isfinite(value))
    np.testing.assert_allclose(value[~broken], wanted[~broken], rtol=VALUES, atol=VALUES)
    recorded = load(suite, "grads").get(name)
    if recorded is not None:
        assert np.all(np.isfinite(gradient))
        known = np.isfinite(recorded)
        mine = gradient[: len(recorded)]
        np.testing.assert_allclose(mine[known], recorded[known], rtol=GRADIENTS, atol=GRADIENTS)


@pytest.mark.parametrize("clip", CLIPS)
def test_metrics(suite, inputs, clip):
    case = CASES[f"verl/vanilla/{clip}/token-mean"]

    def one(arrays):
        now = log_probs(arrays["logits"], arrays["ids"])
        made = sampled(
            case, now, arrays["old"], arrays["ref"], arrays["advantage"],
            arrays["mask"], arrays["group"], case.config,
        )  # fmt: skip
        return policy.metrics(now, made, config=case.config)

    with jax.enable_x64(True):
        found = jax.tree.map(
            np.asarray, jax.jit(jax.vmap(one))(arrays_of(inputs, case, jnp.float64))
        )
    recorded = load(suite, "losses")
    for theirs, ours in METRICS.items():
        mean = found[ours].sum / found[ours].weight
        wanted = recorded[f"verl/vanilla/{clip}/{theirs}"]
        np.testing.assert_allclose(mean, wanted, atol=VALUES, rtol=VALUES, err_msg=theirs)


def test_ratios_and_divergences(suite, inputs):
    """Of every token, in the precision that they were recorded in."""
    recorded = load(suite, "pertoken")
    mask = inputs["mask"].astype(bool)
    now, old, ref = (inputs[name] for name in ("logp", "old_logp", "ref_logp"))
    for kind in ("k1", "abs", "k2", "k3"):
        config = PolicyConfig(kl_estimator=kind)
        found = jax.vmap(lambda a, b, c=config: policy.divergence(a, b, config=c))(now, ref)
        np.testing.assert_allclose(
            found, recorded[f"verl_kl_{kind}"], rtol=VALUES, atol=VALUES, err_msg=kind
        )

    def ratio(config, dtype):
        """Out of the loss: with an advantage of -1 and no bound, a token's loss is its ratio."""
        config = dataclasses.replace(config, clip_low=1.0, clip_high=1e300, dual_clip=0.0)

        def one(now, old, mask):
            made = policy.Sampled(
                old_log_probs=old,
                ref_log_probs=None,
                advantages=-jnp.ones_like(now),
                mask=mask,
                scale=jnp.ones(1, now.dtype),
            )
            return policy.sums(now, made, config=config)["policy"]

        each = jax.vmap(jax.vmap(jax.vmap(one)))
        rows = [jnp.asarray(x, dtype)[..., None, None] for x in (now, old)]
        return np.asarray(each(*rows, jnp.ones((*mask.shape, 1, 1), bool)))

    np.testing.assert_allclose(
        ratio(PRESETS["verl"], jnp.float32), recorded["verl_ratio"], rtol=VALUES
    )
    with jax.enable_x64(True):
        found = ratio(PRESETS["grpo"], jnp.float64)
    # The recorded log-probabilities are float32, the recorded ratios float64.
    np.testing.assert_allclose(found, recorded["trl_token_ratio"], rtol=1e-4)
    rows = np.where(mask, now.astype(np.float64) - old, 0).sum(-1) / np.maximum(mask.sum(-1), 1)
    np.testing.assert_allclose(np.exp(rows), recorded["trl_seq_ratio"], rtol=1e-4)


ESTIMATORS = {
    "verl_grpo": "verl",
    "verl_drgrpo": "verl_dr_grpo",
    "verl_grpo_vectorized": "verl_vectorized",
    "verl_rloo": "verl_rloo",
    "trl_group": "trl",
    "trl_batch": "trl_batch",
    "trl_none": "trl_none",
    "tunix_grpo": "tunix",
    "tunix_drgrpo": "tunix_dr_grpo",
    "tunix_rloo": "tunix_rloo",
}


@functools.partial(jax.jit, static_argnames="config")
def estimated(rewards, group, config):
    estimate = advantages.group_advantages if rewards.ndim == 2 else advantages.combined_advantages
    return jax.vmap(lambda r, g: estimate(r, g, config=config))(rewards, group)


def rounding(rewards, group, config):
    """How much the float32 rounding of recorded rewards was blown up in their advantages.

    The recorded mean of a group is off by a rounding of its rewards, which is then divided by a
    deviation that may be near epsilon.
    """
    deviation = np.ones(rewards.shape)
    for row, (values, ids) in enumerate(zip(rewards.astype(np.float64), group, strict=True)):
        for one in np.unique(ids):
            same = values[(ids == one) & ~np.isnan(values)]
            if len(same) > 1:
                deviation[row, ids == one] = same.std(ddof=1)
    size = np.broadcast_to(np.nanmax(np.abs(rewards), axis=1, keepdims=True), rewards.shape)
    blown = size / (np.sqrt(np.maximum(deviation**2, config.least_variance)) + config.epsilon)
    if config.least_variance:  # the variance as a difference of squares
        blown = blown**2
    if config.scale == "batch" or config.combine == "each":
        blown = np.broadcast_to(blown.max(axis=1, keepdims=True), blown.shape)
    return FLOAT32 * (size if config.scale == "none" else blown)


def assert_same_advantages(found, wanted, *, rewards, group, config):
    """To 1e-5 and rounding; where all rewards of a group are equal, ours is exactly 0."""
    found = np.asarray(found, np.float64)
    tolerance = VALUES * (1 + np.abs(wanted)) + rounding(rewards, group, config)
    difference = np.abs(found - wanted)
    assert np.all(difference <= tolerance), (difference / tolerance).max()
    for row, ids in enumerate(group):
        for one in np.unique(ids):
            same = rewards[row, ids == one]
            if np.sum(~np.isnan(same)) > 1 and np.nanmax(same) == np.nanmin(same):
                np.testing.assert_array_equal(found[row, ids == one], 0)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_group_advantages(suite, name):
    recorded, config = load(suite, "advantages"), advantages.PRESETS[ESTIMATORS[name]]
    rewards = recorded["rewards"]
    group = (np.arange(rewards.shape[1]) // recorded["n"][:, None]).astype(np.int32)
    found = estimated(rewards, group, config)
    assert_same_advantages(found, recorded[name], rewards=rewards, group=group, config=config)


@pytest.mark.parametrize("name", ["verl_grpo", "verl_drgrpo"])
def test_groups_of_any_size_in_any_order(suite, name):
    recorded, config = load(suite, "advantages"), advantages.PRESETS[ESTIMATORS[name]]
    rewards, group = recorded["rewards"], recorded["uneven_index"].astype(np.int32)
    found = estimated(rewards, group, config)
    wanted = recorded[f"uneven_{name}"]
    assert_same_advantages(found, wanted, rewards=rewards, group=group, config=config)


def test_absent_rewards(suite):
    recorded, config = load(suite, "advantages"), advantages.PRESETS["trl"]
    rewards = recorded["nan_rewards"]
    group = (np.arange(rewards.shape[1]) // recorded["n"][:, None]).astype(np.int32)
    found = np.asarray(estimated(rewards, group, config))
    wanted = recorded["nan_trl_group"]
    assert_same_advantages(found, wanted, rewards=rewards, group=group, config=config)
    np.testing.assert_array_equal(found[np.isnan(rewards)], 0)


def test_two_rewards(suite):
    recorded = load(suite, "advantages")
    rewards, weights = recorded["two_rewards"], tuple(map(float, recorded["two_weights"]))
    group = (np.arange(rewards.shape[1]) // recorded["n"][:, None]).astype(np.int32)
    summed = rewards.astype(np.float64) @ np.asarray(weights)
    config = dataclasses.replace(advantages.PRESETS["trl"], weights=weights)
    wanted = recorded["two_trl_sum_then_normalize"]
    found = estimated(rewards, group, config)
    assert_same_advantages(found, wanted, rewards=summed, group=group, config=config)

    config = dataclasses.replace(advantages.PRESETS["trl_gdpo"], weights=weights)
    found = np.asarray(estimated(rewards, group, config))
    wanted = recorded["two_trl_normalize_then_sum"]
    both = sum(
        weight * rounding(rewards[..., i], group, config) for i, weight in enumerate(weights)
    )
    assert np.all(np.abs(found - wanted) <= VALUES * (1 + np.abs(wanted)) + both)
