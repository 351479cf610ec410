"""`tgvlm eval` of a run on takes: asks about all held-out ones, scores and reports (ProfVLM 5)."""

import contextlib
import json
import sys
from pathlib import Path

from tgvlm_jax import files
from tgvlm_jax.cli import session
from tgvlm_jax.data.annotated import SKIPPED
from tgvlm_jax.evaluation import captioning, proficiency
from tgvlm_jax.evaluation.proficiency import ProficiencyScores
from tgvlm_jax.evaluation.runner import answer, held_out_samples
from tgvlm_jax.evaluation.similarity import MiniLM, best_similarity
from tgvlm_jax.report.tables import write_tables
from tgvlm_jax.schema import SamplingConfig

PENALTY = SamplingConfig(repetition_penalty=1.1)  # of the prototype (ProfVLM 2.7), here greedy


def run(
    model: session.Model, out: Path, *, about: str, sampling: SamplingConfig = PENALTY
) -> ProficiencyScores:
    """Prints the tables, and writes answers.jsonl, metrics.json and report.html.

    Args:
        out: folder for them, which is there. about: names the model in the report.
        sampling: how answers are generated.

    Raises:
        InputError: shards, features or annotations do not fit the config, or `out` cannot be
            written.
    """
    experiment = model.experiment
    takes = experiment.data.takes
    assert takes is not None
    clips = held_out_samples(experiment)
    found = answer(model.params, clips, experiment=experiment, chat=model.chat, sampling=sampling)
    found = [one for one in found if one.sample.readable]
    with contextlib.ExitStack() as stack:
        metrics, encoder, notes = None, best_similarity(), []
        if reason := captioning.missing():
            notes.append(f"METEOR {reason}")
        else:
            metrics = stack.enter_context(captioning.CaptionMetrics())
        if not isinstance(encoder, MiniLM):
            notes.append("BERTScore needs all-MiniLM-L6-v2 (extra `similarity`)")
        scores = proficiency.score(
            [one.raw for one in found],
            [one.sample.answer for one in found],
            [one.sample.kind for one in found],
            levels=takes.levels,
            encoder=encoder if isinstance(encoder, MiniLM) else None,
            metrics=metrics,
        )
    for note in notes:
        print(note, file=sys.stderr)
    views = ", ".join(takes.views)
    notes = [f"protocol: {takes.protocol}; views: {views}; takes: {len(found)}", *notes]
    notes.append("Shuffled references: each answer against another take's commentary.")
    tables = scores.tables()
    print("\n\n".join([*(table.text() for table in tables), *notes]))
    _write(out, found, scores, {"protocol": takes.protocol, "views": list(takes.views)})
    if clips.skipped:
        clips.skipped.write(out / SKIPPED)
    write_tables(out / "report.html", tables, title=experiment.name, summary=about, notes=notes)
    return scores


def _write(out: Path, found: list, scores: ProficiencyScores, about: dict) -> None:
    lines = [
        {"take": one.sample.video, "truth": one.sample.answer, "answer": one.raw} for one in found
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    files.write_text(out / "answers.jsonl", text)
    files.write_text(out / "metrics.json", json.dumps(about | scores.to_json(), indent=1) + "\n")
