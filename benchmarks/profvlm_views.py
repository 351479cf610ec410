"""What several views add: takes whose level only one view shows, all views against each alone.

    python benchmarks/profvlm_views.py              # about ten minutes on two quiet cores

Takes are made of real film (`tgvlm_jax/data/made_takes.py`): a whole picture, a mirrored crop and a
late crop, one of which is changed. The model is configs/profvlm_sft.py:tiny. A first run trains an
encoder; frozen, its features are kept, and every model that is compared starts from the same
encoder and from fresh weights behind it. Nothing but `data.takes.views` differs between them.
Trained on the first part of the film, asked about another.
Writes benchmarks/results/profvlm_views.*.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
from pathlib import Path

import jax
import numpy as np

from tgvlm_jax import files
from tgvlm_jax.cli import features_run, session
from tgvlm_jax.cli.demo_run import FILM
from tgvlm_jax.cli.shard import find_videos
from tgvlm_jax.config import freeze, load
from tgvlm_jax.data import made_takes
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.data.made_takes import Part
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.evaluation import proficiency
from tgvlm_jax.evaluation.proficiency import ProficiencyScores
from tgvlm_jax.evaluation.runner import answer, held_out_samples
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import checkpoint, loop, model_folder

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "profvlm_sft.py"
SETTINGS = {"all views": made_takes.VIEWS, **{view: (view,) for view in made_takes.VIEWS}}
# Big Buck Bunny without its end credits; the parts are ten seconds apart.
WINDOWS = 3  # of a take, that are kept
TRAIN, VAL = Part(start=0, end=330, takes=800), Part(start=340, end=488, takes=240)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--takes", type=Path, default=Path("runs/made_takes"))
    parser.add_argument("--workdir", type=Path, default=Path("runs/profvlm_views"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--encoder_steps", type=int, default=200, help="of the first run")
    parser.add_argument("--steps", type=int, default=240, help="of each model that is compared")
    options = parser.parse_args()
    session.prepare_jax()
    prepare(options.takes)
    encoder = train_encoder(options)
    found: dict[str, list[ProficiencyScores]] = {name: [] for name in SETTINGS}
    for seed in options.seeds:
        start = fresh_start(options, encoder, seed=seed)
        for name, views in SETTINGS.items():
            print(f"{name}, seed {seed}", flush=True)
            one = experiment(options, views=views, seed=seed, arg="tiny,frozen")
            one = kept(one, options, start)
            found[name].append(scores(one, options.workdir / f"{'_'.join(views)}{seed}"))
            print(f"  accuracy {found[name][-1].accuracy:.3f}", flush=True)
        write(found, options)


def train_encoder(options: argparse.Namespace) -> Path:
    """The first run, and the features of its encoder."""
    first = experiment(options, views=made_takes.VIEWS, seed=0)
    folder = options.workdir / "encoder"
    loop.train(first, folder)
    if not (options.workdir / "features").exists():
        one = experiment(options, views=made_takes.VIEWS, seed=0, arg="tiny,frozen")
        one = dataclasses.replace(one, train=dataclasses.replace(one.train, init_from=str(folder)))
        print(features_run.run(one, options.workdir / "features"), flush=True)
    return folder


def fresh_start(options: argparse.Namespace, encoder: Path, *, seed: int) -> Path:
    """A model with the encoder of the first run; all else in it is new."""
    one = experiment(options, views=made_takes.VIEWS, seed=seed, arg="tiny,frozen")
    folder = options.workdir / f"start{seed}"
    if not folder.exists():
        names = [n for n in parameters.blueprint(one.model).shapes if n.startswith("tower.")]
        with contextlib.closing(checkpoint.Checkpoints(encoder, read_only=True)) as store:
            tower = store.restore_params(one.model, mesh=None, names=names)
        params = parameters.init(one.model, jax.random.key(1000 + seed)) | tower
        model_folder.save(folder, one, params, beside={})
    return folder


def kept(one: Experiment, options: argparse.Namespace, start: Path) -> Experiment:
    """From kept features instead of frames; the level alone is asked for, in few tokens."""
    assert one.data.takes is not None
    takes = dataclasses.replace(
        one.data.takes,
        features=str(options.workdir / "features"),
        commentary="",
        eval_commentary="",
        question="What has become of the picture?",
    )
    data = dataclasses.replace(
        one.data, takes=takes, template="qwen3", prompt_bucket=48, response_bucket=16
    )
    return dataclasses.replace(
        one,
        data=data,
        train=dataclasses.replace(one.train, init_from=str(start), steps=options.steps),
        evaluation=dataclasses.replace(one.evaluation, max_tokens=32),
    )


def prepare(folder: Path) -> None:
    """Makes takes and their shards where they are not there."""
    if not folder.exists():
        files.make_folder(folder.parent)
        made_takes.make_takes(FILM, folder, train=TRAIN, val=VAL)
    if not (folder / "shards" / "manifest.json").exists():
        write_shards(
            find_videos(folder / "videos"), folder / "shards", fps=made_takes.FPS, height=48
        )


def experiment(
    options: argparse.Namespace, *, views: tuple[str, ...], seed: int, arg: str = "tiny"
) -> Experiment:
    """The tiny twin on the made takes."""
    one = freeze(load(f"{CONFIG}:{arg},steps={options.encoder_steps}"), Experiment)
    windows = {"windows": WINDOWS} if "frozen" in arg else {}
    folder: Path = options.takes
    assert one.data.takes is not None
    takes = dataclasses.replace(
        one.data.takes,
        **windows,
        views=views,
        levels=made_takes.LEVELS,
        commentary=str(folder / "commentary_train.json"),
        eval_commentary=str(folder / "commentary_val.json"),
        question="What has become of the picture? State the level, then say why.",
    )
    data = dataclasses.replace(
        one.data,
        shards=str(folder / "shards"),
        annotations=str(folder / "proficiency_train.json"),
        eval_annotations=str(folder / "proficiency_val.json"),
        takes=takes,
    )
    return dataclasses.replace(one, seed=seed, data=data)


def scores(one: Experiment, folder: Path) -> ProficiencyScores:
    """Held-out scores of a run's model, which is trained if it is not there."""
    params = loop.train(one, folder).params
    chat, clips = open_chat(one.data, one.model), held_out_samples(one)
    said = answer(params, clips, experiment=one, chat=chat)
    return proficiency.score(
        [x.raw for x in said],
        [x.sample.answer for x in said],
        [x.sample.kind for x in said],
        levels=made_takes.LEVELS,
    )


