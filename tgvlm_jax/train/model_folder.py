"""A model without a run: written by `tgvlm convert`, read by a run that starts from it.

It lies as a run lies, so that whatever reads a checkpoint reads it too:

    experiment.json    its model; everything else in it is a default
    checkpoints/0/     its parameters
    hf/                what its Hugging Face folder has beside the weights: config, tokenizer
"""

import contextlib
import dataclasses
import logging
import math
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import orbax.checkpoint as ocp
from jax.sharding import Mesh
from tqdm import tqdm

from tgvlm_jax import files
from tgvlm_jax.models import lora, parameters
from tgvlm_jax.models.parameters import Params
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import checkpoint
from tgvlm_jax.types import InputError

HF_FILES = "hf"
"""Name of the folder of what belongs to a model in Hugging Face format beside its weights."""
_IN_FLIGHT = 10**9  # bytes
_LISTED = 12  # names of one kind in an error


def save(
    folder: Path, experiment: Experiment, params: Params, *, beside: Mapping[str, Path]
) -> None:
    """Writes a model; the folder appears whole or not.

    Args:
        folder: must not exist. experiment: its model is that of `params`.
        beside: what goes into `hf/`: the name there, and the file.

    Raises:
        InputError: the folder exists, cannot be written or has no room.
    """
    sizes = [value.nbytes for value in params.values()]
    # Orbax copies what it writes: without a limit, the whole model once more.
    limit = 1 + max(_IN_FLIGHT, *sizes) // 10**9
    handler = ocp.PyTreeCheckpointHandler(save_device_host_concurrent_gb=limit)
    options = ocp.CheckpointManagerOptions(create=True, enable_async_checkpointing=False)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    with files.new_folder(folder) as scratch:
        files.check_room(scratch, checkpoint.METADATA_BYTES + sum(sizes))
        (scratch / HF_FILES).mkdir()
        for name, path in beside.items():
            shutil.copy(path, scratch / HF_FILES / name)
        checkpoint.write_experiment(scratch, experiment)
        manager = ocp.CheckpointManager(
            scratch.absolute() / "checkpoints", options=options, item_handlers={"state": handler}
        )
        with _growth(scratch, total=sum(sizes)), contextlib.closing(manager):
            manager.save(0, args=ocp.args.Composite(state=ocp.args.PyTreeSave({"params": params})))


@contextlib.contextmanager
def _growth(folder: Path, *, total: int) -> Iterator[None]:
    """A progress bar, on a terminal, of the bytes in a folder; compressed, they end up fewer."""
    done = threading.Event()
    units = {"unit": "B", "unit_scale": True}
    with tqdm(total=total, desc="writing", disable=None, **units) as bar:

        def watch():
            while not done.wait(0.5):
                with contextlib.suppress(OSError):  # temporary files come and go
                    there = sum(path.stat().st_size for path in folder.rglob("*"))
                    bar.update(there - bar.n)

        thread = threading.Thread(target=watch, daemon=True)
        if not bar.disable:
            thread.start()
        try:
            yield
        finally:
            done.set()
            if thread.is_alive():
                thread.join()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What a run takes over from the folder that `train.init_from` names.

    Attributes:
        folder: of a model or of a run.
        names: what is taken over, by dotted path. size: numbers in it.
        fresh: parts that are not there and begin anew, such as "tower" or "8 adapters".
        notes: settings that differ and change no shape, as lines to be read.
    """

    folder: Path
    names: tuple[str, ...]
    size: int
    fresh: tuple[str, ...]
    notes: tuple[str, ...]

    def told(self) -> str:
        """For the log."""
        lines = [f"starts from {self.folder}: {self.size:,} parameters taken over"]
        lines += [f"  fresh: {', '.join(self.fresh)}"] if self.fresh else []
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def restore(self, experiment: Experiment, *, mesh: Mesh | None) -> Params:
        """The parameters, laid out and typed as the experiment has them.

        Raises:
            InputError: the checkpoint is damaged.
        """
        with contextlib.closing(checkpoint.Checkpoints(self.folder, read_only=True)) as store:
            return store.restore_params(experiment.model, mesh=mesh, names=self.names)

    def copy_files(self, workdir: Path) -> None:
        """Puts the model's `hf/` into the run's folder too, for the way back."""
        source, target = self.folder / HF_FILES, workdir / HF_FILES
        if source.is_dir() and not target.exists():
            with files.new_folder(target) as scratch:
                shutil.copytree(source, scratch, dirs_exist_ok=True)


def start(experiment: Experiment) -> Start | None:
    """What `train.init_from` gives to a run, by names and shapes; None from scratch.

    Adapters that are not there begin anew, and so does a whole part of the model (its tower, its
    evidence heads) of which nothing is there. Everything else must be there, in the same shape.

    Raises:
        InputError: no checkpoint there, or one of another model; every name that does not fit is
            in one message.
    """
    if not experiment.train.init_from:
        return None
    folder = Path(experiment.train.init_from)
    saved = checkpoint.load_experiment(folder)
    with contextlib.closing(checkpoint.Checkpoints(folder, read_only=True)) as store:
        there = store.shapes()
    wanted = parameters.blueprint(experiment.model).shapes
    parts = {_part(name) for name in there}
    absent = {name for name in wanted if name not in there}
    adapters = {name for name in absent if lora.is_adapter(name)}
    whole = {name for name in absent - adapters if _part(name) not in parts}
    problems = {
        "not there": sorted(absent - adapters - whole),
        "not in the config": sorted(there.keys() - wanted.keys()),
        "of another shape": [
            f"{name} is {there[name]}, not {shape}"
            for name, shape in wanted.items()
            if name in there and there[name] != shape
        ],
    }
    if "decoder" not in parts or any(problems.values()):
        told = [_listed(kind, names) for kind, names in problems.items() if names]
        raise InputError(f"train.init_from={folder} is of another model: {'; '.join(told)}")
    fresh = sorted({_part(name) for name in whole})
    fresh += [f"{len(adapters)} adapters"] if adapters else []
    names = tuple(name for name in wanted if name in there)
    return Start(
        folder=folder,
        names=names,
        size=sum(math.prod(wanted[name]) for name in names),
        fresh=tuple(fresh),
        notes=tuple(_differences(saved, experiment)),
    )


def _part(name: str) -> str:
    return name.split(".")[0]


def _listed(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} {kind}: {', '.join(names[:_LISTED])}{more}"


def _differences(saved: Experiment, wanted: Experiment) -> Iterator[str]:
    """Settings of the decoder by which the same parameters compute something else."""
    old = checkpoint.flat(saved.model.decoder, "model.decoder")
    for key, value in checkpoint.flat(wanted.model.decoder, "model.decoder").items():
        if old.get(key) != value:
            yield f"{key}={value!r} here, {old.get(key)!r} there"
