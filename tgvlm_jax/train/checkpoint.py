"""Checkpoints: model, optimiser, data iterator and keys, written by Orbax, atomic, resumable.

A work directory holds `experiment.json` (the config, frozen), `checkpoints/STEP/` and
`metrics.jsonl`. A checkpoint restores onto any mesh: arrays take the layout of the new state.

A model that was not trained here has the same layout, with its parameters in `checkpoints/0/`
(`model_folder.py`).
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tgvlm_jax import files
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.config import freeze
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import Experiment, ModelConfig
from tgvlm_jax.train.state import TrainState
from tgvlm_jax.types import InputError

# What may change between the runs of one work directory: it does not change what is computed, or
# says what to do when that went wrong.
_FREE = (
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "profile",
    "train.watchdog_seconds",
    "train.on_nan",
    "train.on_spike",
    "train.spike_factor",
    "train.skips",
    "train.rewinds",
    "evaluation.",
    "mesh.",
    "data.shards",
    "data.threads",
    "data.prefetch",
)
_WINDOW = "window"
METADATA_BYTES = 2**19
"""Of a checkpoint, at most, beside its arrays."""
_NO_ROOM = "free some space or give another --workdir. Earlier checkpoints are whole"


def save_experiment(workdir: Path, experiment: Experiment) -> None:
    """Writes the config of a run, or checks that the run already there has the same.

    A run that has saved no checkpoint yet gives way to another config.

    Raises:
        InputError: the directory cannot be written, or holds another experiment.
    """
    path = workdir / "experiment.json"
    if (workdir / "checkpoints" / "0").exists():  # a run's first is 1
        raise InputError(
            f"{workdir}: holds a converted model and no run; start from it by "
            f"train.init_from={workdir} and give another --workdir"
        )
    with files.disk_errors(workdir, hint=_NO_ROOM):
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists() and has_steps(workdir):
            _same(load_experiment(workdir), experiment, workdir)
    write_experiment(workdir, experiment)


def has_steps(workdir: Path) -> bool:
    """Whether a run has saved something there, be it half of a checkpoint."""
    return any(workdir.glob("checkpoints/*"))


def write_experiment(workdir: Path, experiment: Experiment) -> None:
    """Writes the config into a folder that is there, whatever it holds."""
    text = json.dumps(dataclasses.asdict(experiment), indent=1)
    files.write_text(workdir / "experiment.json", text)


def load_experiment(workdir: Path) -> Experiment:
    """The config that a run was started with; a tokenizer that lies inside is found there.

    Raises:
        InputError: no run there, or its config is damaged or of another version.
    """
    path = workdir / "experiment.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no settings")
        found = freeze(ConfigDict(values), Experiment)
    except FileNotFoundError:
        theirs = (workdir / "config.json").exists()
        todo = "give the --workdir of a `tgvlm train` run"
        if theirs:
            todo = f"it is in Hugging Face format: tgvlm convert --from {workdir} --to DIR"
        raise InputError(
            f"{workdir}: no checkpoint of ours there (no experiment.json); {todo}"
        ) from None
    except (ValueError, OSError) as error:  # an InputError of `freeze` is a ValueError
        raise InputError(
            f"{path}: damaged, or of another version ({_first_line(error)}); put back the one "
            "that `tgvlm train` wrote, or train in another --workdir"
        ) from error
    inside = workdir / found.data.tokenizer
    if not (inside / "tokenizer.json").is_file():
        return found
    return dataclasses.replace(found, data=dataclasses.replace(found.data, tokenizer=str(inside)))


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Dotted keys of a nested dataclass."""
    if dataclasses.is_dataclass(value):
        inside = [
            flat(getattr(value, field.name), f"{path}.{field.name}" if path else field.name)
            for field in dataclasses.fields(value)
        ]
        return {key: item for part in inside for key, item in part.items()}
    return {path: value}


def check_same_model(saved: Experiment, wanted: Experiment, where: Path) -> None:
    """Raises InputError where a config describes another model than a checkpoint holds."""
    _compare(flat(saved.model, "model"), flat(wanted.model, "model"), where)


def _same(saved: Experiment, wanted: Experiment, where: Path) -> None:
    _compare(flat(saved), flat(wanted), where)


def _compare(old: dict[str, Any], new: dict[str, Any], where: Path) -> None:
    changed = [key for key in new if old.get(key) != new[key] and not key.startswith(_FREE)]
    if changed:
        key = changed[0]
        more = f" (and {len(changed) - 1} more keys)" if len(changed) > 1 else ""
        raise InputError(
            f"{where}: holds a run with {key}={old.get(key)!r}, the config says {new[key]!r}"
            f"{more}; give another --workdir, or the same config"
        )


