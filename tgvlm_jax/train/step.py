"""The jitted update: exact under accumulation, whatever the padding of the micro-batches."""

import dataclasses
import re
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from tgvlm_jax import mesh
from tgvlm_jax.models import lora, parameters
from tgvlm_jax.models.parameters import Blueprint, Critic, Params
from tgvlm_jax.models.vlm import VideoLanguageModel
from tgvlm_jax.objectives import fpo, grpo, ppo, sft
from tgvlm_jax.schema import Experiment, FpoConfig, GrpoConfig, ImitateConfig, PpoConfig
from tgvlm_jax.train import guard, optim
from tgvlm_jax.train.state import TrainState
from tgvlm_jax.types import pytree

Metrics = dict[str, jax.Array]
_LAYER_WEIGHT = re.compile(r"(decoder|tower)\.blocks\.")
_DROPOUT = 1  # of the streams of random numbers; 0 is that of the initial parameters


def gradients(
    params: Params,
    batch: Any,
    key: jax.Array,
    *,
    blueprint: Blueprint,
    experiment: Experiment,
) -> tuple[Params, dict[str, sft.Term]]:
    """Gradient of the total loss of a whole batch, and its terms.

    Weights are taken from the whole batch first; each micro-batch then adds its sums divided by
    them, which is the gradient of the undivided batch. Only what is not frozen has a gradient, so
    a frozen base costs neither its memory nor its time. `key` is for dropout.
    """
    weights = _weights(batch, experiment)
    coefficients = terms(experiment)
    trained = optim.trainable(experiment.optim, params)
    frozen = {name: value for name, value in params.items() if name not in trained}

    def loss(trained, micro, key):
        whole = trained | frozen
        if experiment.mesh.gather == "step":
            whole |= _gathered(whole, blueprint, experiment)
        model = blueprint.build(whole)
        if not isinstance(experiment.objective, GrpoConfig | PpoConfig):  # sampled without
            model.drop_out(key)
        critic = None if blueprint.critic is None else blueprint.build_critic(whole)
        sums = _sums(model, micro, params, experiment, critic)
        total = sum(
            coefficients[name] * value / jnp.maximum(weights[name], 1.0)
            for name, value in sums.items()
        )
        return total, sums

    def body(carry, inputs):
        grads, sums = jax.grad(loss, has_aux=True)(trained, *inputs)
        return jax.tree.map(jnp.add, carry, (grads, sums)), None

    count = experiment.train.accumulate
    if count == 1:
        grads, sums = jax.grad(loss, has_aux=True)(trained, batch, key)
    else:
        micro = jax.tree.map(lambda x: _split(x, count), batch)
        zeros = (
            jax.tree.map(jnp.zeros_like, trained),
            {name: jnp.zeros((), jnp.float32) for name in coefficients},
        )
        (grads, sums), _ = jax.lax.scan(body, zeros, (micro, jax.random.split(key, count)))
    return grads, {n: sft.Term(sum=sums[n], weight=weights[n]) for n in sums}


def _gathered(params: Params, blueprint: Blueprint, experiment: Experiment) -> Params:
    """The weights of all layers, put together and in the type they are used in."""
    dtype, found = experiment.model.dtype, {}
    for name in filter(_LAYER_WEIGHT.search, blueprint.matrices):
        along = mesh.axes("batch", "frames") if "tower." in name else mesh.axes("batch")
        found[name] = mesh.gathered(params[name].astype(dtype), along)
    return found


def terms(experiment: Experiment) -> dict[str, float]:
    """The loss terms of an experiment and what each counts in the total."""
    match experiment.objective:
        case GrpoConfig():
            return grpo.coefficients(experiment)
        case FpoConfig():
            return fpo.coefficients(experiment)
        case PpoConfig() | ImitateConfig():
            return ppo.coefficients(experiment)
    return sft.coefficients(experiment)


def _weights(batch: Any, experiment: Experiment) -> dict[str, jax.Array]:
    match experiment.objective:
        case GrpoConfig() as config:
            return grpo.weights(batch, config=config)
        case FpoConfig():
            return fpo.weights(batch)
        case PpoConfig() | ImitateConfig() as config:
            return ppo.weights(batch, config=config)
        case config:
            return sft.weights(batch, on_prompt=config.loss_on_prompt)


def _sums(
    model: VideoLanguageModel,
    batch: Any,
    params: Params,
    experiment: Experiment,
    critic: Critic | None,
) -> dict[str, jax.Array]:
    """The sums of the objective's terms; `params` has what a reference is made of."""
    config = experiment.objective
    if isinstance(config, GrpoConfig):
        return grpo.sums(model, batch, config=config)
    if isinstance(config, PpoConfig | ImitateConfig):
        return ppo.sums(model, batch, config=config, critic=critic)
    if not isinstance(config, FpoConfig):
        return sft.sums(model, batch, config=config)
    reference = None
    if config.reference == "base" and experiment.model.lora:
        reference = base(experiment).build(lora.without(params))
    return fpo.sums(model, batch, config=config, reference=reference)


