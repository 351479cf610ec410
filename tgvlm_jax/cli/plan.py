"""tgvlm plan: does a run fit a slice of a TPU pod, and how fast can it be? Asked of the compiler.

    $ tgvlm plan --config configs/d2vlm_sft.py --topology v5e:4x4
    $ tgvlm plan --config configs/videossr_grpo.py --topology '2*v5e:16x16' --json plan.json
    $ tgvlm plan --config configs/tiny.py --topology cpu:8 --config.mesh.fsdp=8

No TPU is needed: libtpu compiles for chips that are not there (pip install '.[plan]'). Compiled are
the real programs of the config on its mesh, for the longest batch: the training step and, where
answers are sampled to be learned from, reading prompts and decoding. Topologies: v4:2x2x1, v5e:4x4,
v5p:2x2x4, v6e:8x8, tpu7x:2x2x1; cpu:8; gpu. What was compiled once is kept. The status is 1 where
something does not fit.
"""

import dataclasses
import json
import sys
import threading
import time

from absl import flags as absl_flags

from tgvlm_jax.cli.flags import define_config

DOES_NOT_FIT = 1  # exit status


def flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of the verb."""
    define_config(flag_values)
    absl_flags.DEFINE_string(
        "topology", None, "<NAME>: such as v5e:4x4", flag_values=flag_values, required=True
    )
    absl_flags.DEFINE_integer(
        "slices", 0, "of that topology, joined by a network", flag_values=flag_values
    )
    absl_flags.DEFINE_list(
        "steps",
        None,
        "<STEP,...>: train, prefill, decode; what the run uses if absent",
        flag_values=flag_values,
    )
    absl_flags.DEFINE_bool(
        "search", False, "the largest micro-batch that fits, too", flag_values=flag_values
    )
    absl_flags.DEFINE_string("json", None, "<FILE>: the figures, too", flag_values=flag_values)
    absl_flags.DEFINE_integer(
        "frames", 0, "of every sample; the largest bucket if 0", flag_values=flag_values
    )
    absl_flags.DEFINE_integer(
        "question", 96, "tokens of a prompt beside its frames", flag_values=flag_values
    )
    absl_flags.DEFINE_integer("answer", 256, "tokens of an answer", flag_values=flag_values)


def main(flags: absl_flags.FlagValues) -> int:
    """Runs the verb; the status is 1 where the run does not fit."""
    import jax

    from tgvlm_jax import files
    from tgvlm_jax.config import freeze
    from tgvlm_jax.plan import plan, programs, search, table, topology
    from tgvlm_jax.schema import Experiment
    from tgvlm_jax.train.abstract import Sizes

    if flags.topology != "gpu":  # nothing runs, so no accelerator of this machine is touched
        jax.config.update("jax_platforms", "cpu")
    experiment = freeze(flags.config, Experiment)
    found = topology.find(flags.topology, slices=flags.slices)
    sizes = Sizes(
        frames=flags.frames or max(experiment.data.frames),
        question=flags.question,
        answer=flags.answer,
    )
    steps = tuple(flags.steps or programs.used(experiment))

    with _Told() as tell:
        made = plan.plan(experiment, found, sizes=sizes, steps=steps, tell=tell)
    record = table.record(made)
    print(table.table(made))
    for line in search.advice(experiment, made):
        print(line)
    if flags.search:
        with _Told() as tell:
            largest = search.largest(experiment, found, sizes=sizes, tell=tell)
        record["largest"] = dataclasses.asdict(largest)
        print(table.searched(largest, batch=experiment.data.batch_size))
    if flags.json:
        with files.replacing(flags.json) as path:
            path.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if made.fits else DOES_NOT_FIT


class _Told:
    """Says what is being done, and on a terminal for how long it has been."""

    def __enter__(self):
        self.line, self.began = "", 0.0
        self.ended = threading.Event()
        self.clock = threading.Thread(target=self._tick, daemon=True)
        self.clock.start()
        return self

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        self.line, self.began = line, time.monotonic()

    def __exit__(self, *_: object):
        self.ended.set()
        self.clock.join()

    def _tick(self) -> None:
        """Once a second, in a line of its own that is wiped at the end."""
        if not sys.stdout.isatty():
            return
        while not self.ended.wait(1.0):
            if self.line:
                print(f"\r  {time.monotonic() - self.began:.0f} s ", end="", flush=True)
        print("\r" + " " * 12, end="\r", flush=True)
