"""Attention put together from parts: stretches of keys, and keys that are spread over devices.

Softmax over several sets of keys is the mean of what each gives, weighted by the exponentials of
their logsumexps; with that of the whole, each part's gradient is its own affair. So a pass can do
the parts one after another, each in a Pallas kernel (`ops/flash.py`) on a TPU or in plain XLA
elsewhere, and devices that hold parts of one sequence (mesh axis `cp`) can share the work:

- queries and keys both spread (a prompt's own pass): keys and values travel round the ring of
  devices while each computes with those it has (Ring Attention, arXiv:2310.01889); in the backward
  pass their gradients travel with them, and arrive at home after the last stop;
- keys spread, queries everywhere (a response over a long prompt): each device sees its part of the
  keys, and the parts are summed over devices.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from tgvlm_jax import mesh
from tgvlm_jax.ops import flash
from tgvlm_jax.ops.flash import FAR_BELOW, Seen, Slopes
from tgvlm_jax.ops.masks import AttentionMask, full_width
from tgvlm_jax.types import pytree


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Keys:
    """One stretch: keys and values ([a h s c]) and who sees them."""

    k: Annotated[Any, "float a h s c"]
    v: Annotated[Any, "float a h s c"]
    mask: Annotated[Any, "AttentionMask a t s"]


@dataclasses.dataclass(frozen=True)
class _Setting:
    """What is known while tracing: how parts are computed, and how each stretch lies.

    `ways` has for each stretch the mesh axis that its keys are spread over, or None; `around` is
    that of the queries. `shares` are for the kernels' cost estimates.
    """

    name: str
    pallas: bool
    interpret: bool
    ways: tuple[str | None, ...]
    around: str | None
    shares: tuple[float, ...]


def attend_parts(
    q: Float[Array, "b t h r c"],
    stretches: Sequence[Keys],
    *,
    name: str,
    shares: Sequence[float],
    pallas: bool,
    interpret: bool = False,
) -> Float[Array, "b t h r c"]:
    """Softmax attention over all stretches together, as `attention.attend`.

    Args:
        q: queries; their second axis may be spread over a mesh axis.
        stretches: the keys of one whose third axis is spread over that axis go round; where only
            keys are spread, what each device sees is summed. All queries see something.
        name: of the results, for remat policies. shares: of the pairs of each stretch that count.
        pallas: whether parts are computed in kernels. interpret: in plain JAX, for tests.
    """
    setting = _Setting(
        name=name,
        pallas=pallas,
        interpret=interpret,
        ways=tuple(mesh.axis_of(one.k, 2) for one in stretches),
        around=mesh.axis_of(q, 1),
        shares=tuple(shares),
    )
    return _attend(setting, q, tuple(_laid(q, one) for one in stretches))


def _laid(q: Array, keys: Keys) -> Keys:
    """The numbers of a mask beside the queries and the keys that they are about."""
    mask = full_width(keys.mask, q.shape[1])
    if not mesh.active():
        return dataclasses.replace(keys, mask=mask)
    rows = jax.typeof(keys.k).sharding.spec[0]
    of_q, of_k = (
        PartitionSpec(rows, mesh.axis_of(q, 1)),
        PartitionSpec(rows, mesh.axis_of(keys.k, 2)),
    )
    wanted = AttentionMask(
        low=of_q,
        high=of_q,
        place=of_k,
        group=None if mask.group is None else of_q,
        key_group=None if mask.key_group is None else of_k,
    )
    return dataclasses.replace(keys, mask=jax.tree.map(jax.sharding.reshard, mask, wanted))


def _spread(function: Any, *args: Any, out: Any) -> Any:
    """Runs a function on every device's own part of its arguments; `out` is laid out like those."""
    if not mesh.active():
        return function(*args)

    def layout(tree):
        return jax.tree.map(lambda x: jax.typeof(x).sharding.spec, tree)

    specs = tuple(layout(x) for x in args)
    return jax.shard_map(function, in_specs=specs, out_specs=layout(out), check_vma=False)(*args)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(setting, q, stretches):
    return _attend_forward(setting, q, stretches)[0]


def _attend_forward(setting, q, stretches):
    def local(q, stretches):
        seen = _forward(setting, _heads_first(q), stretches)
        b, t, h, r, _ = q.shape
        return _heads_last(seen.out.astype(q.dtype), q), seen.lse.reshape(b, h, r, t)

    like = jax.eval_shape(lambda q: jnp.moveaxis(q[..., 0], 1, 3), q)
    out, lse = _spread(local, q, stretches, out=(q, like))
    out, lse = (checkpoint_name(x, setting.name) for x in (out, lse))
    return out, (q, stretches, out, lse)