def base(experiment: Experiment) -> Blueprint:
    """The model without its adapters."""
    return parameters.blueprint(dataclasses.replace(experiment.model, lora=()))


def _split(x: jax.Array, count: int) -> jax.Array:
    """[b ...] -> [count, b / count, ...]; rows are dealt out, so that no row changes its device."""
    rest = (None,) * (x.ndim - 1)
    shape = (x.shape[0] // count, count, *x.shape[1:])
    return jnp.moveaxis(mesh.reshape(x, shape, out=("batch", None, *rest)), 1, 0)


def make_step(
    blueprint: Blueprint, tx: optax.GradientTransformation, experiment: Experiment
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """The jitted step on the batches that the objective wants.

    The old state's memory is reused for the new one. An update that is no number, or a spike that
    is not to be ignored, is left out. Metrics are `<term>.sum` and `<term>.weight` of every loss
    term and `grad_norm`, of the updates that were applied, or of all where none was; how many were
    left out (`skipped_updates`), and of these as `spikes`; the largest `spike_ratio`.
    """
    config = experiment.objective

    def update(state: TrainState, batch: Any):
        key = jax.random.fold_in(jax.random.fold_in(state.key, _DROPOUT), state.step)
        setting = {"blueprint": blueprint, "experiment": experiment}
        grads, found = gradients(state.params, batch, key, **setting)
        trained = {name: state.params[name] for name in grads}
        updates, opt_state = tx.update(grads, state.opt_state, trained)
        metrics: Metrics = {"grad_norm": optax.tree.norm(grads)}
        for name, term in found.items():
            metrics[f"{name}.sum"], metrics[f"{name}.weight"] = term.sum, term.weight
        new = TrainState(
            step=state.step + 1,
            params=state.params | optax.apply_updates(trained, updates),
            opt_state=opt_state,
            key=state.key,
        )
        judged = _judge(metrics, state.window, experiment)
        return _guarded(new, state, judged), dataclasses.replace(judged, window=None)

    def step(state: TrainState, batch: Any):
        count = config.updates if isinstance(config, GrpoConfig | PpoConfig) else 1
        if count == 1:
            state, found = update(state, batch)
            found = jax.tree.map(lambda x: x[None], found)
        else:
            parts = jax.tree.map(lambda x: _split(x, count), batch)
            state, found = jax.lax.scan(update, state, parts)
        return state, _summed(found)

    return jax.jit(step, donate_argnums=0)


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Judged:
    """An update's metrics, what the guard finds of it, and the window after it."""

    metrics: Annotated[Any, "name -> float32"]
    good: Annotated[Any, "bool"]
    spike: Annotated[Any, "bool"]
    ratio: Annotated[Any, "float32"]
    window: Annotated[Any, "guard.Window | None"]


def _judge(metrics: Metrics, window: guard.Window | None, experiment: Experiment) -> _Judged:
    config = experiment.train
    good = jnp.all(jnp.stack([jnp.isfinite(value) for value in metrics.values()]))
    spike, ratio = jnp.bool_(False), jnp.float32(0)
    if window is not None:
        likelihood = not isinstance(experiment.objective, GrpoConfig | PpoConfig)
        loss = _total(metrics, experiment)
        ratio = guard.ratio(window, metrics["grad_norm"], loss=loss if likelihood else None)
        if config.on_spike != "ignore":
            spike = good & (ratio > config.spike_factor)
        good &= ~spike
        window = guard.seen(window, metrics["grad_norm"], loss=loss, counts=good)
    return _Judged(metrics=metrics, good=good, spike=spike, ratio=ratio, window=window)


def _guarded(new: TrainState, old: TrainState, judged: _Judged) -> TrainState:
    """The new state if its update is good, else the old one a step later."""
    return dataclasses.replace(
        new,
        params=_choose(judged.good, new.params, old.params),
        opt_state=_choose(judged.good, new.opt_state, old.opt_state),
        window=judged.window,
    )


def _total(metrics: Metrics, experiment: Experiment) -> jax.Array:
    """The loss that was differentiated."""
    parts = [
        scale * metrics[f"{name}.sum"] / jnp.maximum(metrics[f"{name}.weight"], 1.0)
        for name, scale in terms(experiment).items()
    ]
    return jnp.sum(jnp.stack(parts))


def _summed(found: _Judged) -> Metrics:
    """One step's metrics from those of its updates, which are along the first axis."""
    counted = found.good | ~jnp.any(found.good)
    summed = {name: jnp.sum(jnp.where(counted, x, 0)) for name, x in found.metrics.items()}
    return summed | {
        "grad_norm": summed["grad_norm"] / jnp.sum(counted.astype(jnp.float32)),
        "skipped_updates": jnp.sum(~found.good).astype(jnp.float32),
        "spikes": jnp.sum(found.spike).astype(jnp.float32),
        "spike_ratio": jnp.max(found.ratio),
    }


def _choose(good: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
