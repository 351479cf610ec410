"""tgvlm eval: score a checkpoint on held-out clips, beside answers that never look.

    $ tgvlm eval --checkpoint runs/tiny
    $ tgvlm eval --checkpoint runs/tiny --config configs/tiny.py --config.evaluation.samples=480

Prints tables and writes metrics.json and report.html. Without --config the clips are those that
the run itself held out.
"""

from pathlib import Path

from absl import flags as absl_flags

from tgvlm_jax.cli.flags import define_config


def flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of the verb."""
    define_config(flag_values, required=False)
    absl_flags.DEFINE_string(
        "checkpoint", None, "<DIR>: work folder of a run", flag_values=flag_values, required=True
    )
    absl_flags.DEFINE_string(
        "workdir", None, "<DIR>: for the results; CHECKPOINT/eval if none", flag_values=flag_values
    )


def main(flags: absl_flags.FlagValues) -> None:
    """Runs the verb."""
    from tgvlm_jax import files
    from tgvlm_jax.cli import results, session
    from tgvlm_jax.evaluation.runner import evaluate

    session.prepare_jax()
    out = Path(flags.workdir or Path(flags.checkpoint) / "eval")
    model = session.open_model(Path(flags.checkpoint), config=flags.config)
    files.make_folder(out)
    found = evaluate(model.params, experiment=model.experiment, chat=model.chat)
    print(session.result_tables(found, name="this model"))
    results.write(out, found, experiment=model.experiment, run=Path(flags.checkpoint))
    print(f"\nlook:  {out / 'report.html'}")
