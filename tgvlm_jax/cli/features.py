"""tgvlm features: run the frozen encoder over all takes once, so that training need not.

    $ tgvlm features --config configs/profvlm_sft.py --config.data.shards=runs/takes \\
        --config.data.annotations=proficiency_demonstrator_train.json \\
        --config.data.eval_annotations=proficiency_demonstrator_val.json \\
        --config.train.init_from=runs/start --out runs/features
    $ tgvlm train ... --config.data.takes.features=runs/features

The encoder is that of train.init_from. Of every video of a take data.takes.windows windows are
kept, evenly spread, and the middle one; training draws from the former, evaluation takes the
latter. Views of all takes are there, whichever data.takes.views names.
"""

from pathlib import Path

from absl import flags as absl_flags

from tgvlm_jax.cli.flags import define_config


def flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of the verb."""
    define_config(flag_values)
    absl_flags.DEFINE_string(
        "out", None, "<DIR>: must not be there yet", flag_values=flag_values, required=True
    )


def main(flags: absl_flags.FlagValues) -> None:
    """Runs the verb."""
    from tgvlm_jax.cli import features_run, session
    from tgvlm_jax.config import freeze
    from tgvlm_jax.schema import Experiment

    session.prepare_jax()
    print(features_run.run(freeze(flags.config, Experiment), Path(flags.out)))
