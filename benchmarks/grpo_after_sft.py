"""What rewards add: GRPO after SFT on two pretext tasks of real video, over seeds.

    tgvlm demo                                      # makes the shards
    python benchmarks/grpo_after_sft.py             # about eight minutes a seed on two cores

Both stages are those of configs/tiny.py (`pretext`, then `pretext,grpo`). Prints held-out rewards
by task before and after, beside those of blind answers to the same questions, and writes
benchmarks/results/grpo_after_sft.*; the curves are in metrics.jsonl of every run.
"""

import argparse
import dataclasses
import json
import os
import platform
from pathlib import Path

import jax
import numpy as np

from tgvlm_jax.cli import session
from tgvlm_jax.config import freeze, load
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.evaluation import pretext
from tgvlm_jax.evaluation.runner import answer, held_out_samples
from tgvlm_jax.schema import Experiment, SamplingConfig
from tgvlm_jax.train import loop

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "tiny.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, default=Path("runs/demo/shards"))
    parser.add_argument("--workdir", type=Path, default=Path("runs/grpo_after_sft"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--clips", type=int, default=384, help="held out")
    options = parser.parse_args()
    session.prepare_jax()
    found: dict[str, list[Held]] = {"SFT": [], "GRPO": []}
    for seed in options.seeds:
        first = options.workdir / f"sft{seed}"
        for stage, arg, folder, start in (
            ("SFT", "pretext", first, ""),
            ("GRPO", "pretext,grpo", options.workdir / f"grpo{seed}", str(first)),
        ):
            print(f"{stage}, seed {seed}", flush=True)
            one = freeze(load(f"{CONFIG}:{arg}"), Experiment)
            one = dataclasses.replace(
                one,
                seed=one.seed + seed,
                data=dataclasses.replace(one.data, shards=str(options.shards)),
                train=dataclasses.replace(one.train, init_from=start),
                evaluation=dataclasses.replace(one.evaluation, samples=options.clips),
            )
            found[stage].append(scores(one, folder))
        write(found, options)


Held = dict[str, pretext.PretextScores]
"""By the way of answering."""
WAYS = {"sampled": SamplingConfig(temperature=1.0), "likeliest": SamplingConfig()}


def scores(experiment: Experiment, folder: Path) -> Held:
    """Held-out scores of a run's model, which is trained if it is not there."""
    params = loop.train(experiment, folder).params
    chat, clips = open_chat(experiment.data, experiment.model), held_out_samples(experiment)
    found = {}
    for way, sampling in WAYS.items():
        said = answer(
            params,
            clips,
            experiment=experiment,
            chat=chat,
            sampling=sampling,
            key=jax.random.key(0),
        )
        found[way] = pretext.score([one.sample for one in said], [one.raw for one in said])
    return found


def write(found: dict[str, list[Held]], options: argparse.Namespace) -> None:
    facts = {
        "film": "Big Buck Bunny; trained on its first two thirds, asked about the last",
        "clips": f"{options.clips} held out, the same for all",
        "answers": "sampled at temperature 1, as in training, and the likeliest",
        "figures": f"mean ± standard deviation over {len(found['GRPO'])} seeds, gain by seed",
        "blind": "the best constant answer to these very questions",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    lines = ["# Rewards after supervised fine-tuning", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += ["", "| task | answers | after SFT | after GRPO | gain | best blind |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: |")
    for task, last in found["GRPO"][0]["sampled"].tasks.items():
        for way in WAYS:
            before, after = (
                np.array([one[way].tasks[task].smooth for one in found[stage]])
                for stage in ("SFT", "GRPO")
            )
            gain = after - before
            cells = [f"{x.mean():.3f} ± {x.std():.3f}" for x in (before, after)]
            cells.append(f"{gain.mean():+.3f} ± {gain.std():.3f}")
            lines.append(f"| {task} | {way} | {' | '.join(cells)} | {last.best_blind:.3f} |")
    text = "\n".join(lines) + "\n"
    print(text, flush=True)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "grpo_after_sft.md").write_text(text)
    record = {
        "facts": facts,
        "seeds": {
            stage: [{way: one.to_json() for way, one in held.items()} for held in each]
            for stage, each in found.items()
        },
    }
    (HERE / "results" / "grpo_after_sft.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
