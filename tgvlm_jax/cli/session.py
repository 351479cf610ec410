"""What several verbs share: JAX set up, a trained model opened, answers made ready to draw."""

import contextlib
import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float64, UInt8
from ml_collections import ConfigDict

from tgvlm_jax.config import freeze
from tgvlm_jax.data.chat import Chat, open_chat, render
from tgvlm_jax.evaluation import temporal
from tgvlm_jax.evaluation.runner import Answered, HeldOut
from tgvlm_jax.models.parameters import Params
from tgvlm_jax.report.timeline import Answer, film_strip
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import checkpoint, loop
from tgvlm_jax.types import InputError


def prepare_jax() -> None:
    """Keeps compiled programs between runs, so that a second run starts at once.

    They live in `$JAX_COMPILATION_CACHE_DIR`, by default in the user's cache folder.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tgvlm" / "xla"
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model, ready to answer."""

    experiment: Experiment
    chat: Chat
    params: Params


def open_model(workdir: Path, *, config: ConfigDict | None = None) -> Model:
    """Opens the newest checkpoint of a work directory.

    Args:
        workdir: the one of a training run.
        config: if given, it must describe the same model; its data and evaluation settings then
            hold instead of those of the run.

    Raises:
        InputError: nothing there, it is damaged, or `config` is of another model, or asks for
            a tokenizer that does not fit it.
    """
    if not workdir.is_dir():
        raise InputError(f"{workdir}: no such folder; give the --workdir of a `tgvlm train` run")
    experiment = checkpoint.load_experiment(workdir)
    if config is not None:
        wanted = freeze(config, Experiment)
        checkpoint.check_same_model(experiment, wanted, workdir)
        experiment = wanted
    chat = open_chat(experiment.data, experiment.model)
    loop.check(experiment, chat)
    with contextlib.closing(checkpoint.Checkpoints(workdir, read_only=True)) as store:
        params = store.restore_params(experiment.model, mesh=None)
    return Model(experiment=experiment, chat=chat, params=params)


def drawn(answered: Answered, *, pixels: UInt8[np.ndarray, "f y x 3"], note: str) -> Answer:
    """An answer for the report, on the clip's own clock (0 at its first frame).

    `pixels` are the clip's frames at a size worth looking at.
    """
    sample = answered.sample
    start = sample.seconds[0]
    length = float(sample.duration - start)

    def shift(spans: Float64[np.ndarray, "e 2"]) -> Float64[np.ndarray, "e 2"]:
        return spans - start

    return Answer(
        question=sample.question,
        text=render(answered.raw, shift(answered.mentions)),
        duration=length,
        seconds=sample.seconds - start,
        probabilities=answered.probabilities,
        predicted=shift(answered.spans),
        truth=shift(sample.spans) if len(sample.spans) else None,
        strip=film_strip(pixels, sample.seconds - start, duration=length),
        note=note,
    )


def table(rows: dict[str, temporal.Scores], *, title: str) -> str:
    """Scores as aligned text."""
    wide = max(len(title), *map(len, rows)) + 2
    heads = [f"R@{threshold}" for threshold in temporal.THRESHOLDS]
    lines = [f"{title:<{wide}}{'mIoU':>8}" + "".join(f"{head:>8}" for head in heads)]
    lines.append("-" * len(lines[0]))
    for name, scores in rows.items():
        recalls = "".join(f"{scores.recall[t]:>8.2f}" for t in temporal.THRESHOLDS)
        lines.append(f"{name:<{wide}}{scores.mean_iou:>8.3f}{recalls}")
    return "\n".join(lines)


def result_tables(found: HeldOut, *, name: str) -> str:
    """Held-out scores beside the blind ones, then by kind."""
    main = table({name: found.scores, **found.blind}, title="held-out clips")
    skipped = f"\n{len(found.skipped)} records left out (skipped.jsonl)" if found.skipped else ""
    return f"{main}\n\n{table(found.kinds, title='by kind')}{skipped}"
