"""What `tgvlm features` does."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32
from tqdm import tqdm

from tgvlm_jax.data import view_features
from tgvlm_jax.data.shards import open_shards
from tgvlm_jax.data.take_views import TakeViews, window_starts
from tgvlm_jax.models import parameters
from tgvlm_jax.models.parameters import Params
from tgvlm_jax.models.timesformer import Timesformer
from tgvlm_jax.schema import Experiment, TimesformerConfig
from tgvlm_jax.train import checkpoint
from tgvlm_jax.types import InputError

_TOWER = "tower."


def run(experiment: Experiment, out: Path) -> str:
    """Writes the features of all videos that the annotations name, and says how many.

    Raises:
        InputError: the config has no takes or no encoder to start from, a file does not fit, a
            video cannot be read, or `out` exists or cannot be written.
    """
    if experiment.data.takes is None or not isinstance(experiment.model.tower, TimesformerConfig):
        raise InputError(
            "features are of takes: give a config with data.takes, such as profvlm_sft"
        )
    if out.exists():
        raise InputError(f"{out}: exists already; name another folder")
    began = time.monotonic()
    config = dataclasses.replace(experiment.data.takes, features="")
    wanted = _videos(experiment)
    params = _encoder(experiment)
    manifest = view_features.Manifest(
        version=view_features.VERSION,
        encoder=parameters.digest(params),
        width=experiment.model.tower.width,
        frames=max(experiment.data.frames),
        window=config.window,
        windows=config.windows,
        videos=tuple(wanted),
    )
    view_features.write_features(out, manifest, _vectors(experiment, params, wanted))
    clips = len(wanted) * (config.windows + 1)
    return f"{out}: {len(wanted)} videos, {clips} clips in {time.monotonic() - began:.1f} s"


def _videos(experiment: Experiment) -> dict[str, tuple[TakeViews, float]]:
    """By id: the source that a video is of, and the seconds that its take has."""
    data, found = experiment.data, {}
    takes = dataclasses.replace(data.takes, features="") if data.takes else None
    plain = dataclasses.replace(data, takes=takes, batch_size=1)
    for split in get_args(Literal["train", "eval"]):
        if not (data.annotations if split == "train" else data.eval_annotations):
            continue
        size = experiment.model.frame_size
        source = TakeViews(open_shards(data.shards), plain, size=size, split=split, seed=0)
        for record in source.records:
            length = source.length(record.take)
            found |= dict.fromkeys(source.videos(record.take).values(), (source, length))
    if not found:
        raise InputError("data.annotations='': name the takes, here or in data.eval_annotations")
    return found


def _encoder(experiment: Experiment) -> Params:
    """The tower's parameters, by their names in the model."""
    if not experiment.train.init_from:
        raise InputError("train.init_from='': name the checkpoint whose encoder is to run")
    folder = Path(experiment.train.init_from)
    shapes = parameters.blueprint(experiment.model).shapes
    names = [name for name in shapes if name.startswith(_TOWER)]
    with contextlib.closing(checkpoint.Checkpoints(folder, read_only=True)) as store:
        there = store.shapes()
        wrong = [name for name in names if there.get(name) != shapes[name]]
        if wrong:
            raise InputError(f"train.init_from={folder}: has no such encoder ({wrong[0]})")
        return store.restore_params(experiment.model, mesh=None, names=names)


def _vectors(
    experiment: Experiment, params: Params, wanted: dict[str, tuple[TakeViews, float]]
) -> Iterator[Float32[np.ndarray, "w d"]]:
    """Of the windows of each video, the next one read while the last one is encoded."""
    tower, model = experiment.model.tower, experiment.model
    assert isinstance(tower, TimesformerConfig)
    made = {"dtype": jnp.dtype(model.param_dtype), "activations": jnp.dtype(model.dtype)}
    graph = nnx.graphdef(nnx.eval_shape(lambda: Timesformer(tower, rngs=nnx.Rngs(0), **made)))

    @jax.jit
    def encode(params, clips):
        paths = {tuple(name.removeprefix(_TOWER).split(".")): x for name, x in params.items()}
        state = nnx.from_flat_state({path: nnx.Param(x) for path, x in paths.items()})
        return nnx.merge(graph, state).vectors(clips[None])[0]

    pending = None
    for video, (source, length) in tqdm(wanted.items(), desc="features", disable=None):
        window = min(source.takes.window, length)
        starts = window_starts(length, window, source.takes.windows)
        clips = np.stack([source.clip(video, start, window) for start in starts.tolist()])
        if pending is not None:
            yield np.asarray(pending, np.float32)
        pending = encode(params, clips)
    yield np.asarray(pending, np.float32)
