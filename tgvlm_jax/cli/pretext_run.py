"""`tgvlm eval` of a run on pretext tasks: asks about its held-out clips, scores and reports."""

import json
from pathlib import Path

from tgvlm_jax import files
from tgvlm_jax.cli import session
from tgvlm_jax.evaluation import pretext
from tgvlm_jax.evaluation.runner import answer, held_out_samples
from tgvlm_jax.report.tables import write_tables


def run(model: session.Model, out: Path, *, about: str) -> pretext.PretextScores:
    """Prints the table, and writes answers.jsonl, metrics.json and report.html.

    Args:
        out: folder for them, which is there. about: names the model in the report.

    Raises:
        InputError: the shards do not fit the config, or `out` cannot be written.
    """
    experiment = model.experiment
    clips = held_out_samples(experiment)
    found = answer(model.params, clips, experiment=experiment, chat=model.chat)
    scores = pretext.score([one.sample for one in found], [one.raw for one in found])
    table = scores.table()
    note = "Blind answers never look: the best constant one for these questions, all of it, chance."
    print(f"{table.text()}\n\n{note}")
    lines = [
        {
            "kind": one.sample.kind,
            "video": one.sample.video,
            "question": one.sample.question,
            "truth": one.sample.answer,
            "answer": one.raw,
        }
        for one in found
    ]
    files.write_text(out / "answers.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    files.write_text(out / "metrics.json", json.dumps(scores.to_json(), indent=1) + "\n")
    write_tables(out / "report.html", (table,), title=experiment.name, summary=about, notes=(note,))
    return scores
