"""tgvlm train: run an experiment, or continue it where it stopped.

    $ tgvlm train --config configs/tiny.py --workdir runs/tiny
    $ tgvlm train --config configs/tiny.py:steps=600 --config.optim.lr=1e-3 --workdir runs/slow
    $ tgvlm train --config configs/tiny.py --workdir runs/tiny --config.profile  # docs/profiling.md
    $ tgvlm inspect --config configs/tiny.py          # every key there is

The config names the shards to train on (data.shards); `tgvlm shard` makes them. Questions are made
out of the videos, or read from a file (data.annotations, E.T. Instruct JSON). The folder of the run
gets experiment.json, metrics.jsonl, checkpoints/ and skipped.jsonl, which lists records that could
not be used. The same command after a crash, a kill or a preemption continues the run and computes
what it would have computed.

Several processes make one run. Started on every machine of a TPU slice, of several slices or of a
SLURM job they find each other; elsewhere say where they meet, how many there are and which this is:

    $ tgvlm train --config FILE --config.mesh.fsdp=-1 --workdir DIR \\
          --coordinator 10.0.0.2:8476 --processes 2 --process_id 0     # and 1 on the other machine

They share the --workdir. Process 0 prints and writes. When one is lost or hangs
(train.watchdog_seconds) all of them end with status 75, and the same commands go on.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from tgvlm_jax.cli.flags import define_config

if TYPE_CHECKING:
    from tgvlm_jax.train.loop import Trained

SIGTERM_STATUS = 143  # 128 + 15, what a shell reports for a process that SIGTERM ended


def flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of the verb."""
    define_config(flag_values)
    absl_flags.DEFINE_string(
        "workdir", None, "<DIR>: folder of the run", flag_values=flag_values, required=True
    )
    absl_flags.DEFINE_string(
        "coordinator", None, "<HOST:PORT>: where several processes meet", flag_values=flag_values
    )
    absl_flags.DEFINE_integer(
        "processes", None, "<N>: how many make this run", flag_values=flag_values
    )
    absl_flags.DEFINE_integer(
        "process_id", None, "<I>: which of them this is, from 0", flag_values=flag_values
    )
    absl_flags.DEFINE_integer(
        "join_timeout", 300, "<S>: seconds that they wait for each other", flag_values=flag_values
    )


def main(flags: absl_flags.FlagValues) -> int:
    """Runs the verb; JAX and Orbax are loaded here, so that help is quick."""
    from tgvlm_jax.cli.session import prepare_jax
    from tgvlm_jax.config import freeze
    from tgvlm_jax.schema import Experiment
    from tgvlm_jax.train import distributed, loop
    from tgvlm_jax.train.preempt import Preempted

    prepare_jax()
    experiment = freeze(flags.config, Experiment)
    distributed.join(
        flags.coordinator, flags.processes, flags.process_id, timeout=flags.join_timeout
    )
    with distributed.leaving():
        try:
            trained = loop.train(experiment, Path(flags.workdir))
        except Preempted as stop:
            print(stop)
            return SIGTERM_STATUS
        if distributed.host() == 0:
            tell(trained, flags.workdir)
    return 0


def tell(trained: "Trained", workdir: str) -> None:
    """Says what a run has done, and where to look."""
    look(Path(workdir))
    done = f"{trained.ran} steps" if trained.ran else "nothing left to do"
    done += f", {trained.skipped} records left out (skipped.jsonl)" if trained.skipped else ""
    print(f"{workdir}: {done}; now: tgvlm eval --checkpoint {workdir}")


def look(workdir: Path) -> None:
    """Makes a page of a run's sampled answers, where it has some."""
    from tgvlm_jax.report.rollouts import write_rollouts
    from tgvlm_jax.train import metrics, transcript

    groups = metrics.read_metrics(workdir / transcript.NAME)
    if not groups:
        return
    log, path = metrics.read_metrics(workdir / "metrics.jsonl"), workdir / "rollouts.html"
    write_rollouts(path, groups, metrics=log, title=workdir.name or "rollouts")
    print(f"look:  {path}")
