"""The demo, step by step; the quickstart notebook calls the same functions."""

import dataclasses
import importlib.resources
import shlex
import shutil
import time
from pathlib import Path

import av
import jax
import numpy as np
from ml_collections import ConfigDict

from tgvlm_jax import files
from tgvlm_jax.cli import results, session, shard
from tgvlm_jax.config import freeze, load
from tgvlm_jax.data import video
from tgvlm_jax.data.anomalies import perturb
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.data.pretext import question
from tgvlm_jax.evaluation.runner import Answered, HeldOut, evaluate
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import checkpoint, loop
from tgvlm_jax.types import InputError

FILM = Path(str(importlib.resources.files("tgvlm_jax") / "assets" / "big_buck_bunny.mp4"))
_CONFIG = Path(__file__).parents[2] / "configs" / "tiny.py"
_STORED = (72, 128)  # pixels of the frames in the shards
STAGES = {
    "SFT": "supervised fine-tuning",
    "FPO": "preferences between good and worse answers",
    "GRPO": "rewards for answers of its own",
}
_LAST = list(STAGES)[-1]
_STEPS = 3 + len(STAGES)


def run(
    workdir: Path, *, seeds: int = 1, fresh: bool = False, config: ConfigDict | None = None
) -> HeldOut:
    """Shards, trains in three stages, evaluates and reports; returns what the first model says.

    The stages are supervised fine-tuning from scratch (SFT), preferences from there (FPO), and
    rewards for sampled answers from there (GRPO).

    Raises:
        InputError: the workdir cannot be written or holds a run of another config.
        Preempted: SIGTERM came; running again continues.
    """
    began = time.monotonic()
    experiment = load_experiment(config, shards=workdir / "shards")
    each = [_stages(experiment, workdir, seed=experiment.seed + i) for i in range(seeds)]
    if fresh and workdir.exists():
        _forget(workdir)
    for stages in each:
        for folder, one in stages.items():
            _check_earlier(workdir / folder, one)
    say = _Narrator()
    say(1, "the film becomes frame shards")
    shard_film(experiment)

    say(2, "before training: held-out questions to a model that knows nothing")
    chat = open_chat(experiment.data, experiment.model)
    untrained = parameters.init(experiment.model, jax.random.key(experiment.seed))
    before = evaluate(untrained, experiment=experiment, chat=chat)
    size = sum(leaf.size for leaf in jax.tree.leaves(untrained))

    found: dict[str, list[HeldOut]] = {name: [] for name in STAGES}
    seconds: list[float] = []
    for number, stages in enumerate(each, 1):
        of = f", model {number} of {seeds}" if seeds > 1 else ""
        for step, (stage, (folder, one)) in enumerate(zip(STAGES, stages.items(), strict=True), 3):
            steps = f"{size / 1e6:.1f} M parameters, {one.train.steps} steps{of}"
            say(step, f"{STAGES[stage]}: {steps}")
            start = time.monotonic()
            trained = loop.train(one, workdir / folder)
            if not trained.ran:
                print("trained already; --fresh trains again")
            seconds.append(time.monotonic() - start)
            found[stage].append(evaluate(trained.params, experiment=one, chat=chat))

    say(_STEPS, "after training: the same questions")
    _report(workdir, found, before, experiment, size=size, seconds=sum(seconds[: len(STAGES)]))
    clip, last = workdir / "example.mp4", found[_LAST][0]
    asked = write_example(clip, last.answered)
    print(f"{time.monotonic() - began:.0f} s in all")
    print(f"\nlook:  {workdir / 'report.html'}")
    places = ["--checkpoint", str(workdir / list(each[0])[-1]), "--video", str(clip)]
    print(f"try:   {shlex.join(['tgvlm', 'ask', *places, asked])}")
    return last


def _stages(first: Experiment, workdir: Path, *, seed: int) -> dict[str, Experiment]:
    """The stages of one model, by the folders that they run in."""
    name = f"seed{seed}"
    one = dataclasses.replace(first, seed=seed)
    preferences = later_stage(one, "fpo", start=workdir / name)
    rewards = later_stage(one, "grpo", start=workdir / f"{name}-fpo")
    return {name: one, f"{name}-fpo": preferences, f"{name}-grpo": rewards}


def later_stage(first: Experiment, stage: str, *, start: Path) -> Experiment:
    """What follows `first`: configs/tiny.py:STAGE on the model of a finished run.

    It has as large a share of the steps as in that file, and other clips of the same film.
    """
    whole = freeze(load(str(_CONFIG)), Experiment).train.steps
    config = freeze(load(f"{_CONFIG}:{stage}"), Experiment)
    steps = max(1, round(config.train.steps * first.train.steps / whole))
    train = dataclasses.replace(config.train, steps=steps, init_from=str(start))
    return dataclasses.replace(
        first,
        seed=first.seed + config.seed,
        objective=config.objective,
        optim=config.optim,
        train=train,
    )


