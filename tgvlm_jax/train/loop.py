"""The training run, read top to bottom: check, build, restore, step, log, save."""

import collections
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.data.annotated import SKIPPED, AnnotatedVideos
from tgvlm_jax.data.chat import Chat, open_chat
from tgvlm_jax.data.collate import round_up
from tgvlm_jax.data.looking import LookedInto
from tgvlm_jax.data.patch_videos import visual_rows
from tgvlm_jax.data.pipeline import Batches, BatchMaker
from tgvlm_jax.data.sources import open_source
from tgvlm_jax.data.take_views import TakeViews
from tgvlm_jax.models import flops, parameters
from tgvlm_jax.models.parameters import Params
from tgvlm_jax.schema import (
    Experiment,
    FpoConfig,
    FrameEncoderConfig,
    GrpoConfig,
    ImitateConfig,
    ModelConfig,
    PpoConfig,
    QwenVisionConfig,
    TimesformerConfig,
)
from tgvlm_jax.train import (
    checkpoint,
    distributed,
    guard,
    model_folder,
    optim,
    profile,
    resume,
    rollouts,
    state,
    turn_rollouts,
)
from tgvlm_jax.train.demonstrations import Demonstrations
from tgvlm_jax.train.metrics import CompileCounter, MetricsWriter, divide
from tgvlm_jax.train.phases import Clock
from tgvlm_jax.train.preempt import Preempted, Sigterm
from tgvlm_jax.train.rollouts import Rollouts
from tgvlm_jax.train.step import make_step, terms
from tgvlm_jax.train.stopwatch import Lap, Stopwatch
from tgvlm_jax.train.transcript import Transcript
from tgvlm_jax.train.turn_rollouts import TurnRollouts
from tgvlm_jax.train.watchdog import Watchdog
from tgvlm_jax.types import (
    Batch,
    InputError,
    PatchRows,
    Pools,
    PreferenceBatch,
    Prompt,
    Questions,
    ViewFeatures,
    Views,
)

HostBatch = Batch | PreferenceBatch | Questions | Pools

_KEPT = "rollouts"  # in a checkpoint's JSON, beside what the iterator of the data says


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a finished run leaves.

    Attributes:
        params: the final ones. ran: steps of this process.
        skipped: records left out, as `skipped.jsonl` lists them.
    """

    params: Params
    ran: int
    skipped: int = 0


def check(experiment: Experiment, chat: Chat) -> None:
    """Fails before a device is touched where parts of a config do not fit each other.

    Raises:
        InputError: the tokenizer has more tokens than the model, the question's pieces do not fit
            the tower that reads it, or the objective does not fit the rest.
    """
    rows = experiment.model.decoder.vocab_size
    if chat.vocab_size > rows:
        raise InputError(
            f"data.tokenizer has {chat.vocab_size} tokens, model.decoder.vocab_size={rows}; "
            "make the model's at least as large (tgvlm convert --vocab_size adds rows for <evi>)"
        )
    profile.steps(experiment.profile, first=0, total=experiment.train.steps)
    if isinstance(experiment.objective, GrpoConfig):
        rollouts.check(experiment)
    if isinstance(experiment.objective, PpoConfig | ImitateConfig):
        turn_rollouts.check(experiment)
    elif experiment.data.turns is not None:
        raise InputError("data.turns is for objective.kind ppo or imitate; set it to None")
    tower, data = experiment.model.tower, experiment.data
    _check_takes(experiment)
    reader = tower.compressor.qformer if isinstance(tower, FrameEncoderConfig) else None
    reads = reader is not None and reader.vocab_size > 0
    if reads != (chat.pieces is not None):
        wanted = "BERT's vocab.txt" if reads else "''"
        raise InputError(
            f"data.question_vocab={data.question_vocab!r}: the model's tower "
            f"{'reads the question' if reads else 'reads no question'}; set it to {wanted}"
        )
    if reader is None or chat.pieces is None:
        return
    longest = round_up(data.question_tokens, data.question_bucket)
    if chat.pieces.vocab_size > reader.vocab_size or longest > reader.positions:
        raise InputError(
            f"questions of {chat.pieces.vocab_size} kinds of pieces, {longest} of them at most, do "
            f"not fit the Q-Former's {reader.vocab_size} kinds and {reader.positions} positions: "
            "change data.question_vocab, data.question_tokens or data.question_bucket"
        )


def _check_takes(experiment: Experiment) -> None:
    """Views and a model that sees views come together; cached features want a frozen encoder."""
    takes = experiment.data.takes
    if (takes is not None) != isinstance(experiment.model.tower, TimesformerConfig):
        raise InputError("data.takes goes with model.tower.kind='timesformer', and with it alone")
    if takes is None or not takes.features:
        return
    shapes = parameters.blueprint(experiment.model).shapes
    if parameters.reach_tower(optim.trainable(experiment.optim, dict.fromkeys(shapes))):
        raise InputError("data.takes.features: the encoder learns; freeze ^tower\\. or set ''")


def batches(experiment: Experiment, chat: Chat, *, mesh: Mesh | None = None) -> Batches:
    """The training data of an experiment, this host's part: the rows of its devices."""
    config, objective = experiment.data, experiment.objective
    maker = BatchMaker(
        source=open_source(config, "train", size=experiment.model.frame_size, seed=experiment.seed),
        chat=chat,
        config=config,
        seed=experiment.seed,
        rows=mesh_lib.own_rows(mesh, config.batch_size),
        perturbation=objective.perturbation if isinstance(objective, FpoConfig) else None,
        asks=isinstance(objective, GrpoConfig),
    )
    return Batches(maker, steps=experiment.train.steps)


