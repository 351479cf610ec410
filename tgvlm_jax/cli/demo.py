"""tgvlm demo: train a grounded video-language model on a real film and look at what it learned.

    $ tgvlm demo
    $ tgvlm demo --seeds 3        # three models; prints the spread of the result
    $ tgvlm demo --fresh          # forget the earlier run and train again
    $ tgvlm demo --config configs/tiny.py:steps=50 --workdir runs/short

In one run: shard the film that comes with the library, make questions about its first two thirds
(something is wrong with the picture for a while: when?), train a small model from scratch, teach it
to prefer good answers to worse ones, reward answers of its own, and ask it about the last third,
which training never saw.
Open report.html in a browser at the end. A run that was stopped continues; a finished one is only
evaluated again.
"""

from pathlib import Path

from absl import flags as absl_flags

from tgvlm_jax.cli.flags import define_config


def flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of the verb."""
    define_config(flag_values, required=False)
    absl_flags.DEFINE_string(
        "workdir", "runs/demo", "<DIR>: for all of it", flag_values=flag_values
    )
    absl_flags.DEFINE_integer(
        "seeds", 1, "models to train, with seeds 0, 1, ...", flag_values=flag_values, lower_bound=1
    )
    absl_flags.DEFINE_bool(
        "fresh", False, "delete the earlier demo in the workdir first", flag_values=flag_values
    )


def main(flags: absl_flags.FlagValues) -> int:
    """Runs the verb."""
    from tgvlm_jax.cli import demo_run
    from tgvlm_jax.cli.session import prepare_jax
    from tgvlm_jax.cli.train import SIGTERM_STATUS
    from tgvlm_jax.train.loop import Preempted

    prepare_jax()
    try:
        demo_run.run(Path(flags.workdir), seeds=flags.seeds, fresh=flags.fresh, config=flags.config)
    except Preempted as stop:
        print(stop)
        return SIGTERM_STATUS
    return 0
