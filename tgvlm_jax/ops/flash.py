"""Attention of some queries to some keys in Pallas kernels for TPUs, and the gradient of it.

The algorithm is that of FlashAttention-2 (arXiv:2307.08691): scores exist for one block of queries
and keys at a time, in float32. What differs from the kernels that come with JAX ("splash"):

- the result comes with its logsumexp, and the gradient takes that of the whole softmax, of which
  these keys may be a part only: a response's prompt, or one stop of a ring (`ops/parts.py`);
- who sees whom is data, a few numbers a token (`ops/masks.py`), so one kernel serves every rank of
  a ring, right-padded prompts of any length, and frames that see each other both ways. Blocks
  that nobody sees are neither read nor computed;
- rows that share keys (several answers to a prompt) read them where they lie;
- every kernel tells the compiler what it costs (`flops`), so estimates made from a compiled program
  (`tgvlm plan`) count it.

Grids end with the axis that is summed over. Numbers that decide which blocks are visited lie in
SMEM: for each block of queries (or of keys) the first and last block of the other kind it needs.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Float32

from tgvlm_jax.ops.masks import AttentionMask
from tgvlm_jax.types import pytree

FAR_BELOW = -1e30  # finite, so that a row without any key stays free of NaN
_LANES = 128
_QUERIES, _KEYS = 512, 1024  # largest blocks; the scores of one are 2 MiB of VMEM
_NT = (((1,), (1,)), ((), ()))  # a b^T
_NN = (((1,), (0,)), ((), ()))  # a b


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What queries saw in some keys: the weighted mean of the values, and the scores' logsumexp."""

    out: Annotated[Any, "float b n t c"]
    lse: Annotated[Any, "float32 b n t"]


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Slopes:
    """Gradients by queries, keys and values."""

    q: Annotated[Any, "float32 b n t c"]
    k: Annotated[Any, "float32 a h s c"]
    v: Annotated[Any, "float32 a h s c"]


def flops(
    *, rows: int, heads: int, queries: int, keys: int, size: int, share: float = 1.0
) -> dict[str, float]:
    """What the kernels below compute, by kernel: two operations for every product of a matmul.

    It is what they say in their cost estimates, which the compiler adds to `cost_analysis()` and
    writes into `backend_config` of the `tpu_custom_call` (once for a loop's body, as all of its
    figures). `share` is the part of all pairs of queries and keys that is computed.
    """
    product = 2.0 * rows * heads * queries * keys * size * share
    return {"flash_forward": 2 * product, "flash_dq": 3 * product, "flash_dkv": 4 * product}


