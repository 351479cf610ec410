"""Optax optimisers by parameter group."""

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import optax
from optax import contrib

from tgvlm_jax import mesh
from tgvlm_jax.models.parameters import Matrix, Params, is_critic
from tgvlm_jax.schema import GroupConfig, OptimConfig
from tgvlm_jax.types import InputError


def schedule(config: OptimConfig, *, steps: int) -> optax.Schedule:
    """Linear warm-up to lr, decay to final_lr * lr at the last step."""
    warmup = min(config.warmup_steps, max(steps - 1, 0))
    if config.decay == "linear":
        end, rest = config.lr * config.final_lr, max(steps - warmup, 1)
        down = optax.linear_schedule(config.lr, end, rest)
        up = optax.linear_schedule(0.0, config.lr, max(warmup, 1))
        return optax.join_schedules([up, down], [warmup]) if warmup else down
    start = 0.0 if warmup else config.lr
    return optax.warmup_cosine_decay_schedule(
        start, config.lr, warmup, max(steps, warmup + 1), config.lr * config.final_lr
    )


def build(
    config: OptimConfig, params: Params, *, matrices: Mapping[str, Matrix], steps: int
) -> optax.GradientTransformation:
    """The optimiser of a model; `params` may be the model's own or `trainable` ones.

    Every parameter belongs to the first group whose pattern its dotted path matches, else to the
    rest, which trains at `lr`.

    Raises:
        InputError: a group's pattern matches no parameter, or is no regular expression.
    """
    labels = _labels(config, params)
    for number, group in enumerate(config.groups):
        if str(number) not in labels.values():
            some = ", ".join(sorted(params)[:3])
            raise InputError(
                f"optim.groups[{number}]: {group.pattern!r} matches no parameter (such as {some})"
            )
    everyone = (*config.groups, GroupConfig(pattern=""))
    names = (*map(str, range(len(config.groups))), "rest")
    groups: dict[Hashable, optax.GradientTransformation] = {
        name: _one(config, group, matrices=matrices, steps=steps)
        for name, group in zip(names, everyone, strict=True)
    }

    def labels_of(tree):
        return {name: labels[name] for name in tree}

    clip = [_clip(config.clip)] if config.clip else []
    return _lenient(optax.chain(*clip, optax.partition(groups, labels_of)))


def _clip(most: float) -> optax.GradientTransformation:
    """Policy and critic each by their own norm."""

    def part_of(tree):
        return {name: "critic" if is_critic(name) else "policy" for name in tree}

    parts = ("policy", "critic")
    return optax.partition({part: optax.clip_by_global_norm(most) for part in parts}, part_of)


def trainable(config: OptimConfig, params: Params) -> Params:
    """The parameters that no frozen group holds: what is differentiated and kept moments of."""
    frozen = {str(number) for number, group in enumerate(config.groups) if group.frozen}
    labels = _labels(config, params)
    return {name: value for name, value in params.items() if labels[name] not in frozen}


def _labels(config: OptimConfig, params: Params) -> dict[str, str]:
    return {name: _group(name, config.groups) for name in params}


def _lenient(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same without strict dtypes and shardings, which optax was not written for.

    It mixes floats with integer counts, and Muon multiplies matrices whose axes are sharded: on a
    mesh XLA lays out what is in between, and results keep the layout of what they replace.
    """

    def init(params):
        with jax.numpy_dtype_promotion("standard"):
            return tx.init(params)

    def update(updates, state, params=None):
        run: Any = tx.update
        if mesh.active():
            layout = jax.tree.map(lambda x: jax.typeof(x).sharding, (updates, state))
            run = jax.sharding.auto_axes(run, out_sharding=layout)
        with jax.numpy_dtype_promotion("standard"):
            return run(updates, state, params)

    return optax.GradientTransformation(init, update)


def _group(name: str, groups: Sequence[GroupConfig]) -> str:
    for number, group in enumerate(groups):
        try:
            if re.search(group.pattern, name):
                return str(number)
        except re.error as error:
            raise InputError(f"optim.groups[{number}]: {group.pattern!r}: {error}") from None
    return "rest"


def _one(
    config: OptimConfig, group: GroupConfig, *, matrices: Mapping[str, Matrix], steps: int
) -> optax.GradientTransformation:
    if group.frozen:
        return optax.set_to_zero()
    plain = schedule(config, steps=steps)

    def rate(count):
        return plain(count) * group.lr_scale

    if config.name == "adamw":
        return optax.adamw(rate, b1=config.beta1, b2=config.beta2, weight_decay=config.weight_decay)

    def matrix_axes(tree):
        """Muon's axes of each weight; None (AdamW) for tables, norms and biases."""
        return {
            name: contrib.MuonDimensionNumbers(
                reduction_axis=matrices[name].inputs, output_axis=matrices[name].outputs
            )
            if name in matrices and not isinstance(leaf, optax.MaskedNode)
            else (leaf if isinstance(leaf, optax.MaskedNode) else None)
            for name, leaf in tree.items()
        }

    return contrib.muon(
        rate,
        weight_decay=config.weight_decay,
        adam_b1=config.beta1,
        adam_b2=config.beta2,
        muon_weight_dimension_numbers=matrix_axes,
        consistent_rms=0.2,  # updates as large as Adam's, so that one learning rate serves both
    )