def _check_earlier(folder: Path, experiment: Experiment) -> None:
    """Fails at once, and not after the sharding, where a run of another config is in the way."""
    if (folder / "experiment.json").exists():
        try:
            checkpoint.save_experiment(folder, experiment)
        except InputError as error:
            raise InputError(f"{error}; or start anew: --fresh") from error


class _Narrator:
    """Numbered steps with the time they started at."""

    def __init__(self):
        self.began = time.monotonic()

    def __call__(self, step: int, text: str) -> None:
        print(f"\n[{step}/{_STEPS}  {time.monotonic() - self.began:4.0f} s]  {text}", flush=True)


def load_experiment(config: ConfigDict | None = None, *, shards: Path) -> Experiment:
    """The experiment of the demo, by default configs/tiny.py, on shards in a folder of its own.

    Raises:
        InputError: the config has unknown keys or wrong types, or there is none.
    """
    if config is None:
        if not _CONFIG.is_file():
            raise InputError("configs/tiny.py is not beside the package; give --config FILE")
        config = load(str(_CONFIG))
    experiment = freeze(config, Experiment)
    return dataclasses.replace(
        experiment, data=dataclasses.replace(experiment.data, shards=str(shards))
    )


def shard_film(experiment: Experiment) -> None:
    """Makes the shards that an experiment names out of the film that comes with the library."""
    shard.run(
        FILM,
        Path(experiment.data.shards),
        fps=experiment.data.fps,
        height=_STORED[0],
        width=_STORED[1],
        quality=90,
        workers=1,
    )


def _forget(workdir: Path) -> None:
    """Removes an earlier demo, and never a folder that is something else."""
    if not (workdir / "shards" / "manifest.json").exists() and any(workdir.iterdir()):
        raise InputError(f"{workdir}: --fresh deletes only an earlier demo, and this is none")
    shutil.rmtree(workdir)


def _report(
    workdir: Path,
    found: dict[str, list[HeldOut]],
    before: HeldOut,
    experiment: Experiment,
    *,
    size: int,
    seconds: float,
) -> None:
    last = found[_LAST][0]
    trained = {f"after {stage}": each[0].scores for stage, each in found.items()}
    rows = {**trained, "before training": before.scores, **last.blind}
    print(session.table(rows, title="held-out clips"))
    print(f"\n{session.table(last.kinds, title=f'by kind, after {_LAST}')}\n")
    means = {name: np.array([x.scores.mean_iou for x in each]) for name, each in found.items()}
    if len(means[_LAST]) > 1:
        for name, each in means.items():
            listed = ", ".join(f"{mean:.3f}" for mean in each)
            spread = f"{each.mean():.3f} ± {each.std():.3f} ({listed})"
            print(f"{name}: mIoU over {len(each)} seeds: {spread}")
    mean = means[_LAST].mean()
    print(f"{mean / last.best_blind:.1f} x the best blind answer ({last.best_blind:.3f})")
    minutes = f" in {seconds / 60:.1f} minutes" if seconds > 20 else ""
    folder = workdir / f"seed{experiment.seed}"
    results.write(
        workdir,
        last,
        experiment=experiment,
        run=folder,
        before={"before training": before.scores, **dict(list(trained.items())[:-1])},
        spread=float(means[_LAST].std()) if len(means[_LAST]) > 1 else None,
        summary=(
            f"A video-language model of {size / 1e6:.1f} M parameters, trained from scratch"
            f"{minutes} on the first two thirds of Big Buck Bunny, answers about shots of the "
            "last third that it never saw. The curves are those of supervised fine-tuning; "
            "preferences (FPO) and rewards (GRPO) came after it."
        ),
        more={
            "before": before.scores.to_json(),
            **{name.lower(): each[0].scores.to_json() for name, each in found.items()},
            "seeds": {
                name.lower(): {"mean_iou": x.tolist(), "mean": x.mean(), "std": x.std()}
                for name, x in means.items()
            },
        },
    )


def write_example(path: Path, answered: list[Answered]) -> str:
    """Writes the best-answered clip as a video to ask about; returns the question.

    The film is decoded anew at its own size, and the frames of the true interval are changed.
    """
    sample = max(answered, key=lambda one: one.iou or 0.0).sample
    start, (first, last) = float(sample.seconds[0]), sample.spans[0]
    found = video.decode(FILM, fps=12.0, height=180, start=start, end=sample.duration)
    inside = (found.seconds >= first) & (found.seconds < last)
    pixels = found.pixels.copy()
    pixels[inside] = perturb(pixels[inside], sample.kind, rng=np.random.default_rng(0))

    with files.replacing(path) as scratch, av.open(str(scratch), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=12, options={"crf": "23"})
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in pixels:
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return question(sample.kind)
