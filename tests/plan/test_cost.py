"""Costs that are counted from HLO: exact for programs whose costs are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tgvlm_jax.plan import cost, hlo

WIDTH, HIDDEN, ROWS = 32, 64, 16
SIZES = {"dcn": 1, "fsdp": 4, "tp": 2, "cp": 1}


def mesh():
    devices = np.array(jax.devices()[:8]).reshape(tuple(SIZES.values()))
    return Mesh(devices, tuple(SIZES), axis_types=(AxisType.Explicit,) * 4)


def layer(x, weights):
    out = jnp.einsum("td,df->tf", x, weights[0], out_sharding=PartitionSpec("fsdp", "tp"))
    return jnp.einsum(
        "tf,fd->td", jax.nn.relu(out), weights[1], out_sharding=PartitionSpec("fsdp", None)
    )


@functools.cache
def gradient(layers, scanned):
    """Costs of the gradient of a stack of layers whose weights are sharded."""

    def loss(weights, x):
        if scanned:
            x, _ = jax.lax.scan(lambda x, weights: (x + layer(x, weights), None), x, weights)
        else:
            for number in range(layers):
                x = x + layer(x, jax.tree.map(lambda w, n=number: w[n], weights))
        return jnp.sum(x**2)

    where = mesh()

    def array(spec, *shape):
        sharding = NamedSharding(where, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    up = array((None, "fsdp", "tp"), layers, WIDTH, HIDDEN)
    down = array((None, "tp", "fsdp"), layers, HIDDEN, WIDTH)
    x = array(("fsdp",), ROWS, WIDTH)
    with jax.set_mesh(where):
        lowered = jax.jit(jax.grad(loss, argnums=(0, 1))).lower((up, down), x)
        made = lowered.compile()
    return cost.count(hlo.parse(made.as_text()), mesh=SIZES)


def test_a_scan_costs_what_its_layers_cost_one_by_one():
    scanned, unrolled = gradient(3, True), gradient(3, False)
    assert scanned.flops == unrolled.flops
    assert scanned.wire == unrolled.wire
    assert {loop.trips for loop in scanned.loops} == {3}
    assert not unrolled.loops


def test_products_are_those_of_the_shapes():
    each = 2 * (ROWS // 4) * WIDTH * (HIDDEN // 2)
    assert gradient(3, True).flops == 3 * 6 * each  # two forward, four backward


def test_bytes_on_the_wires_are_those_of_the_shapes():
    rows, weights = 4 * WIDTH * ROWS // 4, 4 * WIDTH * HIDDEN // 2
    found = gradient(3, True).wire
    # A sum over the two chips of `tp` forward, and one backward, of a chip's rows.
    assert found["all-reduce", "tp"] == 3 * 2 * (2 * rows * 1 / 2)
    # Both weights are gathered forward and backward, three fourths of them from others.
    assert found["all-gather", "fsdp"] == 3 * 4 * weights * 3 / 4


def test_layers_add_up():
    """What is unrolled is affine in the number of layers, and scanned layers lie on that line."""
    first, second = gradient(1, False), gradient(2, False)
    for number in (3, 5):
        assert gradient(number, True).flops == first.flops + (number - 1) * (
            second.flops - first.flops
        )


def count(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    text = jax.jit(function).lower(*arrays).compile().as_text()
    return cost.count(hlo.parse(text), mesh=dict.fromkeys(SIZES, 1))


def test_loops_in_loops_and_loops_that_step():
    def nested(x):
        inner = functools.partial(jax.lax.fori_loop, 0, 5, lambda _, y: jnp.sin(y @ x))
        return jax.lax.fori_loop(2, 9, lambda _, y: inner(y), x)

    def by_three(x):
        return jax.lax.while_loop(
            lambda state: state[0] < 11, lambda state: (state[0] + 3, jnp.sin(state[1] @ x)), (1, x)
        )[1]

    def downwards(x):
        return jax.lax.while_loop(
            lambda state: state[0] > 0, lambda state: (state[0] - 1, jnp.sin(state[1] @ x)), (6, x)
        )[1]

    product = 2 * 8**3
    assert count(nested, (8, 8)).flops == 35 * product
    assert count(by_three, (8, 8)).flops == 4 * product
    assert count(downwards, (8, 8)).flops == 6 * product


def test_a_loop_that_may_end_early_counts_in_full():
    def early(x):
        def going(state):
            return (state[0] < 7) & jnp.any(state[1] > 0)

        return jax.lax.while_loop(going, lambda s: (s[0] + 1, jnp.sin(s[1] @ x)), (0, x))[1]

    found = count(early, (8, 8))
    assert found.flops == 7 * 2 * 8**3
    assert not found.uncounted


def test_a_loop_that_does_not_count_is_told():
    def unknown(x):
        return jax.lax.while_loop(lambda y: jnp.any(y > 0), lambda y: jnp.sin(y @ y), x)

    found = count(unknown, (8, 8))
    assert len(found.uncounted) == 1
    assert found.flops == 2 * 8**3


BESIDE_A_LOOP = """HloModule m, num_partitions=8

