"""What a run begins with, or goes on from: its first state, or that of a checkpoint."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from tgvlm_jax import files
from tgvlm_jax.data.annotated import SKIPPED
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import checkpoint, model_folder, state, transcript


def open_store(experiment: Experiment, workdir: Path) -> checkpoint.Checkpoints:
    """The checkpoints of a run, kept as its config says."""
    config = experiment.train
    return checkpoint.Checkpoints(
        workdir, keep=config.keep, keep_every=config.keep_every, every=config.checkpoint_every
    )


def clear(workdir: Path) -> None:
    """Removes what a run that was killed left half written; checkpoints look after themselves."""
    for name in ("experiment.json", "metrics.jsonl", SKIPPED, transcript.NAME):
        files.clear(workdir / name)


def tell_start(experiment: Experiment, workdir: Path) -> None:
    """Says what a run starts from, and takes along the files that lie beside it."""
    start = model_folder.start(experiment)
    if start is not None and jax.process_index() == 0:
        print(start.told(), flush=True)
        start.copy_files(workdir)


@dataclasses.dataclass(frozen=True)
class Restore:
    """The state of a run as it was after some step, and what was kept beside it."""

    experiment: Experiment
    tx: optax.GradientTransformation
    store: checkpoint.Checkpoints
    mesh: Mesh | None

    def __call__(self, step: int) -> tuple[state.TrainState, dict[str, Any]]:
        """After `step`, which was saved; or 0: before the first.

        Raises:
            InputError: the checkpoint, or what the run starts from, is damaged or does not fit.
        """
        if step:
            like = jax.eval_shape(lambda: state.create(self.experiment, self.tx))
            return self.store.restore(step, like, mesh=self.mesh)
        start = model_folder.start(self.experiment)
        loaded = {} if start is None else start.restore(self.experiment, mesh=self.mesh)
        # What was loaded is given away, so that no parameter is in memory twice.
        create = jax.jit(
            lambda loaded: state.create(self.experiment, self.tx, loaded), donate_argnums=0
        )
        made = create(loaded)
        if self.mesh is None:  # bound to its device, as what is restored: one program takes both
            made = jax.device_put(made, jax.devices()[0])
        return made, {}


def counted_as(current: state.TrainState, updates: int) -> state.TrainState:
    """The same state as one after so many updates, which later random numbers follow from."""
    step = jax.device_put(np.int32(updates), current.step.sharding)
    return dataclasses.replace(current, step=step)