class Checkpoints:
    """Saves and restores the states of one run; saving goes on in the background."""

    def __init__(
        self,
        workdir: Path,
        *,
        keep: int = 2,
        keep_every: int = 0,
        every: int = 1,
        read_only: bool = False,
    ):
        """Keeps the newest `keep`, and for good those whose step `keep_every` divides.

        `every` so many steps one is saved by plan; of these the newest stays, too, for `rewind_to`.
        """
        # Orbax tells of every step it takes, and of errors that it also raises.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self.directory, self._every = workdir.absolute() / "checkpoints", every
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Policy(keep=keep, keep_every=keep_every, every=every),
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,  # what a kill left half written
        )
        if read_only and not self.directory.is_dir():
            raise InputError(f"{workdir}: holds no checkpoint yet; train for some steps first")
        with files.disk_errors(workdir, hint=_NO_ROOM):
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._open = contextlib.ExitStack()
        self._open.enter_context(_patient())

    def latest(self) -> int | None:
        """The newest whole checkpoint's step."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Steps of all whole checkpoints, the oldest first."""
        return sorted(self._manager.all_steps())

    def rewind_to(self) -> int:
        """The newest step that was saved by plan, once it is written; 0 where none was.

        Those that a SIGTERM made do not count: a run goes the same way with them and without.
        """
        with files.disk_errors(self.directory.parent, hint=_NO_ROOM):
            self._manager.wait_until_finished()
        return max((step for step in self.steps() if step % self._every == 0), default=0)

    def save(self, step: int, state: TrainState, *, data: dict[str, Any]) -> None:
        """Starts writing; a crash leaves either the whole checkpoint or none.

        It waits until the state is computed and copied off the devices, and for the checkpoint
        before this one where that is still being written.

        Raises:
            InputError: the disk is full or not writable, now or while the one before was written.
        """
        with files.disk_errors(self.directory.parent, hint=_NO_ROOM):
            # A disk that fills up while Orbax writes makes its threads print tracebacks.
            need = METADATA_BYTES + sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            files.check_room(self.directory, need)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_set_aside(_to_tree(state))),
                    data=ocp.args.JsonSave(data),
                ),
            )

    def restore(
        self, step: int, like: TrainState, *, mesh: Mesh | None
    ) -> tuple[TrainState, dict[str, Any]]:
        """A state of the shapes and layouts of `like` (which may be abstract), and the iterator's.

        Raises:
            InputError: the checkpoint is damaged or belongs to another model.
        """
        abstract = jax.tree.map(lambda leaf: _abstract(leaf, mesh), jax.eval_shape(_to_tree, like))
        folder = self.directory / str(step)
        with _restoring(folder):
            if not any(path[0].key == _WINDOW for path in _stored_shapes(folder / "state")):
                fresh = {_WINDOW: abstract.pop(_WINDOW, None)}  # of a run that kept none
            else:
                fresh = {}
            _check_arrays(folder / "state", abstract)
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
                ),
            )
        fresh = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), fresh)
        return _from_tree(found["state"] | fresh, like), found["data"]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What the parameters of the newest checkpoint are, by dotted path.

        Raises:
            InputError: there is none, or it is damaged.
        """
        folder = self._newest()
        with _restoring(folder):
            found = _stored_shapes(folder / "state")
        return {path[1].key: shape for path, shape in found.items() if path[0].key == "params"}

    def _newest(self) -> Path:
        step = self.latest()
        if step is None:
            raise InputError(
                f"{self.directory}: holds no checkpoint yet; train for some steps first"
            )
        return self.directory / str(step)

    def restore_params(
        self, config: ModelConfig, *, mesh: Mesh | None, names: Collection[str] | None = None
    ) -> parameters.Params:
        """Only the parameters, of the newest checkpoint, in the types that the config says.

        Args:
            config: the model. mesh: to lay them out on. names: these only, by dotted path.

        Raises:
            InputError: there is none, or it is damaged or of another model.
        """
        like = jax.eval_shape(lambda: parameters.init(config, jax.random.key(0)))
        like = {name: leaf for name, leaf in like.items() if names is None or name in names}
        item = {"params": jax.tree.map(lambda leaf: _abstract(leaf, mesh), like)}
        folder = self._newest() / "state"
        with _restoring(folder.parent), ocp.PyTreeCheckpointer() as reader:
            _check_arrays(folder, item)
            found = reader.restore(
                folder,
                args=ocp.args.PyTreeRestore(
                    item=item,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(item),
                    partial_restore=True,
                ),
            )
        return found["params"]

    def close(self) -> None:
        """Waits until what was saved is on disk."""
        with self._open, files.disk_errors(self.directory.parent, hint=_NO_ROOM):
            self._manager.wait_until_finished()
            self._manager.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Policy:
    """Which checkpoints stay, as Orbax asks it."""

    keep: int
    keep_every: int
    every: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """For each of them, the oldest first."""
        steps = [one.step for one in checkpoints]
        planned = [step for step in steps if step % self.every == 0]
        stay = {*sorted(steps)[-self.keep :], max(planned, default=None)}
        if self.keep_every:
            stay.update(step for step in steps if step % self.keep_every == 0)
        return [step in stay for step in steps]


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that closes when all of its tasks are done."""

    def close(self) -> None:
        while not self.is_closed() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()


