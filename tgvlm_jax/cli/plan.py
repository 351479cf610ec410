"""tgvlm plan: does a run fit a slice of a TPU pod? Compiles its step for it, from any machine.

    $ tgvlm plan --config configs/d2vlm_sft.py --topology v5e:4x4
    $ tgvlm plan --config configs/d2vlm_sft.py:batch=64 --topology v5p:2x2x1 --frames 192

No TPU is needed: libtpu compiles for chips that are not there (pip install '.[plan]'). Compiled is
the real training step, on the mesh of the config, for the longest batch. Topologies are named by
chip and shape: v5e:4x4, v5p:2x2x4, v6e:8x8, v4:2x2x1, tpu7x:2x2x1.
"""

import dataclasses

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
        "frames", 0, "of every sample; the largest bucket if 0", flag_values=flag_values
    )
    absl_flags.DEFINE_integer(
        "question", 96, "tokens of a prompt beside its frames", flag_values=flag_values
    )
    absl_flags.DEFINE_integer("answer", 256, "tokens of an answer", flag_values=flag_values)


def main(flags: absl_flags.FlagValues) -> int:
    """Runs the verb; the status is 1 where the run does not fit."""
    from tgvlm_jax.config import freeze
    from tgvlm_jax.schema import Experiment
    from tgvlm_jax.train import plan
    from tgvlm_jax.train.abstract import Sizes

    experiment = freeze(flags.config, Experiment)
    frames = flags.frames or max(experiment.data.frames)
    sizes = Sizes(frames=frames, question=flags.question, answer=flags.answer)
    print(f"compiling a step of {experiment.name} for {flags.topology} ...", flush=True)
    found = plan.plan(experiment, flags.topology, sizes=sizes)
    print(
        table(
            found, experiment=experiment, topology=flags.topology, sizes=dataclasses.asdict(sizes)
        )
    )
    return 0 if found.fits else DOES_NOT_FIT


def table(found, *, experiment, topology: str, sizes: dict[str, int]) -> str:
    """What a chip holds, as aligned text."""
    from tgvlm_jax.train.plan import GIB

    data, count = experiment.data, experiment.train.accumulate
    rows = {
        "parameters, optimiser": found.state,
        "batch": found.batch,
        "while it runs": found.scratch,
        "at its peak": found.peak,
    }
    parts = "in one piece" if count == 1 else f"in {count} micro-batches"
    lines = [
        f"{experiment.name} on {topology}: {found.chips} chips ({found.kind})",
        f"  {data.batch_size} samples a step {parts}; {sizes['frames']} frames,"
        f" {sizes['question']} + {sizes['answer']} tokens each",
        *(f"  {name:<24}{size / GIB:>8.2f} GiB a chip" for name, size in rows.items()),
    ]
    verdict = "fits" if found.fits else "DOES NOT FIT"
    limit = f" the {found.available / GIB:g} GiB there are" if found.available else ""
    return "\n".join([*lines, f"  {verdict}{limit} (compiled in {found.seconds:.0f} s)"])
