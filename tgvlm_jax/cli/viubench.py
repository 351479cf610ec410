"""tgvlm viubench: questions that any videos answer, in nine subsets; and a model's score on them.

    $ tgvlm viubench --shards runs/shards --out runs/viubench
    $ tgvlm viubench --shards runs/shards --out runs/viubench --checkpoint runs/grpo
    $ tgvlm eval --benchmark viubench --annotations runs/viubench/questions.json --answers FILE \\
        --workdir DIR

Object counting (easy, hard), anomaly grounding (five kinds) and temporal jigsaw (6 and 8 clips), as
VIUBench of VideoSSR has them. Writes questions.json: text, and from which frames of the shards each
clip is made. Clips are spread over whole videos, or are the held-out clips of a --config.

With --checkpoint the questions in --out are asked, or made first where there are none. Answers go
to answers.jsonl in the work folder as they are made; a run that was stopped goes on from there.
Prints tables with the scores of blind answers beside, and writes metrics.json and report.html.
"""

from pathlib import Path

from absl import flags as absl_flags

from tgvlm_jax.cli.flags import define_config


def flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of the verb."""
    define_config(flag_values, required=False)
    required = {
        "shards": "<DIR>: what `tgvlm shard` wrote",
        "out": "<DIR>: for questions.json",
    }
    for name, about in required.items():
        absl_flags.DEFINE_string(name, None, about, flag_values=flag_values, required=True)
    numbers = {
        "each": "questions of a subset (default: 300)",
        "seed": "of all questions (default: 0)",
        "frames": "of a clip, a multiple of 24 (default: 48)",
    }
    for name, about in numbers.items():
        absl_flags.DEFINE_integer(name, None, about, flag_values=flag_values, lower_bound=0)
    texts = {
        "checkpoint": "<DIR>: work folder of a run, to be asked",
        "workdir": "<DIR>: for the results; CHECKPOINT/eval_viubench if none",
        "scoring": "<NAME>: form or anywhere (where an interval may stand in an answer)",
    }
    for name, about in texts.items():
        absl_flags.DEFINE_string(name, None, about, flag_values=flag_values)


def main(flags: absl_flags.FlagValues) -> None:
    """Runs the verb."""
    from tgvlm_jax.cli import viubench_run

    numbers = {name: flags[name].value for name in ("each", "seed", "frames")}
    given = {name: value for name, value in numbers.items() if value is not None}
    made = viubench_run.questions(flags.shards, Path(flags.out), given=given, config=flags.config)
    if flags.checkpoint is None:
        return
    run = Path(flags.checkpoint)
    viubench_run.ask(
        made,
        run,
        path=Path(flags.out) / viubench_run.QUESTIONS,
        config=flags.config,
        scoring=flags.scoring,
        out=Path(flags.workdir) if flags.workdir else run / "eval_viubench",
    )