def forward(
    q: Float[Array, "b n t c"],
    k: Float[Array, "a h s c"],
    v: Float[Array, "a h s c"],
    mask: AttentionMask,
    *,
    share: float = 1.0,
    interpret: bool = False,
) -> Seen:
    """Softmax attention of queries to these keys alone; 0 and `FAR_BELOW` where none is seen.

    Args:
        q: `n / h` heads to each key head, and `b / a` rows, one after another, to each row of keys.
        mask: of `a` rows and `t` queries.
        share: the part of all pairs that is seen, for the cost estimate alone.
        interpret: runs it in plain JAX, anywhere and slowly.
    """
    plan = _plan(q, k, share)
    q, k, v, info = _padded(plan, q, k, v, mask)
    bq, bk, c = plan.bq, plan.bk, plan.size

    def keys(b, n, i, j, qs, ks):
        place = _within(qs, _over(b, plan.each), i, j, plan.rows, plan.nq)
        return _over(b, plan.each), _over(n, plan.group), place, 0

    def key_info(b, n, i, j, qs, ks):
        return _over(b, plan.each), 0, _within(qs, _over(b, plan.each), i, j, plan.rows, plan.nq)

    out, lse = pl.pallas_call(
        functools.partial(_forward_kernel, plan=plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(plan.b, plan.n, plan.nq, plan.nk),
            in_specs=[
                pl.BlockSpec((None, 3, bq), lambda b, n, i, j, *_: (_over(b, plan.each), 0, i)),
                pl.BlockSpec((None, 2, bk), key_info),
                pl.BlockSpec((None, None, bq, c), lambda b, n, i, j, *_: (b, n, i, 0)),
                pl.BlockSpec((None, None, bk, c), keys),
                pl.BlockSpec((None, None, bk, c), keys),
            ],
            out_specs=[
                pl.BlockSpec((None, None, bq, c), lambda b, n, i, j, *_: (b, n, i, 0)),
                pl.BlockSpec((None, None, 1, bq), lambda b, n, i, j, *_: (b, n, 0, i)),
            ],
            scratch_shapes=[
                pltpu.VMEM((bq, _LANES), jnp.float32),
                pltpu.VMEM((bq, _LANES), jnp.float32),
                pltpu.VMEM((bq, c), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((plan.b, plan.n, 1, plan.t), jnp.float32),
        ],
        interpret=interpret,
        **plan.about("flash_forward", q, k),
    )(*info, q, k, v)
    return Seen(out=out[:, :, : plan.queries], lse=lse[:, :, 0, : plan.queries])


def backward(
    q: Float[Array, "b n t c"],
    k: Float[Array, "a h s c"],
    v: Float[Array, "a h s c"],
    mask: AttentionMask,
    *,
    lse: Float32[Array, "b n t"],
    slope: Float[Array, "b n t c"],
    shared: Float32[Array, "b n t"],
    share: float = 1.0,
    interpret: bool = False,
) -> Slopes:
    """What these keys add to the gradients of attention, of which they may be a part.

    Args:
        lse: logsumexp of the scores of all keys. slope: gradient of the result.
        shared: sum over `c` of the result times its gradient.
    """
    plan = _plan(q, k, share)
    q, k, v, info = _padded(plan, q, k, v, mask)
    room = ((0, 0), (0, 0), (0, plan.t - plan.queries))
    slope = jnp.pad(slope, (*room, (0, 0)))
    lse, shared = (jnp.pad(x, room)[:, :, None] for x in (lse, shared))
    operands = (*info, q, k, v, slope, lse, shared)
    of_q = _dq(plan, operands, interpret)
    of_k, of_v = _dkv(plan, operands, interpret)
    return Slopes(
        q=of_q[:, :, : plan.queries], k=of_k[:, :, : plan.keys], v=of_v[:, :, : plan.keys]
    )


def _dq(plan: "_Plan", operands: tuple, interpret: bool) -> Array:
    q, k, bq, bk, c = operands[4], operands[5], plan.bq, plan.bk, plan.size

    def keys(b, n, i, j, qs, ks):
        place = _within(qs, _over(b, plan.each), i, j, plan.rows, plan.nq)
        return _over(b, plan.each), _over(n, plan.group), place, 0

    def key_info(b, n, i, j, qs, ks):
        return _over(b, plan.each), 0, _within(qs, _over(b, plan.each), i, j, plan.rows, plan.nq)

    queries = pl.BlockSpec((None, None, bq, c), lambda b, n, i, j, *_: (b, n, i, 0))
    numbers = pl.BlockSpec((None, None, 1, bq), lambda b, n, i, j, *_: (b, n, 0, i))
    return pl.pallas_call(
        functools.partial(_dq_kernel, plan=plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(plan.b, plan.n, plan.nq, plan.nk),
            in_specs=[
                pl.BlockSpec((None, 3, bq), lambda b, n, i, j, *_: (_over(b, plan.each), 0, i)),
                pl.BlockSpec((None, 2, bk), key_info),
                queries,
                pl.BlockSpec((None, None, bk, c), keys),
                pl.BlockSpec((None, None, bk, c), keys),
                queries,
                numbers,
                numbers,
            ],
            out_specs=queries,
            scratch_shapes=[pltpu.VMEM((bq, c), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct(q.shape, jnp.float32),
        interpret=interpret,
        **plan.about("flash_dq", q, k),
    )(*operands)


def _dkv(plan: "_Plan", operands: tuple, interpret: bool) -> Sequence[Array]:
    q, k, bq, bk, c = operands[4], operands[5], plan.bq, plan.bk, plan.size

    def at(a, h, j, e, i, qs, ks):
        """Row, head and block of the queries that stand at a place of the grid."""
        row, head = (
            a * plan.each + _over(e, plan.group),
            h * plan.group + jax.lax.rem(e, jnp.int32(plan.group)),
        )
        return row, head, _within(ks, a, j, i, plan.rows, plan.nk)

    def queries(*place):
        row, head, block = at(*place)
        return row, head, block, 0

    def numbers(*place):
        row, head, block = at(*place)
        return row, head, 0, block

    def info(a, h, j, e, i, qs, ks):
        return a, 0, _within(ks, a, j, i, plan.rows, plan.nk)

    keys = pl.BlockSpec((None, None, bk, c), lambda a, h, j, *_: (a, h, j, 0))
    return pl.pallas_call(
        functools.partial(_dkv_kernel, plan=plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(plan.rows, plan.h, plan.nk, plan.each * plan.group, plan.nq),
            in_specs=[
                pl.BlockSpec((None, 3, bq), info),
                pl.BlockSpec((None, 2, bk), lambda a, h, j, *_: (a, 0, j)),
                pl.BlockSpec((None, None, bq, c), queries),
                keys,
                keys,
                pl.BlockSpec((None, None, bq, c), queries),
                pl.BlockSpec((None, None, 1, bq), numbers),
                pl.BlockSpec((None, None, 1, bq), numbers),
            ],
            out_specs=[keys, keys],
            scratch_shapes=[pltpu.VMEM((bk, c), jnp.float32)] * 2,
        ),
        out_shape=[jax.ShapeDtypeStruct(k.shape, jnp.float32)] * 2,
        interpret=interpret,
        **plan.about("flash_dkv", q, k),
    )(*operands)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """Sizes: `b` rows of queries to `rows` of keys, `n` heads to `h`, blocks and their numbers."""

    b: int
    n: int
    rows: int
    h: int
    queries: int
    keys: int
    size: int
    bq: int
    bk: int
    share: float

    @property
    def each(self) -> int:
        """Rows of queries to a row of keys."""
        return self.b // self.rows

    @property
    def group(self) -> int:
        """Heads to a key head."""
        return self.n // self.h

    @property
    def nq(self) -> int:
        """Blocks of queries."""
        return -(-self.queries // self.bq)

    @property
    def nk(self) -> int:
        """Blocks of keys."""
        return -(-self.keys // self.bk)

    @property
    def t(self) -> int:
        """Queries with padding."""
        return self.nq * self.bq

    @property
    def s(self) -> int:
        """Keys with padding."""
        return self.nk * self.bk

    def about(self, name: str, q: Array, k: Array) -> dict[str, Any]:
        """Name, cost and order of a kernel, for `pallas_call`."""
        sizes = {"rows": self.b, "heads": self.n, "queries": self.t, "keys": self.s}
        count = flops(**sizes, size=self.size, share=self.share)[name]
        pairs = self.b * self.n * self.t * self.s * self.share
        reads = 2 * k.dtype.itemsize * pairs * self.size / self.bq
        estimate = pl.CostEstimate(
            flops=int(count),
            transcendentals=int(pairs),
            bytes_accessed=int(reads + 2 * q.size * q.dtype.itemsize),
        )
        kinds = pltpu.GridDimensionSemantics
        summed = 2 if name == "flash_dkv" else 1
        semantics = (kinds.PARALLEL,) * 3 + (kinds.ARBITRARY,) * summed
        return {
            "name": name,
            "cost_estimate": estimate,
            "compiler_params": pltpu.CompilerParams(dimension_semantics=semantics),
        }


def _plan(q: Array, k: Array, share: float) -> _Plan:
    b, n, t, c = q.shape
    rows, h, s, _ = k.shape
    return _Plan(
        b=b,
        n=n,
        rows=rows,
        h=h,
        queries=t,
        keys=s,
        size=c,
        bq=_block(t, _QUERIES),
        bk=_block(s, _KEYS),
        share=share,
    )


def _block(count: int, most: int) -> int:
    """The largest block that wastes no more than an eighth on padding, in whole lanes."""
    sizes = [size for size in range(most, 0, -_LANES) if -(-count // size) * size <= count * 9 / 8]
    return min(sizes[0] if sizes else _LANES, -(-count // _LANES) * _LANES)


def _padded(plan: _Plan, q: Array, k: Array, v: Array, mask: AttentionMask):
    """Operands filled up to whole blocks, and the numbers of the mask as the kernels want them."""
    more_t, more_s = plan.t - plan.queries, plan.s - plan.keys

    def rows(values, more, fills):
        some = zip(values, fills, strict=True)
        return jnp.stack(
            [jnp.pad(x, ((0, 0), (0, more)), constant_values=fill) for x, fill in some], axis=1
        )

    group = jnp.full_like(mask.low, -1) if mask.group is None else mask.group
    key_group = jnp.full_like(mask.place, -2) if mask.key_group is None else mask.key_group
    of_q = rows((mask.low, mask.high, group), more_t, (1, 0, -1))
    of_k = rows((mask.place, key_group), more_s, (-1, -2))
    room = ((0, 0), (0, 0))
    q = jnp.pad(q, (*room, (0, more_t), (0, 0)))
    k, v = (jnp.pad(x, (*room, (0, more_s), (0, 0))) for x in (k, v))
    return q, k, v, (*_bounds(plan, of_q, of_k), of_q, of_k)


def _bounds(plan: _Plan, of_q: Array, of_k: Array) -> tuple[Array, Array]:
    """For each block of queries: first and last block of keys that it needs, and what a key must
    lie within so that all its queries see it. For each block of keys: the same, and what its
    places lie within. One number after another, as SMEM wants them."""
    low, high, group = jnp.moveaxis(of_q.reshape(plan.rows, 3, plan.nq, plan.bq), 1, 0)
    place, key_group = jnp.moveaxis(of_k.reshape(plan.rows, 2, plan.nk, plan.bk), 1, 0)
    there = place >= 0
    nearest = jnp.min(jnp.where(there, place, 2**30), axis=-1)[:, None]
    farthest = jnp.max(place, axis=-1)[:, None]
    some = low <= high
    lowest = jnp.min(jnp.where(some, low, 2**30), axis=-1)[:, :, None]
    highest = jnp.max(jnp.where(some, high, -1), axis=-1)[:, :, None]
    needed = (farthest >= lowest) & (nearest <= highest)
    least = jnp.min(jnp.where(key_group >= 0, key_group, 2**30), axis=-1)[:, None]
    most = jnp.max(key_group, axis=-1)[:, None]
    first_group = jnp.min(jnp.where(group >= 0, group, 2**30), axis=-1)[:, :, None]
    needed |= (most >= first_group) & (least <= jnp.max(group, axis=-1)[:, :, None])

    def ends(needed):
        count = needed.shape[-1]
        first = jnp.argmax(needed, axis=-1).astype(jnp.int32)
        last = count - 1 - jnp.argmax(needed[..., ::-1], axis=-1).astype(jnp.int32)
        some = jnp.any(needed, axis=-1)
        return jnp.where(some, first, 1), jnp.where(some, last, 0)

    queries = (*ends(needed), jnp.max(low, axis=-1), jnp.min(high, axis=-1))
    keys = (*ends(needed.swapaxes(1, 2)), jnp.min(place, axis=-1), jnp.max(place, axis=-1))
    return jnp.stack(queries).reshape(-1), jnp.stack(keys).reshape(-1)


def _over(index: Any, count: int) -> Any:
    """A quotient of what is not negative; `//` would look at signs."""
    return index if count == 1 else jax.lax.div(index, jnp.int32(count))


def _number(ref: Any, which: int, row: Any, block: Any, rows: int, blocks: int) -> Any:
    return ref[(which * rows + row) * blocks + block]


def _within(ref: Any, row: Any, block: Any, other: Any, rows: int, blocks: int) -> Any:
    """The block at `other`, or the nearest one needed: what does not change is not read again."""
    first = _number(ref, 0, row, block, rows, blocks)
    last = _number(ref, 1, row, block, rows, blocks)
    return jnp.minimum(jnp.maximum(other, first), last)


def _visit(plan: _Plan, qs: Any, ks: Any, row: Any, i: Any, j: Any, run: Any) -> None:
    """Calls `run(masked)` for a pair of blocks, unless nobody there sees anything."""
    of_q = [_number(qs, n, row, i, plan.rows, plan.nq) for n in range(4)]
    nearest, farthest = (_number(ks, n, row, j, plan.rows, plan.nk) for n in (2, 3))
    first, last = (_number(ks, n, row, j, plan.rows, plan.nk) for n in (0, 1))
    needed = (j >= of_q[0]) & (j <= of_q[1]) & (i >= first) & (i <= last)
    whole = (nearest >= of_q[2]) & (farthest <= of_q[3])
    pl.when(needed & whole)(functools.partial(run, masked=False))
    pl.when(needed & jnp.logical_not(whole))(functools.partial(run, masked=True))


def _seen(q_info: Any, k_info: Any, *, queries_first: bool) -> Array:
    """Which pairs of a block count; queries are its rows, or else its columns."""
    low, high, group = q_info[0, :], q_info[1, :], q_info[2, :]
    place, key_group = k_info[0, :], k_info[1, :]
    q_axis, k_axis = (1, 0) if queries_first else (0, 1)
    low, high, group = (jnp.expand_dims(x, q_axis) for x in (low, high, group))
    place, key_group = (jnp.expand_dims(x, k_axis) for x in (place, key_group))
    return ((place >= low) & (place <= high)) | (group == key_group)


def _dot(a: Array, b: Array, dims: Any) -> Array:
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _forward_kernel(
    qs, ks, q_info, k_info, q_ref, k_ref, v_ref, out, lse, top, total, sums, *, plan: _Plan
):
    b, i, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    scale, tiles = jnp.float32(plan.size**-0.5), plan.bk // _LANES

    @pl.when(j == 0)
    def _():
        top[...] = jnp.full_like(top, FAR_BELOW)
        total[...] = jnp.zeros_like(total)
        sums[...] = jnp.zeros_like(sums)

    def run(*, masked):
        scores = _dot(q_ref[...], k_ref[...], _NT) * scale
        seen = _seen(q_info, k_info, queries_first=True) if masked else None
        if seen is not None:
            scores = jnp.where(seen, scores, FAR_BELOW)
        before = top[...]
        now = jnp.maximum(before, jnp.max(scores, axis=-1)[:, None])
        weights = jnp.exp(scores - jnp.tile(now, (1, tiles)))
        if seen is not None:
            weights = jnp.where(seen, weights, 0.0)
        faded = jnp.exp(before - now)
        top[...] = now
        total[...] = faded * total[...] + jnp.sum(weights, axis=-1)[:, None]
        mixed = _dot(weights.astype(v_ref.dtype), v_ref[...], _NN)
        sums[...] = _wide(faded, plan.size) * sums[...] + mixed

    _visit(plan, qs, ks, _over(b, plan.each), i, j, run)

    @pl.when(j == plan.nk - 1)
    def _():
        nothing = total[...] == 0.0
        whole = jnp.where(nothing, 1.0, total[...])
        out[...] = (sums[...] / _wide(whole, plan.size)).astype(out.dtype)
        found = jnp.where(nothing, FAR_BELOW, top[...] + jnp.log(whole))
        lse[...] = jnp.transpose(found)[:1]


def _wide(x: Array, size: int) -> Array:
    """A column that fills all lanes, as wide as a head."""
    return jnp.tile(x, (1, math.ceil(size / _LANES)))[:, :size]


def _dq_kernel(
    qs, ks, q_info, k_info, q_ref, k_ref, v_ref, slope, lse, shared, of_q, sums, *, plan: _Plan
):
    b, i, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    scale = jnp.float32(plan.size**-0.5)

    @pl.when(j == 0)
    def _():
        sums[...] = jnp.zeros_like(sums)

    def run(*, masked):
        scores = _dot(q_ref[...], k_ref[...], _NT) * scale
        weights = jnp.exp(scores - jnp.expand_dims(lse[0, :], 1))
        if masked:
            seen = _seen(q_info, k_info, queries_first=True)
            weights = jnp.where(seen, weights, 0.0)
        of_weights = _dot(slope[...], v_ref[...], _NT)
        of_scores = weights * (of_weights - jnp.expand_dims(shared[0, :], 1)) * scale
        sums[...] += _dot(of_scores.astype(k_ref.dtype), k_ref[...], _NN)

    _visit(plan, qs, ks, _over(b, plan.each), i, j, run)

    @pl.when(j == plan.nk - 1)
    def _():
        of_q[...] = sums[...]


def _dkv_kernel(
    qs, ks, q_info, k_info, q_ref, k_ref, v_ref, slope, lse, shared, of_k, of_v, dk, dv, *, plan
):
    a, j = pl.program_id(0), pl.program_id(2)
    e, i = pl.program_id(3), pl.program_id(4)
    scale = jnp.float32(plan.size**-0.5)

    @pl.when((e == 0) & (i == 0))
    def _():
        dk[...] = jnp.zeros_like(dk)
        dv[...] = jnp.zeros_like(dv)

    def run(*, masked):
        # Keys are the rows here, so that both products below are plain ones.
        scores = _dot(k_ref[...], q_ref[...], _NT) * scale
        weights = jnp.exp(scores - lse[...])
        if masked:
            seen = _seen(q_info, k_info, queries_first=False)
            weights = jnp.where(seen, weights, 0.0)
        dv[...] += _dot(weights.astype(slope.dtype), slope[...], _NN)
        of_weights = _dot(v_ref[...], slope[...], _NT)
        of_scores = weights * (of_weights - shared[...]) * scale
        dk[...] += _dot(of_scores.astype(q_ref.dtype), q_ref[...], _NN)

    _visit(plan, qs, ks, a, i, j, run)

    @pl.when((e == plan.each * plan.group - 1) & (i == plan.nq - 1))
    def _():
        of_k[...] = dk[...]
        of_v[...] = dv[...]
