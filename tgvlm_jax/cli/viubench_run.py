"""VIUBench from frame shards to a report: its questions, a model's answers, scores."""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict
from tqdm import tqdm

from tgvlm_jax import files
from tgvlm_jax.cli import benchmark_run, session
from tgvlm_jax.cli.benchmark_answers import check_author, written
from tgvlm_jax.config import freeze
from tgvlm_jax.data import viubench
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.evaluation.runner import answer
from tgvlm_jax.evaluation.suite import Scored, answer_line, read_answers
from tgvlm_jax.evaluation.suites import open_suite
from tgvlm_jax.schema import Experiment
from tgvlm_jax.types import InputError

QUESTIONS = "questions.json"


def questions(
    shards: str, out: Path, *, given: Mapping[str, int], config: ConfigDict | None
) -> viubench.Benchmark:
    """Reads the questions in a folder, or makes them where there are none.

    Args:
        given: of "each", "seed" and "frames" what the person has set; questions that are there
            must agree. config: an experiment whose held-out clips are taken.

    Raises:
        InputError: shards or questions cannot be read or do not fit each other, or there are other
            questions already.
    """
    opened, path = open_shards(shards, verify="hash"), out / QUESTIONS
    if path.exists():
        found = viubench.load(path, opened)
        for name, value in given.items():
            if (there := getattr(found, name)) != value:
                raise InputError(
                    f"{path}: was made with --{name} {there}; leave --{name} out, or give another "
                    "--out"
                )
        print(f"{path}: {len(found.recipes)} questions are there")
        return found
    clips = freeze(config, Experiment).data if config is not None else None
    made = viubench.make(opened, clips=clips, **given)
    files.make_folder(out)
    made.save(path)
    videos = len({recipe.video for recipe in made.recipes})
    print(f"{path}: {len(made.recipes)} questions about {videos} videos")
    return made


def ask(
    made: viubench.Benchmark,
    run: Path,
    *,
    path: Path,
    config: ConfigDict | None,
    scoring: str | None,
    out: Path,
) -> Scored:
    """Asks the newest checkpoint of a run, scores, prints and reports.

    Args:
        path: the questions as a file. config: its data and evaluation settings hold instead of
            those of the run. out: folder for answers and results.

    Raises:
        InputError: no checkpoint there, it takes fewer frames, or `out` has answers of another.
    """
    suite = open_suite("viubench", [path])
    suite.check(scoring)
    session.prepare_jax()
    model = session.open_model(run, config=config)
    most = max(model.experiment.data.frames)
    if made.frames > most:
        raise InputError(
            f"{path}: clips of {made.frames} frames, but data.frames of {run} ends at {most}: make "
            "them with fewer --frames, or give a --config with more"
        )
    files.make_folder(out)
    answers = out / benchmark_run.ANSWERS
    check_author(answers, run)
    known = read_answers(answers, suite) if answers.exists() else {}
    lines = [answer_line(q, known[q.name]) for q in suite.questions if q.name in known]
    left = [n for n, q in enumerate(suite.questions) if q.name not in known]
    size = model.experiment.evaluation.batch_size
    batches = [left[start : start + size] for start in range(0, len(left), size)]
    for batch in tqdm(batches, desc="answering", unit="batch", leave=False, disable=None):
        shape, data = model.experiment.model.frame_size, model.experiment.data
        found = answer(
            model.params,
            [made.sample(number, size=shape, config=data) for number in batch],
            experiment=model.experiment,
            chat=model.chat,
        )
        lines += [
            answer_line(suite.questions[number], written(one.raw, one.mentions))
            for number, one in zip(batch, found, strict=True)
        ]
        files.write_text(answers, "\n".join(lines) + "\n")
    return benchmark_run.run(
        "viubench", [path], answers=answers, model=None, scoring=scoring, out=out
    )
