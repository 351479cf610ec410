import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests.models.tiny import CONFIG
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.plan import topology
from tgvlm_jax.schema import DataConfig, MeshConfig
from tgvlm_jax.types import InputError


def sizes(**axes):
    mesh = mesh_lib.make(MeshConfig(**axes))
    return mesh and tuple(mesh.shape.values())


def test_sizes_are_those_asked_for():
    assert sizes(fsdp=4, tp=2) == (1, 4, 2, 1)
    assert sizes(fsdp=-1) == (1, 8, 1, 1)
    assert sizes(dcn=2, fsdp=-1, tp=2) == (2, 2, 2, 1)
    assert sizes(tp=2) == (1, 1, 2, 1)  # the other devices stay idle
    assert sizes() is None


def test_one_device_needs_no_mesh_even_when_all_are_asked_for():
    assert mesh_lib.make(MeshConfig(fsdp=-1), jax.devices()[:1]) is None


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ({"fsdp": -1, "tp": -1}, "at most one of them -1"),
        ({"fsdp": 0}, "fsdp=0"),
        ({"fsdp": 16}, "does not fit the 8 devices"),
        ({"fsdp": -1, "tp": 3}, "does not fit the 8 devices"),
    ],
)
def test_impossible_meshes_are_refused(axes, says):
    with pytest.raises(InputError, match=says):
        mesh_lib.make(MeshConfig(**axes))


def test_slices_lie_along_their_axis_and_neighbours_stay_together():
    pytest.importorskip("libtpu", reason="the extra `plan` is not installed")
    found = topology.find("2*v5e:4x4")
    mesh = mesh_lib.make(MeshConfig(dcn=2, fsdp=8, tp=2), found.devices)
    for number, part in enumerate(mesh.devices):
        assert {device.slice_index for device in part.flat} == {number}
        for a, b in part.reshape(8, 2):
            assert sum(abs(x - y) for x, y in zip(a.coords, b.coords, strict=True)) == 1
    with pytest.raises(InputError, match=r"mesh\.dcn=1, but the devices are of 2"):
        mesh_lib.make(MeshConfig(fsdp=16, tp=2), found.devices)


def check(axes, *, batch_size=8, frames=(8,), model=CONFIG, bucket=16):
    mesh = mesh_lib.make(MeshConfig(**axes))
    data = DataConfig(prompt_bucket=bucket)
    mesh_lib.check(model, mesh, batch_size=batch_size, frames=frames, data=data)


def decoder(**changes):
    return dataclasses.replace(CONFIG, decoder=dataclasses.replace(CONFIG.decoder, **changes))


def tower(**changes):
    return dataclasses.replace(CONFIG, tower=dataclasses.replace(CONFIG.tower, **changes))


def test_what_divides_passes():
    for axes in ({}, {"tp": 4}, {"fsdp": 8}, {"fsdp": 4, "tp": 2}, {"dcn": 2, "fsdp": 2, "tp": 2}):
        check(axes)
    check({"cp": 8})


@pytest.mark.parametrize(
    ("axes", "settings", "says"),
    [
        ({"fsdp": 8}, {"batch_size": 4}, "data.batch_size .*=4 .*dcn x fsdp=8"),
        ({"dcn": 2, "fsdp": 2}, {"batch_size": 2}, "data.batch_size .*=2 .*dcn x fsdp=4"),
        ({"tp": 2}, {"frames": (8, 5)}, "data.frames=5.* tp=2"),
        ({"fsdp": 4}, {"model": decoder(width=18)}, "model.decoder.width=18 .* fsdp=4"),
        ({"fsdp": 4}, {"model": tower(width=18)}, "model.tower.width=18 .* fsdp=4"),
        ({"tp": 2, "cp": 2}, {"frames": (8, 6)}, "data.frames=6.* tp x cp=4"),
        ({"fsdp": 2, "cp": 4}, {"model": decoder(width=20)}, "width=20 .* fsdp x cp=8"),
        ({"cp": 4}, {"bucket": 12}, "data.prompt_bucket=12 .* 2 x cp=8"),
    ],
)
def test_what_does_not_divide_is_named(axes, settings, says):
    with pytest.raises(InputError, match=says):
        check(axes, **settings)


def test_helpers_do_nothing_without_a_mesh():
    x = jnp.arange(6.0).reshape(2, 3)
    assert mesh_lib.shard(x, "batch", "embed") is x
    assert mesh_lib.spec("batch") is None
    assert mesh_lib.replicated(None) is None
    assert not mesh_lib.active()
    np.testing.assert_array_equal(mesh_lib.lookup(x, jnp.asarray([[1]]), out=()), x[1][None, None])


def test_logical_names_become_mesh_axes():
    mesh = mesh_lib.make(MeshConfig(dcn=2, fsdp=2, tp=2))
    x = jnp.arange(8.0 * 4 * 2).reshape(8, 4, 2)
    with mesh_lib.use(mesh):
        assert mesh_lib.active()
        assert mesh_lib.spec("batch", None, "heads") == P(("dcn", "fsdp"), None, "tp")
        laid = mesh_lib.shard(x, "batch", None, "heads")
        assert laid.addressable_shards[0].data.shape == (2, 4, 1)
        flat = jax.jit(lambda y: mesh_lib.reshape(y, (8, 2, 2, 2), out=("batch", None, None, None)))
        np.testing.assert_array_equal(flat(laid), x.reshape(8, 2, 2, 2))
        table = mesh_lib.shard(x[:, :, 0], "vocab", "embed")
        ids = mesh_lib.shard(jnp.asarray([[7, 0], [3, 3], [1, 2], [6, 5]]), "batch", None)
        found = jax.jit(lambda t, i: mesh_lib.lookup(t, i, out=("batch", None, None)))(table, ids)
        np.testing.assert_array_equal(found, x[:, :, 0][np.asarray(ids)])
        assert found.sharding.spec == P(("dcn", "fsdp"), None, None)


def test_a_batch_spreads_its_rows_over_the_data_axes():
    mesh = mesh_lib.make(MeshConfig(dcn=2, fsdp=2, tp=2))
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    put = mesh_lib.put_batch({"x": rows}, mesh)["x"]
    np.testing.assert_array_equal(put, rows)
    assert {shard.data.shape for shard in put.addressable_shards} == {(2, 3)}
    assert isinstance(mesh_lib.put_batch({"x": rows}, None)["x"], jax.Array)
