"""tgvlm eval: score a checkpoint, on its own held-out clips or on a benchmark.

    $ tgvlm eval --checkpoint runs/tiny
    $ tgvlm eval --checkpoint runs/tiny --config configs/tiny.py --config.evaluation.samples=480

    $ tgvlm eval --benchmark etbench --annotations etbench_evi_v1.0.json --videos DIR \\
        --checkpoint runs/d2vlm --workdir runs/d2vlm/etbench
    $ tgvlm eval --benchmark etbench --annotations FILE --answers answers.jsonl --workdir DIR

Held-out clips are those of the run itself, or of --config; blind answers are scored beside them.
Of pretext tasks (data.tasks) the reward is the score; of takes (data.takes) levels and texts are.
A model that looks again (data.turns) does so here, too, and the report shows what it looked at.
Of a benchmark (docs/benchmarks.md lists them) the annotation files are its released ones; of
viubench questions.json, about which `tgvlm viubench` asks a model. Answers go to
answers.jsonl in the work folder as they are made; a run that was stopped goes on from there. With
--answers no model is needed: JSON lines {"question", "answer"}, or the benchmark's own records with
the answer in `a`, which then are annotations as well.

Prints tables and writes metrics.json and report.html.
"""

from pathlib import Path

from absl import flags as absl_flags

from tgvlm_jax.cli.flags import define_config
from tgvlm_jax.types import InputError


def flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of the verb."""
    define_config(flag_values, required=False)
    texts = {
        "checkpoint": "<DIR>: work folder of a run",
        "workdir": "<DIR>: for the results; CHECKPOINT/eval if none",
        "benchmark": "<NAME>: one of docs/benchmarks.md, as etbench or videomme",
        "videos": "<DIR>: the benchmark's videos",
        "answers": "<FILE>: score these, without a model",
        "scoring": "<NAME>: which published rules; the benchmark's first if none",
    }
    for name, about in texts.items():
        absl_flags.DEFINE_string(name, None, about, flag_values=flag_values)
    absl_flags.DEFINE_list(
        "annotations", [], "<FILE,...>: the benchmark's annotation files", flag_values=flag_values
    )


def main(flags: absl_flags.FlagValues) -> None:
    """Runs the verb."""
    if flags.benchmark is None:
        _held_out(flags)
        return
    from tgvlm_jax.cli import benchmark_run
    from tgvlm_jax.cli.benchmark_answers import Asked

    if not (flags.annotations or flags.answers):
        raise InputError("--annotations FILE is missing: the benchmark's annotation file")
    if flags.answers is None and (flags.checkpoint is None or flags.videos is None):
        raise InputError(
            "a benchmark needs --checkpoint DIR and --videos DIR, or --answers FILE to score"
        )
    if flags.answers is not None and flags.checkpoint is not None:
        raise InputError("--answers are there already: leave --checkpoint out")
    if flags.config is not None and flags.checkpoint is None:
        raise InputError("--config is about a model: it needs --checkpoint DIR")
    model, out = None, flags.workdir
    if flags.checkpoint is not None:
        run, videos = Path(flags.checkpoint), Path(flags.videos)
        model = Asked(checkpoint=run, videos=videos, config=flags.config)
        out = out or run / f"eval_{flags.benchmark}"
    if out is None:
        raise InputError("--workdir DIR is missing: where the results go")
    benchmark_run.run(
        flags.benchmark,
        [Path(path) for path in flags.annotations],
        answers=Path(flags.answers) if flags.answers else None,
        model=model,
        scoring=flags.scoring,
        out=Path(out),
    )


def _held_out(flags: absl_flags.FlagValues) -> None:
    from tgvlm_jax import files
    from tgvlm_jax.cli import looking_run, pretext_run, proficiency_run, results, session
    from tgvlm_jax.evaluation.runner import evaluate

    if flags.checkpoint is None:
        raise InputError("--checkpoint is missing (see tgvlm eval --help)")
    for name in ("annotations", "videos", "answers", "scoring"):
        if flags[name].value:
            raise InputError(f"--{name} is about a benchmark; name it: --benchmark NAME")
    session.prepare_jax()
    out = Path(flags.workdir or Path(flags.checkpoint) / "eval")
    model = session.open_model(Path(flags.checkpoint), config=flags.config)
    files.make_folder(out)
    if model.experiment.data.takes:
        proficiency_run.run(model, out, about=f"{flags.checkpoint}: held-out takes.")
        print(f"\nlook:  {out / 'report.html'}")
        return
    if model.experiment.data.turns is not None:
        looking_run.run(model, out, about=f"{flags.checkpoint}: held-out questions")
        print(f"\nlook:  {out / 'report.html'}")
        return
    if model.experiment.data.tasks and not model.experiment.data.eval_annotations:
        pretext_run.run(model, out, about=f"{flags.checkpoint}: held-out clips.")
        print(f"\nlook:  {out / 'report.html'}")
        return
    found = evaluate(model.params, experiment=model.experiment, chat=model.chat)
    print(session.result_tables(found, name="this model"))
    results.write(out, found, experiment=model.experiment, run=Path(flags.checkpoint))
    print(f"\nlook:  {out / 'report.html'}")
