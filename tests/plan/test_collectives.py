"""Bytes on the wires, from lines as a TPU compiler writes them."""

import pytest

from tgvlm_jax.plan import cost, hlo

MESH = {"dcn": 1, "fsdp": 4, "tp": 2, "cp": 1}
PROGRAM = """HloModule jit_f, is_scheduled=true, num_partitions={partitions}

{before}
ENTRY %main (x: f32[64,32]) -> f32[64,32] {{
  %x = f32[64,32]{{1,0:T(8,128)}} parameter(0)
{lines}
}}
"""
BYTES = 64 * 32 * 4


def count(*lines, before="", mesh=MESH, partitions=8):
    body = "\n".join(f"  {line}" for line in lines)
    text = PROGRAM.format(lines=body, before=before, partitions=partitions)
    return cost.count(hlo.parse(text), mesh=mesh)


@pytest.mark.parametrize(
    ("groups", "axes", "size"),
    [
        ("{{0,2,4,6},{1,3,5,7}}", "fsdp", 4),
        ("[4,2]<=[8]", "tp", 2),
        ("[2,4]<=[4,2]T(1,0)", "fsdp", 4),
        ("[1,8]<=[8]", "fsdp+tp", 8),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", "fsdp", 4),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", "tp", 2),
        ("mesh['axis_0'=8] {'axis_0':(4)2}", "tp", 2),
        ("mesh['axis_0'=8] {'axis_0':(1)4}", "fsdp", 4),
        ("{}", "fsdp+tp", 8),
    ],
)
def test_the_axes_of_a_group(groups, axes, size):
    line = "ROOT %g = f32[256,32] all-gather(%x), channel_id=1, replica_groups=" + groups
    assert count(line).wire == {("all-gather", axes): BYTES * (size - 1)}


def test_every_kind_has_its_bytes():
    groups = "replica_groups=[2,4]<=[4,2]T(1,0)"
    lines = [
        f"%a = f32[64,32] all-reduce(%x), channel_id=1, {groups}, to_apply=%add",
        f"%b = f32[16,32] reduce-scatter(%x), channel_id=2, {groups}, to_apply=%add",
        f"%c = f32[64,32] all-to-all(%x), channel_id=3, {groups}",
        "%d = f32[64,32] collective-permute(%x), source_target_pairs={{0,2},{2,4},{4,6},{6,0}}",
        f"ROOT %e = f32[256,32] all-gather(%x), channel_id=4, {groups}",
    ]
    assert count(*lines).wire == {
        ("all-reduce", "fsdp"): 2 * BYTES * 3 / 4,
        ("reduce-scatter", "fsdp"): BYTES * 3 / 4,
        ("all-to-all", "fsdp"): BYTES * 3 / 4,
        ("collective-permute", "fsdp"): BYTES,
        ("all-gather", "fsdp"): BYTES * 3,
    }


def test_pieces_of_one_collective_count_once():
    """Beside other work it stands in what starts it, in that work, and in what ends it."""
    piece = """%{name} (p: f32[64,32]) -> f32[256,32] {{
  %p = f32[64,32] parameter(0)
  ROOT %{name}.g = f32[256,32] all-gather(%p), channel_id=7, replica_groups=[2,4]<=[4,2]T(1,0)
}}
"""
    before = piece.format(name="start") + piece.format(name="step")
    found = count(
        "%s = f32[256,32] fusion(%x), kind=kCustom, calls=%start",
        "ROOT %t = f32[256,32] fusion(%x), kind=kCustom, calls=%step",
        before=before,
    )
    assert found.wire == {("all-gather", "fsdp"): BYTES * 3}
    assert found.runs == {("all-gather", "fsdp"): 1}


def test_a_sum_of_which_a_part_is_kept_is_a_scatter():
    before = """%all-reduce-scatter.1 (p: f32[64,32]) -> f32[16,32] {
  %p = f32[64,32] parameter(0)
  %r = f32[64,32] all-reduce(%p), channel_id=7, replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
  ROOT %d = f32[16,32] dynamic-slice(%r), dynamic_slice_sizes={16,32}
}
"""
    line = "ROOT %s = f32[16,32] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1"
    assert count(line, before=before).wire == {("reduce-scatter", "fsdp"): BYTES * 3 / 4}


def test_slices_talk_through_their_hosts():
    """A program for several slices is made for one of them, and numbers only its chips."""
    attributes = (
        'is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale'
        '_runtime",_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    found = count(
        f"%s = (f32[64,32], u32[], token[]) send(%x, %token), channel_id=2, {attributes}",
        f"%r = (f32[64,32], u32[], token[]) recv(%token), channel_id=1, {attributes}",
        "ROOT %g = f32[64,32] all-reduce(%x), channel_id=4, replica_groups=[4,2]<=[8]",
        mesh={**MESH, "dcn": 2},
    )
    assert found.wire == {("all-reduce", "dcn"): BYTES, ("all-reduce", "tp"): BYTES}


def test_kernels_say_what_they_cost():
    call = 'f32[64,32] custom-call(%x), custom_call_target="tpu_custom_call"'
    said = 'backend_config={"custom_call_config":{"cost_estimate":{"flops":"1000","bytes":"8"}}}'
    found = count(f"%own.1 = {call}, {said}", f"%own.2 = {call}, {said}", f"ROOT %other = {call}")
    assert found.flops == 2000
    assert found.kernels == {
        "own": cost.Kernel(runs=2, flops=2000),
        "other": cost.Kernel(runs=1, flops=None),
    }


def test_nothing_moves_of_what_lies_on_the_chip():
    found = count(
        "%y = f32[64,32]{1,0:T(8,128)S(1)} copy(%x)", "ROOT %z = f32[64,32]{1,0} negate(%y)"
    )
    assert found.bytes == 2 * BYTES
