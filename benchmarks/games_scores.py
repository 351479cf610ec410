"""What models trained on `tgvlm games` answer about its held-out films, beside blind answers.

    python benchmarks/games_scores.py runs/games/run                  # one run
    python benchmarks/games_scores.py --name sft a b c --name fpo d e f   # means over seeds

Prints tables, and with --out NAME writes them and every figure to benchmarks/results/NAME.*.
Grounding: mean IoU and F1 at an IoU of 0.5. Captions: F1 of times alone, and of times and words
together. Referring: share of answers in the very words of the truth. Runs of preferences have the
curves of their margins beside.
"""

import argparse
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np

from tgvlm_jax import files
from tgvlm_jax.cli import session
from tgvlm_jax.data import games_questions
from tgvlm_jax.data.annotated import AnnotatedVideos
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.evaluation import event_answers
from tgvlm_jax.evaluation.event_answers import EventAnswer, EventScores
from tgvlm_jax.evaluation.runner import answer
from tgvlm_jax.train.metrics import read_metrics

RESULTS = Path(__file__).resolve().parent / "results"
TASKS = ("tvg", "dvc", "rar")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="work folders, without a name")
    parser.add_argument("--name", nargs="+", action="append", default=[], help="NAME RUN ...")
    parser.add_argument("--films", type=int, default=10**6, help="held-out films to ask about")
    parser.add_argument("--out", help="name of the results")
    args = parser.parse_args()
    groups = {str(run): [run] for run in args.runs}
    groups |= {name: [Path(run) for run in runs] for name, *runs in args.name}
    found = {name: [scores(run, args.films) for run in runs] for name, runs in groups.items()}
    lines = ["|  | grounding mIoU | F1@0.5 | captions F1@0.5 | with words | referring |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, each in found.items():
        rows = [figures(one) for one in each]
        lines.append(f"| {name} | {' | '.join(map(spread, zip(*rows, strict=True)))} |")
    first = next(iter(groups.values()))[0]
    blind = games_questions.blind(val_records(first))
    row = [blind.mean_iou, blind.recall, blind.captions, None, blind.referring]
    lines.append(f"| blind | {' | '.join('-' if x is None else f'{x:.3f}' for x in row)} |")
    for name, runs in groups.items():
        lines += curves(name, runs)
    print("\n".join(lines))
    if args.out:
        plain = {name: [{t: dataclasses.asdict(s) for t, s in one.items()} for one in each]
                 for name, each in found.items()}  # fmt: skip
        plain["blind"] = dataclasses.asdict(blind)
        head = ["# Held-out rendered films", "", "Mean ± standard deviation over the runs.", ""]
        files.write_text(RESULTS / f"{args.out}.md", "\n".join([*head, *lines]) + "\n")
        files.write_text(RESULTS / f"{args.out}.json", json.dumps(plain, indent=1) + "\n")


def curves(name: str, runs: list[Path]) -> list[str]:
    """Preference loss and margin over the steps of runs that have them, in sixths of a run."""
    logs = [read_metrics(run / "metrics.jsonl") for run in runs]
    if not all(log and "margin" in log[0] for log in logs):
        return []
    lines = ["", f"{name}, while it trains (means of a sixth of the steps):", ""]
    lines += [
        "| steps | margin, nats | pairs in order | preference loss |",
        "| --- | --- | --- | --- |",
    ]
    edges = np.linspace(0, min(map(len, logs)), 7).astype(int).tolist()
    for first, last in itertools.pairwise(edges):
        means = [
            np.mean([one[key] for log in logs for one in log[first:last]])
            for key in ("margin", "accuracy", "preference")
        ]
        cells = f"{means[0]:.1f} | {means[1]:.3f} | {means[2]:.4f}"
        lines.append(f"| {first + 1} to {last} | {cells} |")
    return lines


def scores(run: Path, films: int) -> dict[str, EventScores]:
    """Scores of each task on the held-out films of a run."""
    model = session.open_model(run)
    config = model.experiment.data
    size = model.experiment.model.frame_size
    source = AnnotatedVideos(open_shards(config.shards), config, size=size, split="eval", seed=0)
    chosen = sorted({one.video for one in source.records})[:films]
    given: dict[str, list[EventAnswer]] = {task: [] for task in TASKS}
    numbers = [n for n, one in enumerate(source.records) if one.video in chosen]
    samples = [source.sample(number, frames=max(config.frames)) for number in numbers]
    for one in answer(model.params, samples, experiment=model.experiment, chat=model.chat):
        sample = one.sample
        given[sample.kind].append(
            EventAnswer(text=one.raw, truth=sample.answer, spans=one.spans, true_spans=sample.spans)
        )
    return {task: event_answers.score(each) for task, each in given.items()}


def figures(one: dict[str, EventScores]) -> list[float]:
    tvg, dvc, rar = (one[task] for task in TASKS)
    return [tvg.mean_iou, tvg.f1, dvc.f1, dvc.f1_said, rar.said]


def spread(values: tuple[float, ...]) -> str:
    text = f"{np.mean(values):.3f}"
    return f"{text} ± {np.std(values):.3f}" if len(values) > 1 else text


def val_records(run: Path) -> list[dict]:
    config = session.open_model(run).experiment.data
    return json.loads(Path(config.eval_annotations).read_text())


if __name__ == "__main__":
    main()
