"""What preferences add: FPO after SFT against SFT that goes on for as many steps, over seeds.

    tgvlm demo --seeds 3
    python benchmarks/fpo_after_sft.py               # about a minute a seed and way

Both ways start from the models that the demo has fine-tuned and see the same clips in the same
order. Prints a table of held-out scores and writes benchmarks/results/fpo_after_sft.*; the curves
are in metrics.jsonl of every run.
"""

import argparse
import dataclasses
import os
import platform
from pathlib import Path

import numpy as np
from published import publish

from tgvlm_jax.cli import demo_run, session
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.evaluation.runner import evaluate
from tgvlm_jax.schema import Experiment, FpoConfig, SftConfig
from tgvlm_jax.train import loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="its workdir")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=192, help="held out")
    options = parser.parse_args()
    session.prepare_jax()
    first = demo_run.load_experiment(shards=options.demo / "shards")
    found: dict[str, list[dict[str, float]]] = {"SFT": [], "SFT, more": [], "FPO": []}
    for seed in range(options.seeds):
        finished = options.demo / f"seed{seed}"
        one = dataclasses.replace(first, seed=seed)
        fpo = demo_run.later_stage(one, "fpo", start=finished)
        assert isinstance(fpo.objective, FpoConfig)
        more = dataclasses.replace(fpo, objective=SftConfig())
        ways = {"SFT": (one, finished), "FPO": (fpo, options.demo / f"seed{seed}-fpo")}
        ways["SFT, more"] = (more, options.demo / f"seed{seed}-more")
        for name, (experiment, folder) in ways.items():
            print(f"{name}, seed {seed}", flush=True)
            found[name].append(_scores(experiment, folder, clips=options.clips))
    _write(found, options)


def _scores(experiment: Experiment, folder: Path, *, clips: int) -> dict[str, float]:
    params = loop.train(experiment, folder).params
    asked = dataclasses.replace(experiment.evaluation, samples=clips)
    experiment = dataclasses.replace(experiment, evaluation=asked)
    scores = evaluate(params, experiment=experiment, chat=open_chat(experiment.data)).scores
    return scores.to_json()


def _write(found: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    names = [name for name in found["FPO"][0] if name != "count"]
    values = {
        way: np.array([[one[n] for n in names] for one in each]) for way, each in found.items()
    }
    values["FPO - SFT, more"] = values["FPO"] - values["SFT, more"]
    facts = {
        "models": f"those of `tgvlm demo --seeds {options.seeds}`, each continued in both ways",
        "clips": f"{options.clips} held out, the same for all",
        "figures": "mean ± standard deviation over the seeds; the last row is paired by seed",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    lines = ["# Preferences after supervised fine-tuning, or more of it", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += ["", f"| | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
    for way, each in values.items():
        cells = [f"{x.mean():.3f} ± {x.std():.3f}" for x in each.T]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    publish("fpo_after_sft", text, {"facts": facts, "seeds": found})


if __name__ == "__main__":
    main()
