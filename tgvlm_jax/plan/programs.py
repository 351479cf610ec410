"""The programs of a run, ready to be compiled: its training step, and how it generates answers.

They are those that `tgvlm train` and `tgvlm eval` run, on the mesh of the config, with arrays that
have a shape and no content. What lies on a chip beside a program's arguments while it runs (the
optimiser while answers are sampled, a copy for reference) is counted, too.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.data.patch_videos import visual_rows
from tgvlm_jax.models import parameters
from tgvlm_jax.models.parameters import Blueprint
from tgvlm_jax.plan.model_flops import of_step
from tgvlm_jax.plan.topology import Topology, mesh_config
from tgvlm_jax.rollout import turns
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.rollout.sampling import GREEDY
from tgvlm_jax.schema import Experiment, GrpoConfig, PpoConfig
from tgvlm_jax.train import optim, rollouts, state, turn_rollouts
from tgvlm_jax.train.abstract import Sizes, abstract_batch, abstract_prompt
from tgvlm_jax.train.abstract_turns import turn_prompt
from tgvlm_jax.train.state import TrainState
from tgvlm_jax.train.step import make_step
from tgvlm_jax.types import InputError

STEPS = ("train", "prefill", "decode")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """One program.

    Attributes:
        name: one of `STEPS`. about: what one run of it does, in words.
        mesh: that it runs on. lower: makes it, with the mesh set.
        held: bytes a chip of its arguments, by kind. beside: of what else lies there meanwhile.
        tokens: that one run generates, an answer; 0 for none.
        model_flops: that the model needs for it, on all chips; 0 where nobody counts them.
    """

    name: str
    about: str
    mesh: Mesh
    lower: Callable[[], Any]
    held: dict[str, float]
    beside: dict[str, float]
    tokens: int = 0
    model_flops: float = 0.0


def used(experiment: Experiment) -> tuple[str, ...]:
    """The programs that `tgvlm train` runs again and again."""
    sampled = isinstance(experiment.objective, GrpoConfig | PpoConfig)
    return STEPS if sampled else STEPS[:1]


def programs(
    experiment: Experiment, topology: Topology, *, sizes: Sizes, steps: tuple[str, ...]
) -> list[Program]:
    """The programs of an experiment on a topology.

    Raises:
        InputError: a program that there is not, or parts of the config that do not fit each other
            or the mesh.
    """
    for name in steps:
        if name not in STEPS:
            raise InputError(f"--steps {name}: give some of {', '.join(STEPS)}")
    config = mesh_config(experiment.mesh, topology)
    mesh = mesh_lib.make(config, topology.devices)
    check(experiment, mesh, sizes=sizes)
    whole = mesh or single(topology.devices)
    run = _Run(experiment, whole, sizes)
    learns = isinstance(experiment.objective, GrpoConfig | PpoConfig)
    if not learns:  # `tgvlm eval` and `ask` run on one device
        one = single(topology.devices)
        answering = _Run(experiment, one, sizes)
    else:
        answering = run
    made = {"train": run.train, "prefill": answering.prefill, "decode": answering.decode}
    return [made[name]() for name in STEPS if name in steps]


def check(experiment: Experiment, mesh: Mesh | None, *, sizes: Sizes) -> None:
    """Fails where the parts of a config do not fit each other, or do not divide over the mesh.

    Raises:
        InputError: naming the setting.
    """
    config, batch = experiment.objective, experiment.data.batch_size
    start = experiment.train.init_from or "a run"  # what a reference is copied from, if it is
    known = dataclasses.replace(
        experiment, train=dataclasses.replace(experiment.train, init_from=start)
    )
    if isinstance(config, GrpoConfig):
        rollouts.check(known)
    if experiment.data.turns is not None:
        turn_rollouts.check(known)
    updates = config.updates if isinstance(config, GrpoConfig | PpoConfig) else 1
    data = dataclasses.replace(experiment.data, frames=(sizes.frames,))
    frames = visual_rows(experiment.model, data)
    counts = [batch // (experiment.train.accumulate * updates)]
    if isinstance(config, GrpoConfig):
        counts.append(config.rollout_size or batch)
    for count in counts:
        rows = {"batch_size": count, "frames": frames}
        mesh_lib.check(experiment.model, mesh, data=data, **rows)


def update(experiment: Experiment, batch: Any, *, mesh: Mesh, about: str) -> Program:
    """The update on a batch without content, laid out on the mesh; `about` says what it is."""
    made = _learner(experiment, mesh)
    return Program(
        name="train",
        about=about,
        mesh=mesh,
        lower=lambda: make_step(made.blueprint, made.tx, experiment).lower(made.state, batch),
        held={**_kinds(made.state), "batch": size(batch)},
        beside=_copy(experiment, made.state),
        model_flops=of_step(experiment, batch),
    )


@dataclasses.dataclass(frozen=True)
class _Run:
    """An experiment on a mesh."""

    experiment: Experiment
    mesh: Mesh
    sizes: Sizes

    def train(self) -> Program:
        """The update on a whole batch."""
        experiment = self.experiment
        batch = abstract_batch(experiment, self.sizes, mesh=self.mesh)
        data, parts = experiment.data, experiment.train.accumulate
        config = experiment.objective
        updates = config.updates if isinstance(config, GrpoConfig | PpoConfig) else 1
        what = f"{data.samples} samples"
        if data.pack > 1:
            what = f"{data.batch_size} rows of {data.pack} samples"
        if isinstance(config, GrpoConfig | PpoConfig):
            what = f"{data.batch_size} prompts with {config.num_generations} answers each"
        times = "" if updates == 1 else f", {updates} updates"
        cut = "" if parts == 1 else f", {parts} micro-batches an update"
        return update(experiment, batch, mesh=self.mesh, about=f"{what}{times}{cut}")

    def prefill(self) -> Program:
        """A prompt is read, and ready for its answers."""
        prompt, group = self._prompt(), self._group()
        params, blueprint = self._params(), self._blueprint()
        return Program(
            name="prefill",
            about=f"{len(prompt.tokens)} prompts of {prompt.tokens.shape[1]} tokens",
            mesh=self.mesh,
            lower=lambda: turns.read_prompt.lower(
                params, prompt, blueprint=blueprint, samples=group
            ),
            held={"parameters": size(params), "batch": size(prompt)},
            beside=self._waiting(),
        )

    def decode(self) -> Program:
        """Answers, all of the greatest length: to prompts, or of a conversation's last turn."""
        if self.experiment.data.turns is not None:
            return self._last_turn()
        config, settings = self.experiment.objective, self._settings()
        params, prompt, group = self._params(), self._prompt(), self._group()
        settings |= {"samples": group, "evidence_id": 2}
        if isinstance(config, GrpoConfig):
            settings |= {"key": _key(self.mesh), "sample_spans": bool(config.spans)}
        most = settings["max_tokens"]
        return Program(
            name="decode",
            about=f"{len(prompt.tokens)} prompts, {group} answers each of {most} tokens",
            mesh=self.mesh,
            lower=lambda: generate.lower(params, prompt, **settings),
            held={"parameters": size(params), "batch": size(prompt)},
            beside=self._waiting(),
            tokens=most,
        )

    def _last_turn(self) -> Program:
        """What is said last, after all that was said and shown before."""
        experiment, settings = self.experiment, self._settings()
        params, prompt, group = self._params(), self._prompt(), self._group()
        blueprint, rows = self._blueprint(), experiment.data.batch_size * group
        shown = turn_prompt(experiment, mesh=self.mesh, rows=rows, later=True)
        spec = NamedSharding(self.mesh, PartitionSpec(mesh_lib.RULES["batch"]))
        done = jax.ShapeDtypeStruct((rows,), jnp.bool_, sharding=spec)
        key = _key(self.mesh) if settings["sampling"].temperature else None
        count = _turn_count(experiment)

        def before(params, prompt, shown, done, key):
            read = turns.read_prompt(params, prompt, blueprint=blueprint, samples=group)
            for _ in range(count - 1):
                _, read = turns.answer(params, read, done, key, **settings)
                read = turns.observe(params, read, shown, blueprint=blueprint)
            return read

        def lower():
            read = jax.eval_shape(before, params, prompt, shown, done, key)
            read = jax.tree.map(lambda x: placed(x, self.mesh), read)
            return turns.answer.lower(params, read, done, key, **settings)

        with mesh_lib.use(self.mesh):
            read = jax.eval_shape(before, params, prompt, shown, done, key)
        most = settings["max_tokens"]
        return Program(
            name="decode",
            about=f"{rows} answers of {most} tokens, the last of {count} turns",
            mesh=self.mesh,
            lower=lower,
            held={"parameters": size(params), "what was read": size(read)},
            beside=self._waiting(),
            tokens=most,
        )

    def _settings(self) -> dict[str, Any]:
        """Of answers that are learned from, or else of those that `tgvlm eval` asks for."""
        config, sampling = self.experiment.objective, GREEDY
        most = self.experiment.evaluation.max_tokens
        if isinstance(config, GrpoConfig | PpoConfig):
            sampling, most = config.sampling, config.max_tokens
        fixed = {"blueprint": self._blueprint(), "sampling": sampling, "max_tokens": most}
        # Ids of tokens are numbers that the program is given, or that stand in it; any will do.
        return fixed | {"end_id": 1, "pad_id": 0}

    def _blueprint(self) -> Blueprint:
        return parameters.blueprint(self.experiment.model)

    def _params(self) -> parameters.Params:
        return _learner(self.experiment, self.mesh).state.params

    def _prompt(self) -> Any:
        config = self.experiment.objective
        rows = self.experiment.evaluation.batch_size
        if isinstance(config, GrpoConfig):
            rows = config.rollout_size or self.experiment.data.batch_size
        elif isinstance(config, PpoConfig):
            rows = self.experiment.data.batch_size
        return abstract_prompt(self.experiment, self.sizes, mesh=self.mesh, rows=rows)

    def _group(self) -> int:
        config = self.experiment.objective
        return config.num_generations if isinstance(config, GrpoConfig | PpoConfig) else 1

    def _waiting(self) -> dict[str, float]:
        """What lies on a chip while answers are sampled to be learned from."""
        if not isinstance(self.experiment.objective, GrpoConfig | PpoConfig):
            return {}
        current = _learner(self.experiment, self.mesh).state
        rest = {k: v for k, v in _kinds(current).items() if k == "optimiser"}
        return {**rest, **_copy(self.experiment, current)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Learner:
    """A state without content, on its mesh, and what an update of it is made from."""

    state: TrainState
    tx: optax.GradientTransformation
    blueprint: Blueprint


def _learner(experiment: Experiment, mesh: Mesh) -> _Learner:
    blueprint = parameters.blueprint(experiment.model)
    with mesh_lib.use(mesh):
        shapes = jax.eval_shape(lambda: parameters.init(experiment.model, jax.random.key(0)))
        tx = optim.build(
            experiment.optim,
            shapes,
            matrices=blueprint.matrices,
            steps=experiment.train.steps,
        )
        current = jax.eval_shape(lambda: state.create(experiment, tx))
    current = jax.tree.map(lambda x: placed(x, mesh), current)
    return _Learner(state=current, tx=tx, blueprint=blueprint)


def _kinds(current: TrainState) -> dict[str, float]:
    whole, params = size(current), size(current.params)
    critic = size({k: v for k, v in current.params.items() if parameters.is_critic(k)})
    found = {"parameters": params - critic, "critic": critic, "optimiser": whole - params}
    return {name: value for name, value in found.items() if value}


def _copy(experiment: Experiment, current: TrainState) -> dict[str, float]:
    """A frozen copy of the parameters that lies beside those that are trained."""
    config = experiment.objective
    if not isinstance(config, GrpoConfig | PpoConfig) or config.reference != "copy":
        return {}
    own = {k: v for k, v in current.params.items() if not parameters.is_critic(k)}
    return {"reference": size(own)}


def _turn_count(experiment: Experiment) -> int:
    assert experiment.data.turns is not None
    return experiment.data.turns.turns


def single(devices: Any) -> Mesh:
    """A mesh of one device, so that what is compiled is compiled for it."""
    kinds = (jax.sharding.AxisType.Explicit,) * len(mesh_lib.AXES)
    chosen = np.asarray(devices[:1]).reshape((1,) * len(mesh_lib.AXES))
    return Mesh(chosen, mesh_lib.AXES, axis_types=kinds)


def placed(x: Any, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """The same on the mesh; a value without a layout lies on every chip."""
    spec = getattr(x.sharding, "spec", None) or PartitionSpec()
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))


def size(tree: Any) -> float:
    """Bytes that one chip holds of a tree."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        sharding = leaf.sharding
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        total += int(np.prod(shape)) * (8 if key else leaf.dtype.itemsize)
    return float(total)


def _key(mesh: Mesh) -> jax.ShapeDtypeStruct:
    made = jax.eval_shape(lambda: jax.random.key(0))
    spec = NamedSharding(mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(made.shape, made.dtype, sharding=spec)
