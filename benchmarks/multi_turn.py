"""What turns add: questions about moments that the first frames do not show, over seeds.

    tgvlm demo                                      # makes the shards
    python benchmarks/multi_turn.py                 # about half an hour a seed on two cores

Real video with a disc hidden between two frames of the first look, and a bar that says where
(`data/hidden_marks.py`). Two models of one size with the same number of frames and steps: one sees
16 at once, the other 8, and 8 more where it asks for them. Random weights say nothing that earns
anything, so both begin by imitating a script that answers rightly; half of its looks go to where
the disc is and half anywhere (configs/videomtr_ppo.py:tiny,imitate). Then they learn by reward.

Prints held-out accuracy and where the model looked, before and after, and writes
benchmarks/results/multi_turn.*; the curves are in metrics.jsonl of every run.
"""

import argparse
import dataclasses
import itertools
import json
import os
import platform
from pathlib import Path

import jax
import numpy as np

from tgvlm_jax.cli import session
from tgvlm_jax.config import freeze, load
from tgvlm_jax.data.sources import open_source
from tgvlm_jax.rollout import retrieval
from tgvlm_jax.schema import Experiment, SamplingConfig
from tgvlm_jax.train import episodes, loop, talks
from tgvlm_jax.train.metrics import read_metrics

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "videomtr_ppo.py"
MODES = {"several turns": "", "one turn": ",single"}
STAGES = ("imitate", "reward")
SHOWN = ("accuracy", "evidence", "right_looks", "looks", "frames")
WAYS = {"sampled": SamplingConfig(temperature=1.0), "likeliest": SamplingConfig()}
Figures = dict[str, dict[str, float]]
"""By the way of answering."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, default=Path("runs/demo/shards"))
    parser.add_argument("--workdir", type=Path, default=Path("runs/multi_turn"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--questions", type=int, default=256, help="held out")
    parser.add_argument("--critic", action="store_true", help="PPO instead of GRPO")
    parser.add_argument("--shared-start", action="store_true", help="one imitation for all seeds")
    parser.add_argument("--starts", type=Path, nargs=2, help="imitations that are there already")
    options = parser.parse_args()
    session.prepare_jax()
    found: dict[str, dict[str, list]] = {mode: {s: [] for s in STAGES} for mode in MODES}
    curves: dict[str, list] = {mode: [] for mode in MODES}
    for seed in options.seeds:
        for number, (mode, arg) in enumerate(MODES.items()):
            shared = options.seeds[0] if options.shared_start else seed
            start = options.workdir / f"{mode.replace(' ', '_')}-imitate{shared}"
            if options.starts:
                start = options.starts[number]
            else:
                train(f"tiny,imitate{arg}", start, seed=shared, options=options)
            learner = "" if options.critic else ",grpo"
            folder = options.workdir / f"{mode.replace(' ', '_')}-reward{seed}"
            train(f"tiny{learner}{arg}", folder, seed=seed, options=options, start=str(start))
            for stage, made in zip(STAGES, (start, folder), strict=True):
                found[mode][stage].append(held_out(made, options))
            curves[mode].append(curve(folder))
        write(found, curves, options)


def train(
    arg: str, folder: Path, *, seed: int, options: argparse.Namespace, start: str = ""
) -> None:
    """Runs a stage, unless it has been run."""
    print(f"{folder}: {arg}", flush=True)
    one = freeze(load(f"{CONFIG}:{arg}"), Experiment)
    one = dataclasses.replace(
        one,
        seed=one.seed + 100 * seed + (50 if start else 0),
        data=dataclasses.replace(one.data, shards=str(options.shards)),
        train=dataclasses.replace(one.train, init_from=start),
    )
    loop.train(one, folder)


def held_out(folder: Path, options: argparse.Namespace) -> Figures:
    """Figures of a run's model on the last third of the film."""
    model = session.open_model(folder)
    experiment, chat, params = model.experiment, model.chat, model.params
    config, size = experiment.evaluation, experiment.model.frame_size
    source = open_source(experiment.data, "eval", size=size, seed=config.seed)
    pool, found = experiment.data.frames[0], {}
    for way, sampling in WAYS.items():
        played = []
        for first in range(0, options.questions, 64):
            played += talks.play(
                params,
                [source.sample(i, frames=pool) for i in range(first, first + 64)],
                experiment=experiment,
                chat=chat,
                sampling=sampling,
                key=jax.random.key(first),
                max_tokens=config.max_tokens,
            )
        found[way] = episodes.summary(played)
        print(way, found[way], flush=True)
    return found


def visible(options: argparse.Namespace) -> float:
    """In how many of the held-out questions the frames of a single look show the disc."""
    one = freeze(load(f"{CONFIG}:tiny,grpo,single"), Experiment)
    data = dataclasses.replace(one.data, shards=str(options.shards))
    source = open_source(data, "eval", size=one.model.frame_size, seed=one.evaluation.seed)
    found = 0
    for number in range(options.questions):
        sample = source.sample(number, frames=data.frames[0], pixels=False)
        task = episodes.task(sample)
        found += bool(set(retrieval.uniform(task.pool, data.turns.first)) & task.relevant)
    return found / options.questions


def curve(folder: Path) -> dict[str, list[float]]:
    """Shares in training, step by step, from the log."""
    records = read_metrics(folder / "metrics.jsonl")
    return {name: [record[name] for record in records] for name in ("right_looks", "accuracy")}


def write(found: dict, curves: dict, options: argparse.Namespace) -> None:
    seeds, seen = len(found["several turns"]["reward"]), visible(options)
    shared = options.shared_start or options.starts
    facts = {
        "film": "Big Buck Bunny; trained on its first two thirds, asked about the last",
        "questions": f"{options.questions} held out, the same for all; four options",
        "answers": "sampled at temperature 1, as in training, and the likeliest",
        "learning": "PPO with a critic" if options.critic else "GRPO",
        "figures": f"mean ± standard deviation over {seeds} seeds",
        "start": "one imitation of each kind for all seeds" if shared else "one imitation a seed",
        "evidence": "of right answers, those given after the disc was seen",
        "right looks": "of all turns, those that retrieve a frame with the disc",
        "at best": f"the 16 frames of one turn show the disc in {seen:.3f} of the questions: with "
        f"luck in the others {seen + (1 - seen) / 4:.3f} are right",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    lines = ["# Several turns beside one, with the same number of frames", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += [
        "",
        "| model | stage | answers | accuracy | evidence | right looks | looks | frames |",
    ]
    lines.append("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for mode, stages in found.items():
        for stage, way in itertools.product(stages, WAYS):
            each = [one[way] for one in stages[stage]]
            cells = [
                f"{np.mean([one[name] for one in each]):.3f} ± "
                f"{np.std([one[name] for one in each]):.3f}"
                for name in SHOWN
            ]
            lines.append(f"| {mode} | {stage} | {way} | {' | '.join(cells)} |")
    lines += ["", "Right looks while it learns by reward (sampled answers), by seed:", ""]
    for number, one in enumerate(curves["several turns"]):
        values = np.asarray(one["right_looks"])
        tenth = max(1, len(values) // 10)
        lines.append(
            f"- seed {options.seeds[number]}: {values[:tenth].mean():.3f} in the first tenth of "
            f"the steps, {values[-tenth:].mean():.3f} in the last"
        )
    text = "\n".join(lines) + "\n"
    print(text, flush=True)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "multi_turn.md").write_text(text)
    record = {"facts": facts, "held out": found, "curves": curves}
    (HERE / "results" / "multi_turn.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