def write(found: dict[str, list[ProficiencyScores]], options: argparse.Namespace) -> None:
    last = found["all views"][-1]
    seeds = len(found["all views"])
    facts = {
        "film": "Big Buck Bunny, 0 to 330 s for training, 340 to 488 s for the takes asked about",
        "takes": f"{TRAIN.takes} and {VAL.takes}, of 2.5 s; one of three views is changed",
        "encoder": f"of a run of {options.encoder_steps} steps on all views; then frozen",
        "training": f"{options.steps} steps of 16 takes, kept features of {WINDOWS} windows each",
        "figures": f"accuracy, mean ± standard deviation over {seeds} seeds",
        "most frequent level": f"{last.majority:.3f}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    shown = list(last.by_scenario)
    lines = ["# Several views against one", "", *(f"- {key}: {x}" for key, x in facts.items())]
    heads = ["accuracy", *shown]
    lines += ["", f"| model sees | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    for name, each in found.items():
        columns = [[one.accuracy for one in each]]
        columns += [[one.by_scenario[kind] for one in each] for kind in shown]
        cells = [f"{np.mean(x):.3f} ± {np.std(x):.3f}" for x in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    best = [max(found[view][i].accuracy for view in made_takes.VIEWS) for i in range(seeds)]
    gains = [one.accuracy - other for one, other in zip(found["all views"], best, strict=True)]
    told = ", ".join(f"{gain:+.3f}" for gain in gains)
    lines += ["", f"All views beat the best single view of the same seed by {told}."]
    text = "\n".join(lines) + "\n"
    print(text, flush=True)
    (HERE / "results" / "profvlm_views.md").write_text(text)
    each = {name: [one.to_json() for one in rows] for name, rows in found.items()}
    record = json.dumps({"facts": facts, "seeds": each}, indent=1)
    (HERE / "results" / "profvlm_views.json").write_text(record + "\n")


if __name__ == "__main__":
    main()
