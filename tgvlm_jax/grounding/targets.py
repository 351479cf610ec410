"""Per-frame targets of a span, the likelihood of a span, and the span that scores say.

Everything here is jittable and elementwise or a reduction over frames (no gather, no scatter), so
it runs under any sharding of the leading dims without help.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32, Shaped


def soft_targets(
    spans_frames: Shaped[Array, "... e 2"], frame_count: int, *, alpha: float = 2.0
) -> Float[Array, "... e f"]:
    """alpha ** -distance of each frame to the inclusive range (first, last): 1 inside.

    Bounds are in frames, whole or fractional, and may lie outside the video. A reversed range is
    taken as the released D2VLM takes it: never inside, distance to the nearer bound. D2VLM (arXiv
    2512.24097), released code.
    """
    frames = jnp.arange(frame_count, dtype=jnp.float32)
    first, last = jnp.split(spans_frames.astype(jnp.float32), 2, axis=-1)
    nearer = jnp.minimum(jnp.abs(frames - first), jnp.abs(frames - last))
    distance = jnp.where((first <= frames) & (frames <= last), 0.0, nearer)
    return jnp.power(jnp.float32(alpha), -distance)


def hard_targets(
    spans_frames: Shaped[Array, "... e 2"], frame_count: int
) -> Float[Array, "... e f"]:
    """1 for frames in the inclusive range (first, last), else 0. D2VLM, the paper's formula."""
    frames = jnp.arange(frame_count, dtype=jnp.float32)
    first, last = jnp.split(spans_frames.astype(jnp.float32), 2, axis=-1)
    return ((first <= frames) & (frames <= last)).astype(jnp.float32)


def span_log_likelihood(
    scores: Float[Array, "... e f"],
    targets: Float[Array, "... e f"],
    frame_mask: Bool[Array, "... f"],
    *,
    eps: float = 1e-10,
) -> Float[Array, "... e"]:
    """log-probability that the frames say the span: sum_f log(y q + (1 - y)(1 - q) + eps).

    q = sigmoid(scores), y = targets; a sum over the frames of `frame_mask`, not a mean. The
    grounding part of factorised preference optimisation (D2VLM, arXiv 2512.24097).
    """
    inside = jax.nn.sigmoid(scores.astype(jnp.float32))
    targets = targets.astype(jnp.float32)
    agreement = targets * inside + (1.0 - targets) * (1.0 - inside)
    terms = jnp.where(frame_mask[..., None, :], jnp.log(agreement + eps), 0.0)
    return jnp.sum(terms, axis=-1)


def bernoulli_log_probs(
    scores: Float[Array, "... f"], drawn: Bool[Array, "... f"]
) -> Float[Array, "... f"]:
    """log-probability of each frame being drawn, or not, as `drawn` says; q = sigmoid(scores)."""
    return -jax.nn.softplus(jnp.where(drawn, -scores, scores))


def readout(
    probabilities: Float[Array, "... f"],
    frame_mask: Bool[Array, "... f"],
    *,
    threshold: float = 0.6,
) -> Int32[Array, "... 2"]:
    """The one frame range (first, last), inclusive, that a row of frame probabilities says.

    Frames below threshold * max are dropped; what survives falls into contiguous runs; every run
    weighs its mean; the heaviest wins. Runs of equal weight give the range that spans them all, an
    all-zero row the whole video. Frames outside `frame_mask` (padding) are not there. Comparisons
    are made in the dtype of `probabilities`, as the released D2VLM makes them. A row of NaN gives
    the whole video too.
    """
    dtype = probabilities.dtype
    present = jnp.where(frame_mask, probabilities, jnp.zeros((), dtype))
    peak = jnp.max(present, axis=-1, keepdims=True)
    floor = (peak.astype(jnp.float32) * threshold).astype(dtype)
    kept = frame_mask & (present >= floor)

    weight = _run_means(present.astype(jnp.float32), kept).astype(dtype)
    weight = jnp.where(kept, weight, -jnp.ones((), dtype))
    winners = kept & (weight == jnp.max(weight, axis=-1, keepdims=True))
    winners = jnp.where(jnp.any(winners, axis=-1, keepdims=True), winners, frame_mask)
    first = jnp.argmax(winners, axis=-1)
    last = winners.shape[-1] - 1 - jnp.argmax(jnp.flip(winners, axis=-1), axis=-1)
    return jnp.stack([first, last], axis=-1).astype(jnp.int32)


def _run_means(values: Float[Array, "... f"], kept: Bool[Array, "... f"]) -> Float[Array, "... f"]:
    """Mean over the contiguous run of kept frames that each kept frame belongs to, else 0.

    Runs are compared all against all: f^2 work that XLA fuses into one reduction, where a segment
    sum would scatter and so need a sharding rule of its own.
    """
    before = jnp.concatenate([jnp.zeros_like(kept[..., :1]), kept[..., :-1]], axis=-1)
    run: Int[Array, "... f"] = jnp.cumsum(kept & ~before, axis=-1)
    same = (run[..., :, None] == run[..., None, :]) & kept[..., :, None] & kept[..., None, :]
    total = jnp.sum(jnp.where(same, values[..., None, :], 0.0), axis=-1)
    count = jnp.sum(same, axis=-1).astype(jnp.float32)
    return total / jnp.maximum(count, 1.0)
