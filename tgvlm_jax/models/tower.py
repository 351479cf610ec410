"""What the published vision towers share: frames in chunks, patches, attention, GELU layers.

All of them work on arrays that start with (batch, frames): frames, or whole clips, are independent
there, so they spread over every axis of the mesh (design D9) and may be computed chunk by chunk.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Num

from tgvlm_jax import mesh
from tgvlm_jax.models.layers import Axes, Linear

_FAR_BELOW = -1e30  # finite, so that a row without any key stays free of NaN
KEPT = "kept of a chunk"
"""What has this name (`checkpoint_name`) is kept for the backward pass of `in_chunks`."""


def in_chunks(
    function: Callable[[Num[Array, "b c ..."]], Num[Array, "b c ..."]],
    frames: Num[Array, "b f ..."],
    *,
    chunk: int,
) -> Num[Array, "b f ..."]:
    """Applies `function` to at most about `chunk` frames of each sample at a time, in order.

    Memory then hardly grows with the length of a video: in the backward pass each chunk is computed
    again, but for what is named `KEPT`. Chunks are rounded up to what the mesh divides, the last
    one is filled up with zeros. The result is laid out by batch only.

    Args:
        function: of frames laid out over ("batch", "frames"), each independent of the others.
        frames: the second axis is cut. chunk: frames of one sample, 0 for all at once.
    """
    count, ways = frames.shape[1], _ways()
    size = -(-min(chunk or count, count) // ways) * ways
    chunks = -(-count // size)
    frames = _batch_only(frames)
    rest = ((0, 0),) * (frames.ndim - 2)
    frames = jnp.pad(frames, ((0, 0), (0, chunks * size - count), *rest))

    def spread(part):
        return function(mesh.shard(part, "batch", "frames", *(None,) * (part.ndim - 2)))

    if chunks == 1:
        return _batch_only(spread(frames))[:, :count]
    shape = (frames.shape[0], chunks, size, *frames.shape[2:])
    parts = mesh.reshape(frames, shape, out=("batch", *(None,) * (len(shape) - 1)))
    policy = jax.checkpoint_policies.save_only_these_names(KEPT)
    done = jax.lax.map(jax.checkpoint(spread, policy=policy), jnp.moveaxis(parts, 1, 0))
    done = _batch_only(jnp.moveaxis(done, 0, 1))
    shape = (done.shape[0], chunks * size, *done.shape[3:])
    return mesh.reshape(done, shape, out=("batch", *(None,) * (len(shape) - 1)))[:, :count]


def _ways() -> int:
    """Devices over which the frames of one sample spread."""
    sizes = dict(jax.sharding.get_abstract_mesh().shape) if mesh.active() else {}
    return math.prod(sizes.get(axis, 1) for axis in mesh.RULES["frames"] or ())


def _batch_only(x: Num[Array, "b f ..."]) -> Num[Array, "b f ..."]:
    return mesh.shard(x, "batch", *(None,) * (x.ndim - 1))


def cut(frames: Float[Array, "... y x c"], *, patch: int) -> Float[Array, "... p _y _x c"]:
    """Cuts frames into square patches, row by row."""
    *lead, height, width, channels = frames.shape
    axes = ("batch", "frames", *(None,) * (len(lead) - 2))
    shape = (*lead, height // patch, patch, width // patch, patch, channels)
    parts = mesh.reshape(frames, shape, out=(*axes, *(None,) * 5)).swapaxes(-4, -3)
    shape = (*lead, (height // patch) * (width // patch), patch, patch, channels)
    return mesh.reshape(parts, shape, out=(*axes, *(None,) * 4))


def _lead(out: Axes) -> str:
    """Letters of all axes but the last."""
    return "bfpq"[: len(out) - 1]


def patch_embedding(
    patch: int, channels: int, width: int, *, out: Axes, rngs: nnx.Rngs, dtype: jnp.dtype
) -> Linear:
    """A convolution whose stride is its size, applied to what `cut` returns."""
    lead = _lead(out)
    return Linear(
        (patch, patch, channels, width),
        axes=(None, None, None, "embed"),
        formula=f"{lead}yxc,yxcd->{lead}d",
        out=out,
        bias=True,
        rngs=rngs,
        dtype=dtype,
    )


def table(rngs: nnx.Rngs, shape: Sequence[int], dtype: jnp.dtype) -> nnx.Param:
    """A small learned table of token vectors that every device holds whole."""
    values = nnx.initializers.normal(0.02)(rngs.params(), tuple(shape), dtype)
    return nnx.Param(mesh.shard(values, *(None,) * len(shape)))


def dense(inputs: int, outputs: int, *, out: Axes, rngs: nnx.Rngs, dtype: jnp.dtype) -> Linear:
    """A linear map of the last axis, with bias."""
    lead = _lead(out)
    return Linear(
        (inputs, outputs),
        axes=("embed", None),
        formula=f"{lead}d,de->{lead}e",
        out=out,
        bias=True,
        rngs=rngs,
        dtype=dtype,
    )


class Attention(nnx.Module):
    """Softmax attention among the tokens of a frame, or from them to other tokens."""

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        source: int = 0,
        biases: str = "qkvo",
        out: Axes,
        rngs: nnx.Rngs,
        dtype: jnp.dtype,
    ):
        """`source` is the width of the keys' tokens where it is another, `biases` says who has."""
        size, lead = width // heads, _lead(out)

        def head(name: str, inputs: int) -> Linear:
            return Linear(
                (inputs, heads, size),
                axes=("embed", None, None),
                formula=f"{lead}d,dhk->{lead}hk",
                out=(*out, None),
                bias=name in biases,
                rngs=rngs,
                dtype=dtype,
            )

        self.q = head("q", width)
        self.k, self.v = head("k", source or width), head("v", source or width)
        self.o = Linear(
            (heads, size, width),
            axes=(None, None, "embed"),
            formula=f"{lead}hk,hkd->{lead}d",
            out=out,
            bias="o" in biases,
            rngs=rngs,
            dtype=dtype,
        )

    def __call__(
        self,
        x: Float[Array, "... q d"],
        source: Float[Array, "... s e"] | None = None,
        mask: Bool[Array, "... #q s"] | None = None,
    ) -> Float[Array, "... q d"]:
        """Attends from `x` to itself or to `source`; `mask` says which key each token sees.

        Scores are rounded to the working dtype before the softmax, as in the published models.
        """
        source = x if source is None else source
        q, k, v = self.q(x), self.k(source), self.v(source)
        q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
        scores = jnp.einsum("...phk,...qhk->...hpq", q, k).astype(jnp.float32)
        if mask is not None:
            scores = jnp.where(mask[..., None, :, :], scores, jnp.float32(_FAR_BELOW))
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        return self.o(jnp.einsum("...hpq,...qhk->...phk", weights, v))


class Mlp(nnx.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int, hidden: int, *, out: Axes, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.up = dense(width, hidden, out=out, rngs=rngs, dtype=dtype)
        self.down = dense(hidden, width, out=out, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Maps each token."""
        return self.down(jax.nn.gelu(self.up(x), approximate=False))
