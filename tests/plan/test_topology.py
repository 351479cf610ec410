"""Devices that the compiler describes, by name."""

import pytest

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.plan import topology
from tgvlm_jax.schema import MeshConfig
from tgvlm_jax.types import InputError

pytest.importorskip("libtpu", reason="the extra `plan` is not installed")


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("v4:2x2x2", "TPU v4", 8),
        ("v5e:16x16", "TPU v5 lite", 256),
        ("v5p:4x4x2", "TPU v5", 32),
        ("v6e:4x4", "TPU v6 lite", 16),
        ("tpu7x:2x2x1", "TPU7x", 8),
    ],
)
def test_every_family_is_known_with_its_chip(name, kind, count):
    found = topology.find(name)
    assert (found.kind, len(found.devices), found.slices) == (kind, count, 1)
    assert found.chip is not None
    assert found.compiler.startswith("libtpu ")


def test_slices_are_the_first_axis_of_the_mesh():
    found = topology.find("v5e:2x2", slices=2)
    assert (found.name, found.slices, len(found.devices)) == ("2*v5e:2x2", 2, 8)
    config = topology.mesh_config(MeshConfig(fsdp=-1), found)
    mesh = mesh_lib.make(config, found.devices)
    assert dict(mesh.shape) == {"dcn": 2, "fsdp": 4, "tp": 1, "cp": 1}
    slices = [{device.slice_index for device in part.flat} for part in mesh.devices]
    assert slices == [{0}, {1}]
    with pytest.raises(InputError, match=r"mesh.dcn=4, but 2\*v5e:2x2 has 2 slices: set mesh.dcn"):
        topology.mesh_config(MeshConfig(dcn=4), found)


def test_a_shape_that_no_slice_has():
    with pytest.raises(InputError, match=r"--topology v5e:3x5: .+; give such as v5e:4x4") as error:
        topology.find("v5e:3x5")
    assert "\n" not in str(error.value)
