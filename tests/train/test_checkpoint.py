import dataclasses
import os
import shutil

import jax
import numpy as np
import pytest

from tests.models.tiny import CONFIG, EXPERIMENT
from tgvlm_jax import files
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import MeshConfig, OptimConfig, TrainConfig
from tgvlm_jax.train import checkpoint, optim, state
from tgvlm_jax.train.checkpoint import Checkpoints
from tgvlm_jax.types import InputError

MESH = MeshConfig(fsdp=4, tp=2)


def fresh(experiment=EXPERIMENT, *, seed=0):
    """A state with something in every moment of the optimiser."""
    blueprint = parameters.blueprint(experiment.model)
    shapes = jax.eval_shape(lambda: parameters.init(experiment.model, jax.random.key(0)))
    tx = optim.build(experiment.optim, shapes, matrices=blueprint.matrices, steps=10)
    experiment = dataclasses.replace(experiment, seed=seed)

    @jax.jit
    def make():
        start = state.create(experiment, tx)
        _, opt_state = tx.update(start.params, start.opt_state, start.params)
        return dataclasses.replace(start, step=start.step + 3, opt_state=opt_state)

    return make()


def assert_equal(found, wanted):
    found, wanted = (
        dataclasses.replace(s, key=jax.random.key_data(s.key)) for s in (found, wanted)
    )
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    paths = jax.tree_util.tree_leaves_with_path(wanted)
    for (path, leaf), other in zip(paths, jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(other, leaf, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def current():
    return fresh()


@pytest.fixture(scope="module")
def saved(current, tmp_path_factory):
    """A run with checkpoints of steps 3 and 5; never changed."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoint.save_experiment(folder, EXPERIMENT)
    store = Checkpoints(folder)
    store.save(3, fresh(seed=9), data={"next": 3})
    store.save(5, current, data={"next": 5})
    store.close()
    return folder


def restored(folder, like, *, mesh=None):
    store = Checkpoints(folder, read_only=True)
    try:
        return store.restore(store.latest(), like, mesh=mesh)
    finally:
        store.close()


def test_everything_comes_back(saved, current):
    found, data = restored(saved, fresh(seed=1))
    assert_equal(found, current)
    assert data == {"next": 5}


def test_parameters_alone_come_back(saved, current):
    store = Checkpoints(saved, read_only=True)
    params = store.restore_params(CONFIG, mesh=None)
    store.close()
    assert params.keys() == current.params.keys()
    for name, value in params.items():
        np.testing.assert_array_equal(value, current.params[name], err_msg=name)


def test_an_abstract_state_lies_as_a_fresh_one_would(saved, current):
    """So that no other state is in memory while one is restored."""
    mesh = mesh_lib.make(MESH)
    with mesh_lib.use(mesh):
        wanted = jax.tree.map(lambda x: x.sharding, fresh(seed=1))
        many, _ = restored(saved, jax.eval_shape(fresh), mesh=mesh)
    for found, layout in zip(jax.tree.leaves(many), jax.tree.leaves(wanted), strict=True):
        assert found.sharding.is_equivalent_to(layout, found.ndim)
    assert_equal(many, current)


@pytest.mark.slow
@pytest.mark.parametrize("config", [MeshConfig(fsdp=4), MeshConfig(fsdp=2, tp=2), MeshConfig()])
def test_from_eight_devices_to_four(config, saved, current, tmp_path):
    """Other devices and other axes; what is computed from it is computed alike."""
    eight, four = mesh_lib.make(MeshConfig(fsdp=8)), mesh_lib.make(config)
    with mesh_lib.use(eight):
        many, data = restored(saved, jax.eval_shape(fresh), mesh=eight)
        store = Checkpoints(tmp_path)
        store.save(6, many, data=data)
        store.close()
    with mesh_lib.use(four):
        found, data = restored(tmp_path, jax.eval_shape(fresh), mesh=four)
        assert_equal(jax.jit(lambda tree: tree)(found), current)
    assert data == {"next": 5}


@pytest.mark.slow
def test_from_one_device_to_eight_and_back(saved, current, tmp_path):
    """What is restored lies as a fresh state lies on that mesh, and one program takes it whole."""
    mesh = mesh_lib.make(MESH)
    with mesh_lib.use(mesh):
        like = fresh(seed=1)
        many, data = restored(saved, like, mesh=mesh)
        for found, wanted in zip(jax.tree.leaves(many), jax.tree.leaves(like), strict=True):
            assert found.sharding.is_equivalent_to(wanted.sharding, wanted.ndim)
        many = jax.jit(lambda tree: tree)(many)  # fails on leaves of different devices
        store = Checkpoints(tmp_path)
        store.save(6, many, data=data)
        store.close()
    assert_equal(many, current)

    one, _ = restored(tmp_path, fresh(seed=1))
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(one))
    assert_equal(jax.jit(lambda tree: tree)(one), current)

    store = Checkpoints(tmp_path, read_only=True)
    with mesh_lib.use(mesh):
        params = store.restore_params(CONFIG, mesh=mesh)
    store.close()
    weight = params["decoder.blocks.q.weight"]
    assert weight.sharding.is_equivalent_to(many.params["decoder.blocks.q.weight"].sharding, 5)


def test_an_abstract_state_is_enough(saved, current):
    found, _ = restored(saved, jax.eval_shape(fresh))
    assert_equal(found, current)


def test_the_oldest_go_and_the_newest_stay(current, tmp_path):
    store = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        store.save(step, current, data={})
    store.close()
    store = Checkpoints(tmp_path, read_only=True)
    assert store.steps() == [2, 3]
    assert store.latest() == 3
    store.close()


def test_every_so_many_stay_for_good(current, tmp_path):
    store = Checkpoints(tmp_path, keep=1, keep_every=4)
    for step in (2, 4, 6, 8, 10):
        store.save(step, current, data={})
    store.close()
    store = Checkpoints(tmp_path, read_only=True)
    assert store.steps() == [4, 8, 10]
    store.close()


def test_what_is_saved_does_not_change_with_the_state(current, tmp_path):
    """The next step overwrites the memory that the state lay in, and need not wait to do so."""
    change = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x + 1, tree), donate_argnums=0)
    mine = fresh()
    pointers = {name: x.unsafe_buffer_pointer() for name, x in mine.params.items()}
    store = Checkpoints(tmp_path)
    store.save(1, mine, data={})
    changed = change(mine.params)
    assert {name: x.unsafe_buffer_pointer() for name, x in changed.items()} == pointers
    store.close()
    assert_equal(restored(tmp_path, fresh(seed=1))[0], current)


def test_what_a_kill_left_half_written_does_not_count(saved, current, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "run")
    newest = copy / "checkpoints" / "5"
    half = copy / "checkpoints" / "7.orbax-checkpoint-tmp"
    shutil.copytree(newest, half)
    shutil.rmtree(half / "data")
    (half / "commit_success.txt").unlink()
    store = Checkpoints(copy)
    assert store.latest() == 5
    store.save(8, current, data={})
    store.close()
    assert not half.exists()
    assert restored(copy, current)[1] == {}


# ------------------------------------------------------------------------------ damage


def cut(pattern):
    def damage(folder):
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)

    return damage


def remove(name):
    def damage(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        cut("state/d/*"),
        cut("state/ocdbt.process_0/d/*"),
        cut("state/manifest.ocdbt"),
        cut("state/_METADATA"),
        remove("state/d"),
        remove("state"),
    ],
    ids=["arrays", "parts", "manifest", "metadata", "no arrays", "no state"],
)
def test_a_damaged_checkpoint_is_named(damage, saved, current, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "run")
    newest = copy / "checkpoints" / "5"
    damage(newest)
    with pytest.raises(InputError, match=rf"^{newest}: damaged"):
        restored(copy, current)
    store = Checkpoints(copy, read_only=True)
    with pytest.raises(InputError, match=rf"^{newest}: damaged"):
        store.restore_params(CONFIG, mesh=None)
    store.close()
    shutil.rmtree(newest)  # what the message says to do
    assert restored(copy, current)[1] == {"next": 3}


def test_a_lost_iterator_is_named(saved, current, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "5" / "data")
    with pytest.raises(InputError, match="5: damaged"):
        restored(copy, current)


def test_no_checkpoints_at_all(tmp_path):
    with pytest.raises(InputError, match="no checkpoint yet"):
        Checkpoints(tmp_path, read_only=True)
    store = Checkpoints(tmp_path)
    assert store.latest() is None
    with pytest.raises(InputError, match="no checkpoint yet"):
        store.restore_params(CONFIG, mesh=None)
    store.close()


def test_a_full_disk_is_one_line_and_the_earlier_checkpoint_still_loads(small_disk, current):
    store = Checkpoints(small_disk)
    store.save(1, current, data={"next": 1})
    store.close()
    with (small_disk / "filler").open("wb") as filler:
        free = os.statvfs(small_disk)
        filler.write(bytes(free.f_bavail * free.f_frsize - 64 * 1024))

    store = Checkpoints(small_disk)
    with pytest.raises(InputError, match=rf"^{small_disk}: cannot be written .*space"):  # noqa: PT012
        store.save(2, current, data={"next": 2})
        store.close()
    store.close()
    found, data = restored(small_disk, fresh(seed=1))
    assert_equal(found, current)
    assert data == {"next": 1}


def test_a_disk_that_fills_up_while_writing(small_disk, current, monkeypatch):
    """There was room when it began; something else took it."""
    store = Checkpoints(small_disk)
    store.save(1, current, data={"next": 1})
    store.close()
    with (small_disk / "filler").open("wb") as filler:
        free = os.statvfs(small_disk)
        filler.write(bytes(free.f_bavail * free.f_frsize - 64 * 1024))
    monkeypatch.setattr(files, "check_room", lambda *_: None)
    store = Checkpoints(small_disk)
    with pytest.raises(InputError, match=rf"^{small_disk}: cannot be written"):  # noqa: PT012
        store.save(2, current, data={"next": 2})
        store.close()
    found, data = restored(small_disk, fresh(seed=1))
    assert_equal(found, current)
    assert data == {"next": 1}


# ------------------------------------------------------------------------------ the config


def model(**decoder):
    changed = dataclasses.replace(CONFIG.decoder, **decoder)
    return dataclasses.replace(CONFIG, decoder=changed)


def test_a_run_keeps_its_config(saved):
    assert checkpoint.load_experiment(saved) == EXPERIMENT
    checkpoint.save_experiment(saved, EXPERIMENT)  # the same again: nothing to object to


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": model(hidden=64)}, r"model.decoder.hidden=32, the config says 64;"),
        ({"optim": OptimConfig(lr=0.5)}, r"optim.lr=0.001, the config says 0.5;"),
        ({"seed": 5, "name": "x"}, r"\(and 1 more keys\)"),
    ],
)
def test_another_config_is_refused_by_its_key(change, says, saved):
    with pytest.raises(InputError, match=says):
        checkpoint.save_experiment(saved, dataclasses.replace(EXPERIMENT, **change))
    assert checkpoint.load_experiment(saved) == EXPERIMENT


def test_what_does_not_change_the_numbers_may_change(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "run")
    other = dataclasses.replace(
        EXPERIMENT, mesh=MESH, train=TrainConfig(log_every=1, checkpoint_every=7, keep=5)
    )
    checkpoint.save_experiment(copy, other)
    assert checkpoint.load_experiment(copy) == other


def test_a_run_that_has_saved_nothing_takes_another_config(tmp_path):
    checkpoint.save_experiment(tmp_path, EXPERIMENT)
    other = dataclasses.replace(EXPERIMENT, optim=OptimConfig(lr=0.5))
    checkpoint.save_experiment(tmp_path, other)
    assert checkpoint.load_experiment(tmp_path) == other


def test_another_model_is_refused_by_its_key(saved):
    wanted = dataclasses.replace(EXPERIMENT, model=model(kv_heads=4), seed=4)
    with pytest.raises(InputError, match=r"model.decoder.kv_heads=2, the config says 4"):
        checkpoint.check_same_model(EXPERIMENT, wanted, saved)
    checkpoint.check_same_model(EXPERIMENT, dataclasses.replace(EXPERIMENT, seed=4), saved)


def test_arrays_of_another_shape_are_refused_by_name(saved):
    """Where no config is at hand to compare."""
    wider = dataclasses.replace(EXPERIMENT, model=model(hidden=64))
    says = r"decoder.blocks.down.weight is \(3, 32, 16\) there, \(3, 64, 16\) by the config"
    with pytest.raises(InputError, match=says):
        restored(saved, jax.eval_shape(lambda: fresh(wider)))
    untied = model(tie_embeddings=False)
    store = Checkpoints(saved, read_only=True)
    with pytest.raises(InputError, match=r"decoder.untied_head.table is not there"):
        store.restore_params(untied, mesh=None)
    store.close()
