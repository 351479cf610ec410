"""A benchmark from its files to a report: questions, answers (of a model or a file), scores."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tgvlm_jax import files
from tgvlm_jax.cli.benchmark_answers import Asked, answer_all
from tgvlm_jax.evaluation import captioning
from tgvlm_jax.evaluation.etbench_captioning import CaptionScorers
from tgvlm_jax.evaluation.similarity import TokenOverlap, best_similarity
from tgvlm_jax.evaluation.suite import Scored, Suite, read_answers
from tgvlm_jax.evaluation.suites import open_suite
from tgvlm_jax.report.tables import write_tables

ANSWERS = "answers.jsonl"


def run(
    name: str,
    annotations: Sequence[Path],
    *,
    answers: Path | None,
    model: Asked | None,
    scoring: str | None,
    out: Path,
) -> Scored:
    """Answers what is not answered yet, scores, prints, and writes metrics.json and report.html.

    Args:
        name: of the benchmark. annotations: its files; none where `answers` has them too.
        answers: scored as they are. model: makes the answers, where there is no such file.
        scoring: the rules. out: folder for the results.

    Raises:
        InputError: a file, a record of it or an option is wrong, or `out` cannot be written.
    """
    suite = open_suite(name, annotations or ([answers] if answers else []))
    suite.check(scoring)
    files.make_folder(out)
    source = answers or out / ANSWERS
    if model is not None:
        fitting = answer_all(suite, model, source)
        scoring = scoring or fitting
    found = _score(suite, source, scoring)
    print(found.text())
    about = f"{source}, scored against {', '.join(map(str, annotations)) or source}."
    figures = {"benchmark": name, "answers": str(source), **found.figures}
    files.write_text(out / "metrics.json", json.dumps(figures, indent=1) + "\n")
    write_tables(
        out / "report.html", found.tables, title=suite.title, summary=about, notes=found.notes
    )
    print(f"\nlook:  {out / 'report.html'}")
    return found


def _score(suite: Suite, source: Path, scoring: str | None) -> Scored:
    answers = read_answers(source, suite)
    similarity = best_similarity() if suite.captions else TokenOverlap()
    with contextlib.ExitStack() as stack:
        metrics = None
        if suite.captions and (reason := captioning.missing()):
            print(f"captions are not scored: {reason}", file=sys.stderr)
        elif suite.captions:
            metrics = stack.enter_context(captioning.CaptionMetrics())
        scorers = CaptionScorers(similarity=similarity, metrics=metrics)
        return suite.score(answers, scoring=scoring, scorers=scorers)