def _attend_backward(setting, kept, slope):
    q, stretches, out, lse = kept

    def local(q, stretches, out, lse, slope):
        shared = jnp.sum((slope * out).astype(jnp.float32), axis=-1)
        shared = jnp.moveaxis(shared, 1, 3).reshape(lse.shape[0], -1, lse.shape[3])
        lse = lse.reshape(shared.shape)
        queries, gradient = _heads_first(q), _heads_first(slope)
        of_q, of_keys = _backward(setting, queries, stretches, lse, gradient, shared)
        return _heads_last(of_q.astype(q.dtype), q), of_keys

    pairs = tuple((one.k, one.v) for one in stretches)
    of_q, of_pairs = _spread(local, q, stretches, out, lse, slope, out=(q, pairs))
    return of_q, tuple(Keys(k=k, v=v, mask=None) for k, v in of_pairs)


_attend.defvjp(_attend_forward, _attend_backward)


def _heads_first(x: Array) -> Array:
    """[b t h r c] -> [b n t c]."""
    b, t, h, r, c = x.shape
    return jnp.moveaxis(x, 1, 3).reshape(b, h * r, t, c)


def _heads_last(x: Array, like: Array) -> Array:
    """The inverse."""
    b, t, h, r, c = like.shape
    return jnp.moveaxis(x.reshape(b, h, r, t, c), 3, 1)


# From here on everything is about one device's part.


def _forward(setting: _Setting, q: Array, stretches: Sequence[Keys]) -> Seen:
    together, found = [], None
    for one, axis, share in zip(stretches, setting.ways, setting.shares, strict=True):
        if axis is not None and setting.around is not None:
            seen = _forward_around(setting, q, one, axis, share)
        else:
            seen = _part_forward(setting, q, one, share)
        if axis is not None and setting.around is None:
            together.append((seen, axis))
            continue
        found = seen if found is None else _merged(found, seen)
    for seen, axis in together:
        top = jax.lax.pmax(seen.lse, axis)
        weight = jnp.exp(seen.lse - top)
        total = jax.lax.psum(weight, axis)
        weighted = seen.out.astype(jnp.float32) * weight[..., None]
        out = jax.lax.psum(weighted, axis) / total[..., None]
        seen = Seen(out=out, lse=top + jnp.log(total))
        found = seen if found is None else _merged(found, seen)
    assert found is not None
    return found


def _merged(a: Seen, b: Seen) -> Seen:
    """What is seen in two sets of keys together; the results in float32."""
    top = jnp.maximum(a.lse, b.lse)
    of_a, of_b = jnp.exp(a.lse - top), jnp.exp(b.lse - top)
    total = of_a + of_b
    one, other = (x.out.astype(jnp.float32) for x in (a, b))
    out = one * (of_a / total)[..., None] + other * (of_b / total)[..., None]
    return Seen(out=out, lse=top + jnp.log(total))


def _forward_around(setting: _Setting, q: Array, keys: Keys, axis: str, share: float) -> Seen:
    """Keys and values go round; what comes next is sent off before this stop is computed."""

    def stop(carry, _):
        found, keys = carry
        coming = _onward(keys, axis)
        return (_merged(found, _part_forward(setting, q, keys, share)), coming), None

    start = Seen(
        out=jnp.zeros(q.shape, jnp.float32), lse=jnp.full(q.shape[:-1], FAR_BELOW, jnp.float32)
    )
    (found, _), _ = jax.lax.scan(stop, (start, keys), length=jax.lax.axis_size(axis))
    return found


def _onward(tree: Any, axis: str) -> Any:
    """Everything to the next device of the ring; a mask's numbers of the keys travel with them."""
    count = jax.lax.axis_size(axis)
    ring = [(i, (i + 1) % count) for i in range(count)]

    def send(x):
        return jax.lax.ppermute(x, axis, ring)

    if not isinstance(tree, Keys):
        return jax.tree.map(send, tree)
    mask = tree.mask
    key_group = None if mask.key_group is None else send(mask.key_group)
    mask = dataclasses.replace(mask, place=send(mask.place), key_group=key_group)
    return Keys(k=send(tree.k), v=send(tree.v), mask=mask)


def _backward(
    setting: _Setting,
    q: Array,
    stretches: Sequence[Keys],
    lse: Array,
    slope: Array,
    shared: Array,
) -> tuple[Array, tuple[tuple[Array, Array], ...]]:
    of_q, of_keys = jnp.zeros(q.shape, jnp.float32), []
    given = {"lse": lse, "slope": slope, "shared": shared}
    for one, axis, share in zip(stretches, setting.ways, setting.shares, strict=True):
        if axis is not None and setting.around is not None:
            part = _backward_around(setting, q, one, axis, share, given)
        else:
            part = _part_backward(setting, q, one, share, given)
        added = part.q
        if axis is not None and setting.around is None:
            added = jax.lax.psum(added, axis)
        of_q, of_pair = of_q + added, (part.k, part.v)
        if axis is None and setting.around is not None:
            of_pair = jax.lax.psum(of_pair, setting.around)
        of_keys.append((of_pair[0].astype(one.k.dtype), of_pair[1].astype(one.v.dtype)))
    return of_q, tuple(of_keys)