def _skipped(data: Batches, workdir: Path, *, told: bool = False) -> int:
    """Writes down what this host had to leave out of its data; how many records that is."""
    if not isinstance(data.source, AnnotatedVideos | LookedInto | TakeViews):
        return 0
    host = jax.process_index()
    data.source.skipped.write(workdir / (f"host{host}.{SKIPPED}" if host else SKIPPED))
    if told and not host:
        print(data.source.told(), flush=True)
    return len(data.source.skipped)


def train(experiment: Experiment, workdir: Path) -> Trained:
    """Runs an experiment in a work directory, or continues the one that is there.

    A run that was killed at any moment continues from its newest checkpoint and computes what it
    would have computed without the kill, bit for bit.

    Raises:
        InputError: config, shards, mesh, directory or checkpoint are wrong, or the loss is no
            longer a number; or hosts of one run do not agree.
        Preempted: SIGTERM came and the state was saved.
    """
    clock = Clock()
    with Watchdog(clock, seconds=experiment.train.watchdog_seconds) as dog:
        return _train(experiment, workdir, clock, dog)


def _train(experiment: Experiment, workdir: Path, clock: Clock, dog: Watchdog) -> Trained:
    chat = open_chat(experiment.data, experiment.model)
    check(experiment, chat)
    mesh = mesh_lib.make(experiment.mesh)
    distributed.check_mesh(mesh, batch_size=experiment.data.batch_size)
    frames = visual_rows(experiment.model, experiment.data)
    for size in _sizes(experiment):
        rows = {"batch_size": size, "frames": frames}
        mesh_lib.check(experiment.model, mesh, data=experiment.data, **rows)
    closing, data = contextlib.closing, batches(experiment, chat, mesh=mesh)
    with Sigterm(mesh) as sigterm, mesh_lib.use(mesh), closing(data):
        distributed.agree(experiment)
        blueprint = parameters.blueprint(experiment.model)
        shapes = jax.eval_shape(lambda: parameters.init(experiment.model, jax.random.key(0)))
        tx = optim.build(
            experiment.optim,
            shapes,
            matrices=blueprint.matrices,
            steps=experiment.train.steps * _updates(experiment),
        )
        if not checkpoint.has_steps(workdir):
            model_folder.start(experiment)
        if distributed.host() == 0:
            checkpoint.save_experiment(workdir, experiment)  # nothing is wrong with it from here on
            resume.clear(workdir)
        distributed.check_shared(workdir)
        _skipped(data, workdir, told=True)
        with closing(resume.open_store(experiment, workdir)) as store:
            first = distributed.gather(store.latest() or 0)[0]
            restore = resume.Restore(experiment, tx, store, mesh)
            current, kept = restore(first)
            if not first:
                resume.tell_start(experiment, workdir)
            _check_encoder(data, current.params)
            writer = MetricsWriter(
                workdir / "metrics.jsonl",
                resume_step=first,
                total_steps=experiment.train.steps,
                writes=jax.process_index() == 0,
            )
            stepper = _stepper(
                experiment, tx, chat, mesh, workdir=workdir, first=first, clock=clock
            )
            with closing(writer), stepper as step, closing(Stopwatch(clock)) as watch:
                loop = _Loop(experiment, workdir, step, store, writer, sigterm, watch, dog, restore)
                loop.set_state(kept, data)
                try:
                    return loop.run(current, data, first=first)
                except Exception as error:
                    dog.failed(error)
                    raise