%begin (p: bf16[8,4]) -> (bf16[8,4], bf16[8,16]) {
  %p = bf16[8,4] parameter(0)
  %g = bf16[8,16] all-gather(%p), channel_id=5, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={1}
  ROOT %s = (bf16[8,4], bf16[8,16]) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%go_on (p: bf16[8,4]) -> bf16[8,16] {
  %p = bf16[8,4] parameter(0)
  ROOT %g = bf16[8,16] all-gather(%p), channel_id=5, replica_groups=[2,4]<=[4,2]T(1,0)
}

%body (t: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %t = (s32[], bf16[8,4]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = bf16[8,4] get-tuple-element(%t), index=1
  %f = bf16[8,16] fusion(%x), kind=kCustom, calls=%go_on
  %one = s32[] constant(1)
  %n = s32[] add(%i, %one)
  ROOT %r = (s32[], bf16[8,4]) tuple(%n, %x)
}

%condition (t: (s32[], bf16[8,4])) -> pred[] {
  %t = (s32[], bf16[8,4]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %most = s32[] constant(7)
  ROOT %c = pred[] compare(%i, %most), direction=LT
}

ENTRY %main (x: bf16[8,4]) -> (s32[], bf16[8,4]) {
  %x = bf16[8,4] parameter(0)
  %zero = s32[] constant(0)
  %b = (bf16[8,4], bf16[8,16]) fusion(%x), kind=kCustom, calls=%begin
  %t = (s32[], bf16[8,4]) tuple(%zero, %x)
  ROOT %w = (s32[], bf16[8,4]) while(%t), condition=%condition, body=%body
}
"""


def test_a_collective_that_goes_on_beside_a_loop_counts_once():
    """As XLA's TPU compiler writes one that is begun before the loop."""
    found = cost.count(hlo.parse(BESIDE_A_LOOP), mesh=SIZES)
    assert [loop.trips for loop in found.loops] == [7]
    assert found.wire == {("all-gather", "fsdp"): 3 * 8 * 4 * 2}


def test_of_branches_the_dearest_counts():
    def branches(index, x):
        ways = (lambda x: x, lambda x: jnp.sin(x @ x) @ x, lambda x: x @ x)
        return jax.lax.switch(index[0, 0].astype(jnp.int32), ways, x)

    assert count(branches, (1, 1), (8, 8)).flops == 2 * 2 * 8**3


@pytest.mark.parametrize(
    ("stride", "dilation", "padding", "hits"),
    [
        (1, 1, "VALID", 6 * 3),
        (1, 1, "SAME", 8 + 2 * 7),
        (2, 1, "VALID", 3 * 3),
        (1, 2, "VALID", 4 * 3),
    ],
)
def test_convolutions_count_what_meets_an_input(stride, dilation, padding, hits):
    def convolved(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(stride,),
            rhs_dilation=(dilation,),
            padding=padding,
            dimension_numbers=("NWC", "WIO", "NWC"),
        )

    assert count(convolved, (2, 8, 4), (3, 4, 5)).flops == 2 * 2 * 4 * 5 * hits


def test_traffic_of_a_slice_is_the_slice():
    def rows(x):
        def body(number, total):
            return total + jax.lax.dynamic_index_in_dim(x, number, keepdims=False)

        return jax.lax.fori_loop(0, 1000, body, jnp.zeros(64))

    moved = count(rows, (1000, 64)).bytes
    whole = 1000 * 64 * 4
    assert whole <= moved < 8 * whole


NESTED = """HloModule nested, is_scheduled=true

%cut (whole: f32[9,8,128], at: s32[]) -> f32[8,128] {
  %whole = f32[9,8,128]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,8,128]{2,1,0} dynamic-slice(%whole, %at, %zero, %zero), dynamic_slice_sizes={1,8,128}
  ROOT %flat = f32[8,128]{1,0} bitcast(%one)
}

%put (kept: f32[9,8,128], row: f32[8,128], at.1: s32[]) -> f32[9,8,128] {
  %kept = f32[9,8,128]{2,1,0} parameter(0)
  %row = f32[8,128]{1,0} parameter(1)
  %at.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %tall = f32[1,8,128]{2,1,0} bitcast(%row)
  ROOT %done = f32[9,8,128]{2,1,0} dynamic-update-slice(%kept, %tall, %at.1, %zero.1, %zero.1)
}

%both (a: f32[9,8,128], b: f32[9,8,128], n: s32[]) -> f32[9,8,128] {
  %a = f32[9,8,128]{2,1,0} parameter(0)
  %b = f32[9,8,128]{2,1,0} parameter(1)
  %n = s32[] parameter(2)
  %inner = f32[8,128]{1,0} fusion(%a, %n), kind=kLoop, calls=%cut
  ROOT %outer = f32[9,8,128]{2,1,0} fusion(%b, %inner, %n), kind=kLoop, calls=%put
}

ENTRY %main (x: f32[9,8,128], y: f32[9,8,128], i: s32[]) -> f32[9,8,128] {
  %x = f32[9,8,128]{2,1,0} parameter(0)
  %y = f32[9,8,128]{2,1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %moved = f32[9,8,128]{2,1,0} fusion(%x, %y, %i), kind=kLoop, calls=%both
}
"""


def test_a_fusion_within_a_fusion_reads_and_writes_its_slice():
    moved = cost.count(hlo.parse(NESTED), mesh=dict.fromkeys(SIZES, 1)).bytes
    layer, index = 8 * 128 * 4, 4
    assert 2 * layer <= moved <= 2 * layer + 2 * index


OFFLOADED = """HloModule offloaded, is_scheduled=true

ENTRY %main (row: f32[1,8,128], kept: f32[9,8,128], i: s32[]) -> f32[1,8,128] {
  %row = f32[1,8,128]{2,1,0} parameter(0)
  %kept = f32[9,8,128]{2,1,0:S(5)} parameter(1)
  %i = s32[] parameter(2)
  %put = (f32[9,8,128]{2,1,0:S(5)}, f32[1,8,128]{2,1,0}, u32[]{:S(2)}) dynamic-update-slice-start(%kept, %row, %i)
  %all = f32[9,8,128]{2,1,0:S(5)} dynamic-update-slice-done(%put)
  %cut = ((f32[9,8,128]{2,1,0:S(5)}, s32[]), f32[1,8,128]{2,1,0}, u32[]{:S(2)}) dynamic-slice-start(%all, %i)
  ROOT %back = f32[1,8,128]{2,1,0} dynamic-slice-done(%cut)
}
"""  # noqa: E501


def test_of_what_goes_to_the_host_and_back_main_memory_sees_the_slice():
    moved = cost.count(hlo.parse(OFFLOADED), mesh=dict.fromkeys(SIZES, 1)).bytes
    assert moved == 2 * 8 * 128 * 4


FETCHED = """HloModule fetched, is_scheduled=true

ENTRY %main (all: f32[64,128]) -> f32[64,32] {
  %all = f32[64,128]{1,0} parameter(0)
  %cut = ((f32[64,128]{1,0}), f32[64,32]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%all), slice={[0:64], [0:32]}
  ROOT %part = f32[64,32]{1,0:S(1)} slice-done(%cut)
}
"""  # noqa: E501


def test_of_what_is_fetched_to_the_chip_main_memory_sees_the_slice():
    moved = cost.count(hlo.parse(FETCHED), mesh=dict.fromkeys(SIZES, 1)).bytes
    assert moved == 64 * 32 * 4


UNDER_WAY = """HloModule under_way, is_scheduled=true

%both (mine: f32[8,128], all: f32[32,128], x: f32[8,128]) -> (f32[8,128], f32[8,128], f32[32,128]) {
  %mine = f32[8,128]{1,0} parameter(0)
  %all = f32[32,128]{1,0} parameter(1)
  %x = f32[8,128]{1,0} parameter(2)
  %y = f32[8,128]{1,0} negate(%x)
  %gathered = f32[32,128]{1,0} all-gather(%mine), dimensions={0}, replica_groups={{0,1,2,3}}
  ROOT %out = (f32[8,128]{1,0}, f32[8,128]{1,0}, f32[32,128]{1,0}) tuple(%y, %mine, %gathered)
}

ENTRY %main (a: f32[8,128], b: f32[32,128], c: f32[8,128]) -> (f32[8,128], f32[8,128], f32[32,128]) {
  %a = f32[8,128]{1,0} parameter(0)
  %b = f32[32,128]{1,0} parameter(1)
  %c = f32[8,128]{1,0} parameter(2)
  ROOT %m = (f32[8,128]{1,0}, f32[8,128]{1,0}, f32[32,128]{1,0}) fusion(%a, %b, %c), kind=kOutput, calls=%both
}
"""  # noqa: E501


def test_a_collective_that_goes_on_beside_a_product_moves_nothing_of_its_own():
    moved = cost.count(hlo.parse(UNDER_WAY), mesh=dict.fromkeys(SIZES, 1)).bytes
    assert moved == 2 * 8 * 128 * 4