@contextlib.contextmanager
def _patient() -> Iterator[None]:
    """Has Orbax end what it began.

    It reads and writes all arrays at once and closes its event loop as soon as one of them fails;
    each of the others would then print a traceback, some time later.
    """
    usual = asyncio.new_event_loop
    asyncio.new_event_loop = _PatientLoop
    try:
        yield
    finally:
        asyncio.new_event_loop = usual


@contextlib.contextmanager
def _restoring(where: Path) -> Iterator[None]:
    """Turns whatever Orbax objects to into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{where}: damaged, or of another model ({_first_line(error)[:100]}); delete this "
            "folder, then the checkpoint before it counts"
        ) from error


def _check_arrays(folder: Path, wanted: dict[str, Any]) -> None:
    """Raises InputError where a checkpoint lacks an array, or has it in another shape.

    Orbax would find that out when it has already begun to read the others.
    """
    shapes = _stored_shapes(folder)
    leaves = jax.tree_util.tree_leaves_with_path(wanted)
    for path, leaf in sorted(leaves, key=lambda item: item[0][0].key != "params"):
        if shapes.get(path) != leaf.shape:
            name = path[-1].key
            raise InputError(
                f"{folder.parent}: of another model: {name} is {shapes.get(path, 'not')} there, "
                f"{leaf.shape} by the config; use the config of that run"
            )


def _stored_shapes(folder: Path) -> dict[Any, tuple[int, ...]]:
    """Shapes of all arrays of a checkpoint, by their paths."""
    with ocp.PyTreeCheckpointer() as reader:
        found: Any = reader.metadata(folder).item_metadata
    if found is None:
        raise ValueError("its files cannot be read")
    return {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(found.tree)}


def _first_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())[:300]


def _set_aside(tree: dict[str, Any]) -> dict[str, Any]:
    """A copy on CPUs, where Orbax writes arrays from where they lie.

    The next step, which reuses their memory, would wait until they are written. From other devices
    Orbax copies by itself before it begins.
    """
    if jax.default_backend() != "cpu":
        return tree

    def copy(x: jax.Array) -> jax.Array:
        """Of this process's shards; others copy theirs."""
        parts = [(shard.data, shard.device) for shard in x.addressable_shards]
        fresh = [jax.device_put(data, device, may_alias=False) for data, device in parts]
        return jax.make_array_from_single_device_arrays(x.shape, x.sharding, fresh)

    return jax.tree.map(copy, tree)


def _to_tree(state: TrainState) -> dict[str, Any]:
    """Plain dictionaries by path: readable on disk, and free of optimiser classes."""
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    return {
        "step": state.step,
        "params": state.params,
        "opt_state": {jax.tree_util.keystr(path): leaf for path, leaf in leaves},
        "key": jax.random.key_data(state.key),
    } | ({} if state.window is None else {_WINDOW: vars(state.window)})


def _from_tree(tree: dict[str, Any], like: TrainState) -> TrainState:
    leaves = jax.tree_util.tree_leaves_with_path(like.opt_state)
    structure = jax.tree.structure(like.opt_state)
    ordered = [tree["opt_state"][jax.tree_util.keystr(path)] for path, _ in leaves]
    return TrainState(
        step=tree["step"],
        params=tree["params"],
        opt_state=jax.tree.unflatten(structure, ordered),
        key=jax.random.wrap_key_data(tree["key"]),
        window=like.window and dataclasses.replace(like.window, **tree[_WINDOW]),
    )


def _abstract(leaf: Any, mesh: Mesh | None) -> jax.ShapeDtypeStruct:
    """Shape and layout to restore to; whatever has no layout of its own goes on every device."""
    sharding = getattr(leaf, "sharding", None)
    if mesh is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    elif sharding is None or not isinstance(sharding, jax.sharding.NamedSharding):
        sharding = mesh_lib.replicated(mesh)
    elif sharding.mesh != mesh:
        sharding = jax.sharding.NamedSharding(mesh, sharding.spec)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