def _backward_around(
    setting: _Setting, q: Array, keys: Keys, axis: str, share: float, given: dict[str, Array]
) -> Slopes:
    """Once more round, with the gradients of keys and values on the way home."""

    def stop(carry, _):
        sums, keys = carry
        coming = _onward(keys, axis)
        part = _part_backward(setting, q, keys, share, given)
        on = _onward((sums.k + part.k, sums.v + part.v), axis)
        return (Slopes(q=sums.q + part.q, k=on[0], v=on[1]), coming), None

    zeros = [jnp.zeros(x.shape, jnp.float32) for x in (q, keys.k, keys.v)]
    start = Slopes(q=zeros[0], k=zeros[1], v=zeros[2])
    (sums, _), _ = jax.lax.scan(stop, (start, keys), length=jax.lax.axis_size(axis))
    return sums


def _part_forward(setting: _Setting, q: Array, keys: Keys, share: float) -> Seen:
    if setting.pallas:
        given = {"share": share, "interpret": setting.interpret}
        return flash.forward(q, keys.k, keys.v, keys.mask, **given)
    scores = _scores(q, keys)
    top = jnp.max(scores, axis=-1)
    weights = jnp.where(scores > FAR_BELOW, jnp.exp(scores - top[..., None]), 0.0)
    total = jnp.sum(weights, axis=-1)
    nothing = total == 0.0
    total = jnp.where(nothing, 1.0, total)
    out = jnp.einsum(
        "ahrts,ahsc->ahrtc",
        weights.astype(keys.v.dtype),
        keys.v,
        preferred_element_type=jnp.float32,
    )
    out = out / total[..., None]
    lse = jnp.where(nothing, FAR_BELOW, top + jnp.log(total))
    return Seen(out=_unfold(out, q.shape), lse=_unfold(lse, q.shape[:-1]))


def _part_backward(
    setting: _Setting, q: Array, keys: Keys, share: float, given: dict[str, Array]
) -> Slopes:
    k, v = keys.k, keys.v
    if setting.pallas:
        how = {"share": share, "interpret": setting.interpret}
        return flash.backward(q, k, v, keys.mask, **given, **how)
    scores = _scores(q, keys)
    lse, slope, shared = (_fold(given[name], k) for name in ("lse", "slope", "shared"))
    weights = jnp.where(scores > FAR_BELOW, jnp.exp(scores - lse[..., None]), 0.0)
    exact = {"preferred_element_type": jnp.float32}
    of_v = jnp.einsum("ahrts,ahrtc->ahsc", weights.astype(slope.dtype), slope, **exact)
    of_weights = jnp.einsum("ahrtc,ahsc->ahrts", slope, v, **exact)
    of_scores = weights * (of_weights - shared[..., None]) * jnp.float32(q.shape[-1] ** -0.5)
    of_scores = of_scores.astype(q.dtype)
    of_q = jnp.einsum("ahrts,ahsc->ahrtc", of_scores, k, **exact)
    of_k = jnp.einsum("ahrts,ahrtc->ahsc", of_scores, _fold(q, k), **exact)
    return Slopes(q=_unfold(of_q, q.shape), k=of_k, v=of_v)


def _scores(q: Array, keys: Keys) -> Array:
    """[a h r t s] in float32, `FAR_BELOW` where nothing is seen."""
    scores = jnp.einsum(
        "ahrtc,ahsc->ahrts", _fold(q, keys.k), keys.k, preferred_element_type=jnp.float32
    )
    scores = scores * jnp.float32(q.shape[-1] ** -0.5)
    return jnp.where(keys.mask.dense()[:, None, None], scores, FAR_BELOW)


def _fold(x: Array, k: Array) -> Array:
    """[b n t ...] -> [a h r t ...]: the rows and heads that share keys beside each other."""
    (a, h), (b, n) = k.shape[:2], x.shape[:2]
    x = x.reshape(a, b // a, h, n // h, *x.shape[2:])
    return jnp.swapaxes(x, 1, 2).reshape(a, h, b // a * (n // h), *x.shape[4:])


def _unfold(x: Array, shape: Sequence[int]) -> Array:
    """The inverse, to `shape`."""
    a, h, r = x.shape[:3]
    each = shape[0] // a
    x = x.reshape(a, h, each, r // each, *x.shape[3:])
    return jnp.swapaxes(x, 1, 2).reshape(tuple(shape))