def _check_encoder(data: Batches, params: Params) -> None:
    """Raises InputError unless cached features are those of this model's encoder."""
    source = data.source
    kept = source.features if isinstance(source, TakeViews) else None
    encoder = {name: value for name, value in params.items() if name.startswith("tower.")}
    if kept is None or not all(value.is_fully_addressable for value in encoder.values()):
        return
    if parameters.digest(encoder) != kept.manifest.encoder:
        raise InputError(
            f"{kept.folder}: made by another encoder; set train.init_from to the model that it was "
            "made with, or run `tgvlm features` again"
        )


def _sizes(experiment: Experiment) -> list[int]:
    """How many samples, or prompts, are on the devices at a time."""
    config, batch = experiment.objective, experiment.data.batch_size
    found = [batch // (experiment.train.accumulate * _updates(experiment))]
    if isinstance(config, GrpoConfig):
        found.append(config.rollout_size or batch)
    return found


def _updates(experiment: Experiment) -> int:
    """Optimiser steps of one step of the loop."""
    config = experiment.objective
    return config.updates if isinstance(config, GrpoConfig | PpoConfig) else 1


@contextlib.contextmanager
def _stepper(
    experiment: Experiment,
    tx: optax.GradientTransformation,
    chat: Chat,
    mesh: Mesh | None,
    *,
    workdir: Path,
    first: int,
    clock: Clock,
) -> Iterator["Stepper"]:
    """What takes a state and a host batch to the next state and its metrics."""
    blueprint = parameters.blueprint(experiment.model)
    update = make_step(blueprint, tx, experiment)
    config = experiment.objective
    if not isinstance(config, GrpoConfig | PpoConfig | ImitateConfig):

        def supervised(current: state.TrainState, host: Any):
            with clock("step"):
                return update(current, mesh_lib.put_batch(host, mesh))

        yield Stepper(supervised)
        return
    copy = None
    if not isinstance(config, ImitateConfig) and config.reference == "copy":
        start = model_folder.start(experiment)
        assert start is not None, "checked: there is an init_from"
        copy = start.restore(experiment, mesh=mesh)
    parts = {"blueprint": blueprint, "chat": chat, "mesh": mesh}
    match config:
        case GrpoConfig():
            sampler = Rollouts(experiment, **parts, copy=copy, clock=clock)
        case PpoConfig():
            sampler = TurnRollouts(experiment, **parts, copy=copy)
        case _:
            sampler = Demonstrations(experiment, **parts)
    transcript = Transcript(workdir, every=experiment.train.log_every, resume_step=first)

    def step(current: state.TrainState, questions: Any):
        number = int(current.step) // _updates(experiment) + 1
        with clock("rollout"):
            rolled = sampler(current, questions)
            transcript.add(number, rolled)
        with clock("step"):
            current, metrics = update(current, rolled.batch)
        return current, metrics | rolled.metrics

    with contextlib.closing(sampler):
        yield Stepper(step, sampler if isinstance(sampler, TurnRollouts) else None, transcript)


@dataclasses.dataclass(frozen=True)
class Stepper:
    """A step, and who keeps something from one to the next beside the state."""

    step: Callable
    keeps: TurnRollouts | None = None
    transcript: Transcript | None = None

    def get_state(self) -> dict[str, Any]:
        """What to checkpoint beside the state of the data; JSON."""
        return {} if self.keeps is None else {_KEPT: self.keeps.get_state()}

    def set_state(self, saved: dict[str, Any]) -> None:
        """Goes on from what a checkpoint had."""
        if self.keeps is not None and _KEPT in saved:
            self.keeps.set_state(saved[_KEPT])

    def rewind(self, step: int) -> None:
        """Forgets what was written about later steps."""
        if self.transcript is not None:
            self.transcript.rewind(step)


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A step that the devices may still be busy with."""

    number: int
    metrics: dict[str, Any]
    lap: Lap
    data: dict[str, Any]


@dataclasses.dataclass
class _Loop:
    """The steps, one ahead of the device; everything the host does happens in its shadow."""

    experiment: Experiment
    workdir: Path
    step: Stepper
    store: checkpoint.Checkpoints
    writer: MetricsWriter
    sigterm: Sigterm
    watch: Stopwatch
    dog: Watchdog
    restore: resume.Restore

    def __post_init__(self):
        updates = _updates(self.experiment)
        self.guard = guard.Guard(self.experiment.train, updates=updates)
        self.bad: _Pending | None = None  # what to rewind for
        self.compiles, self.clock = CompileCounter(), self.watch.clock
        shapes = parameters.blueprint(self.experiment.model).shapes
        self.trained = set(optim.trainable(self.experiment.optim, shapes))
        self.coefficients = terms(self.experiment)
        self.pending: collections.deque[_Pending] = collections.deque()

    def run(self, current: state.TrainState, data: Batches, *, first: int) -> Trained:
        """Steps `first` + 1 to the last."""
        total, folder = self.experiment.train.steps, self.workdir / profile.FOLDER
        traced = profile.steps(self.experiment.profile, first=first, total=total)
        with contextlib.closing(profile.Profiler(folder, traced, self._wait)) as profiler:
            number = first
            while number < total:
                number += 1
                self.dog.begin(number)
                with profiler.step(number):
                    current = self._take(number, current, data)
                if self.bad is not None:
                    number = self.bad.number
                    del current  # no two states at a time
                    current = self._rewind(self.bad, data)
        skipped = _skipped(data, self.workdir)
        return Trained(params=current.params, ran=total - first, skipped=skipped)

    def _take(self, number: int, current: state.TrainState, data: Batches) -> state.TrainState:
        """One step, and what is to be logged or saved after it."""
        config, total = self.experiment.train, self.experiment.train.steps
        batch, before = self._next(data), self.compiles.count
        current, metrics = self.step.step(current, batch)
        self.pending.append(self._pend(number, batch, metrics, before=before, data=data))
        with self.clock("step"):  # either may wait for the devices
            late, asked = self._late(), self.sigterm.stops()
        if number % config.log_every == 0 or late:
            self._flush(upto=number - 1)
        if asked or number % config.checkpoint_every == 0 or number == total:
            self._flush(upto=number)
            if self.bad is None:
                self._save(number, current, data)
        if asked and self.bad is None and number < total:
            raise Preempted(f"stopped at step {number} of {total}; start again to go on")
        return current

    def _save(self, number: int, current: state.TrainState, data: Batches) -> None:
        with self.clock("checkpoint"):
            kept = data.get_state() | self.step.get_state() | {guard.KEPT: self.guard.get_state()}
            self.store.save(number, current, data=kept)
            _skipped(data, self.workdir)

    def set_state(self, kept: dict[str, Any], data: Batches) -> None:
        """Goes on from what a checkpoint had beside the state."""
        self.step.set_state(kept)
        if guard.KEPT in kept:
            self.guard.set_state(kept[guard.KEPT])
        if place := {name: x for name, x in kept.items() if name not in (_KEPT, guard.KEPT)}:
            data.set_state(place)

    def _late(self) -> bool:
        """Whether a step that `_next` has waited for was not applied."""
        done = self.pending[-3] if len(self.pending) > 2 else None
        return done is not None and bool(np.asarray(done.metrics["skipped_updates"]))

    def _rewind(self, bad: _Pending, data: Batches) -> state.TrainState:
        """The state of the checkpoint before a step, to go on with the data after that step."""
        since = distributed.gather(self.store.rewind_to())[0]
        current, kept = self.restore(since)
        self.step.set_state(kept)
        self.step.rewind(bad.number)
        data.set_state(bad.data)
        self.pending.clear()
        self.bad = None
        current = resume.counted_as(current, bad.number * _updates(self.experiment))
        self.writer.tell(
            f"step {bad.number}: back to the parameters of step {since}, on with the data after it "
            f"(rewind {self.guard.rewinds} of {self.experiment.train.rewinds})"
        )
        if bad.number == self.experiment.train.steps:
            self._save(bad.number, current, data)
        return current

    def _wait(self) -> None:
        """Until the devices have done all that they were given."""
        if self.pending:
            jax.block_until_ready(self.pending[-1].metrics["grad_norm"])

    def _next(self, data: Batches) -> HostBatch:
        """The next batch, on the host."""
        with self.clock("input"):
            host = next(data)
        with self.clock("step"):
            if len(self.pending) > 1:  # run one step ahead, no more
                jax.block_until_ready(self.pending[-2].metrics["grad_norm"])
        return host

    def _pend(
        self,
        number: int,
        batch: HostBatch,
        metrics: dict[str, Any],
        *,
        before: int,
        data: Batches,
    ) -> "_Pending":
        """What is known of a step that has begun; `before` it so many programs were compiled."""
        model, config = self.experiment.model, self.experiment.objective
        if isinstance(batch, Pools):
            rows, frames = len(batch.samples), sum(len(one.frames) for one in batch.samples)
        else:
            rows, frames = len(batch.prompt.tokens), _frames(batch.prompt, model)
        work, hosts = None, self.experiment.data.batch_size / rows  # all of them for this one
        if isinstance(batch, Batch | PreferenceBatch):
            pack = self.experiment.data.pack
            work = hosts * flops.per_step(model, batch, trained=self.trained, pack=pack)
        elif isinstance(batch, Questions) and isinstance(config, GrpoConfig):
            lengths = [config.max_tokens] * config.num_generations
            work = flops.of_prompts(model, batch.prompt, lengths=lengths, trained=self.trained)
            work *= hosts
        done, count = metrics["grad_norm"], self.compiles.count
        lap = self.watch.lap(
            done, frames=round(hosts * frames), flops=work, compiled=count > before
        )
        seconds = self.compiles.seconds
        metrics = metrics | {"compiles": count, "compile_seconds": seconds}
        return _Pending(number, metrics, lap, data.get_state())

    def _flush(self, *, upto: int) -> None:
        """Writes the metrics of finished steps, up to one that is to be rewound for."""
        records: list[dict[str, Any]] = []
        try:
            while self.bad is None and self.pending and self.pending[0].number <= upto:
                step = self.pending.popleft()
                with self.clock("step"):
                    fetched = divide(step.metrics, self.coefficients)
                record = {"step": step.number} | fetched | self.watch.read(step.lap)
                if self.guard.judge(record):
                    self.bad = step
                records.append(record)
        finally:
            self.writer.write(records)
            for record in records:
                if record["skipped_updates"]:
                    self.writer.tell(f"not applied: {guard.told(record)}")


def _frames(prompt: Prompt, model: ModelConfig) -> int:
    """Frames of a host's batch, padding of Frames included."""
    if isinstance(prompt.visual, PatchRows) and isinstance(model.tower, QwenVisionConfig):
        last = prompt.visual.frames.max(axis=(1, 2))  # a number for every temporal patch
        return model.tower.temporal * int((last + 1).sum())
    if isinstance(model.tower, TimesformerConfig):
        assert isinstance(prompt.visual, Views | ViewFeatures)
        return prompt.visual.mask.size * model.tower.frames
    return math.prod(jax.tree.leaves(prompt.visual)[0].shape[:2])
