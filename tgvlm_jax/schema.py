"""Every experiment setting with its default, as frozen dataclasses: the one home of defaults.

A file in `configs/` starts from `Experiment()` through `tgvlm_jax.config.to_config_dict`, changes
what it wants, and the command line may override any key. `tgvlm_jax.config.freeze` turns the
result back into an `Experiment`, and everything below the command line sees only that.
"""

import dataclasses
from typing import Any, Literal

from tgvlm_jax.types import InputError

ANOMALY_KINDS = (
    "grayscale",
    "invert",
    "channel_swap",
    "rotate180",
    "mirror",
    "noise",
    "blur",
    "saturation",
    "zoom_in",
    "zoom_out",
    "shuffle",
    "stutter",
)


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if any(one < 1 for one in (value if isinstance(value, tuple) else (value,))):
            raise InputError(f"{name}={value}: give at least 1")


def _divides(small_name: str, small: int, large_name: str, large: int) -> None:
    if small < 1 or large % small:
        raise InputError(f"{small_name}={small} must divide {large_name}={large}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """The small vision transformer: one token a frame out of a few patches.

    Attributes:
        height, width_px: size of the input frame in pixels; both divide by `patch`.
        patch: side of a patch token in pixels; divides by `cell`.
        cell: side of the cells that a patch is first cut into, each through one small layer, so
            that fine texture (noise, blur) is seen before a patch is summed up.
        cell_width: features of a cell.
    """

    height: int = 48
    width_px: int = 64
    patch: int = 16
    cell: int = 4
    cell_width: int = 64
    width: int = 128
    layers: int = 1
    heads: int = 4
    hidden: int = 512
    norm_eps: float = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary positions.

    Attributes:
        fraction: share of a head that turns.
        sections: for M-RoPE, how many rates belong to time, row and column; empty for one axis.
        interleaved: M-RoPE of Qwen3-VL, where the axes take turns, instead of one after another.
        short_factor, long_factor: LongRoPE's divisors of the rates, up to `original_length`
            positions and beyond. length_ratio: longest over original length.
        attention_factor: LongRoPE's factor on the angles' cosines, 0 to derive it.
    """

    theta: float = 10_000.0
    fraction: float = 1.0
    sections: tuple[int, ...] = ()
    interleaved: bool = False
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    original_length: int = 4096
    length_ratio: float = 1.0
    attention_factor: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder-only language model with RMSNorm, RoPE, SwiGLU and grouped queries.

    By these numbers it is Phi-3, Llama / SmolLM2, Qwen2.5 (biases) or Qwen3 (normed queries, keys).

    Attributes:
        fused: queries, keys and values are one projection, gate and up another (Phi-3); it
            computes the same, and decides what a LoRA adapter shares.
        qkv_bias: biases on queries, keys and values. qk_norm: RMSNorm of every query and key head.
        sliding_window: how many positions back a token sees, itself included; 0 sees all.
        tie_embeddings: the output head is the embedding table.
    """

    vocab_size: int = 512
    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 32
    hidden: int = 384
    norm_eps: float = 1e-5
    rope: RopeConfig = RopeConfig()
    fused: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    sliding_window: int = 0
    tie_embeddings: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvidenceConfig:
    """Evidence tokens (D2VLM 1.5-1.7).

    Attributes:
        bank_layer: decoder layers after which a frame's state is kept for feedback (6 in D2VLM).
        threshold: share of the highest frame probability below which a frame is dropped.
    """

    bank_layer: int = 2
    threshold: float = 0.6


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters on every linear map whose dotted path matches `pattern`.

    The map's result gains (x A) B * alpha / rank; A is random, B starts at zero.
    """

    pattern: str
    rank: int = 16
    alpha: float = 32.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A video-language model: tower -> projector -> decoder with evidence heads.

    Attributes:
        lora: adapters, the first pattern that matches a linear map counts.
        dtype: type of activations; parameters are kept in `param_dtype`.
        remat: what a decoder layer keeps for its backward pass: "none" recomputes nothing,
            "full" everything, "dots" keeps matrix products.
        unroll: layers unrolled per step of the layer scan; all of them is fastest for a small
            model on a CPU, 1 compiles fastest for a deep one.
    """

    tower: TowerConfig = TowerConfig()
    decoder: DecoderConfig = DecoderConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    lora: tuple[LoraConfig, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "dots", "full"] = "none"
    unroll: int = 1

    def __post_init__(self):
        decoder, tower = self.decoder, self.tower
        _divides("decoder.kv_heads", decoder.kv_heads, "decoder.heads", decoder.heads)
        _divides("tower.patch", tower.patch, "tower.height", tower.height)
        _divides("tower.patch", tower.patch, "tower.width_px", tower.width_px)
        _divides("tower.cell", tower.cell, "tower.patch", tower.patch)
        _divides("tower.heads", tower.heads, "tower.width", tower.width)
        if not 0 < self.evidence.bank_layer < decoder.layers:
            raise InputError(
                f"evidence.bank_layer={self.evidence.bank_layer} must lie between 0 and "
                f"decoder.layers={decoder.layers}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where samples come from and how they are cut into batches.

    Attributes:
        shards: folder that `tgvlm shard` wrote.
        fps: frames a second of those shards.
        tokenizer: folder in Hugging Face format, or "tiny" for the one shipped with the library.
        template: chat template, a name in `tgvlm_jax.data.chat`.
        batch_size: samples a step over all hosts.
        frames: the frame buckets: how many frames a batch may have.
        strides: clips take every stride-th stored frame, drawn from these.
        kinds: anomalies to ground, among `ANOMALY_KINDS`.
        train_span, eval_span: the parts of every video, as fractions of its duration, that
            training and evaluation clips lie in.
        skip_seconds: (start, end) pairs of every video that no clip touches, such as credits.
        crop: smallest side of a random crop of a training clip, as a fraction.
        jitter: strength of the random colour change of a training clip; 0 is none.
        prompt_bucket, response_bucket: text lengths are padded up to multiples of these.
        max_events: spans an answer may have; evidence slots are padded to it.
        threads: reader threads; prefetch: batches made ahead.
    """

    shards: str = ""
    fps: float = 4.0
    tokenizer: str = "tiny"
    template: str = "phi3"
    batch_size: int = 8
    frames: tuple[int, ...] = (32,)
    strides: tuple[int, ...] = (1, 2)
    kinds: tuple[str, ...] = ANOMALY_KINDS
    train_span: tuple[float, float] = (0.0, 2 / 3)
    eval_span: tuple[float, float] = (2 / 3, 1.0)
    skip_seconds: tuple[tuple[float, float], ...] = ()
    crop: float = 0.6
    jitter: float = 1.0
    prompt_bucket: int = 16
    response_bucket: int = 16
    max_events: int = 1
    threads: int = 2
    prefetch: int = 4

    def __post_init__(self):
        for kind in self.kinds:
            if kind not in ANOMALY_KINDS:
                raise InputError(f"kinds: {kind!r} is not one of {', '.join(ANOMALY_KINDS)}")
        if not self.kinds or not self.frames or not self.strides:
            raise InputError("kinds, frames and strides must each name at least one")
        whole = ("batch_size", "frames", "strides", "max_events")
        _positive(self, *whole, "prompt_bucket", "response_bucket")
        for name, (start, end) in (("train_span", self.train_span), ("eval_span", self.eval_span)):
            if not 0.0 <= start < end <= 1.0:
                raise InputError(f"{name}=({start}, {end}) must be fractions 0 <= start < end <= 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Supervised fine-tuning of D2VLM (2.3): language, grounding and consistency.

    Attributes:
        grounding, consistency: weights of the two terms; 10 each in the released code.
        alpha: base of the soft frame target alpha^-distance; 2.0 as released. 0 takes the hard
            targets of the paper.
    """

    grounding: float = 10.0
    consistency: float = 10.0
    alpha: float = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """From the rewards of a group of answers to one prompt to their advantages (VideoSSR 8).

    `tgvlm_jax.objectives.advantages.PRESETS` has the settings of other libraries by name.

    Attributes:
        baseline: what is subtracted, the "mean" of the group or the mean of the "others" in it.
        scale: what the difference is divided by, the standard deviation (n - 1) of the "group" or
            of the whole "batch", or "none".
        epsilon: added to the deviation.
        least_variance: the variance that a deviation has at least.
        combine: where an answer has several rewards: "sum" adds them and normalises once; "each"
            normalises every one, adds, and normalises over the batch (GDPO).
        weights: of the rewards in that sum; empty weighs them alike.
        lone: what an answer without company gets, "zero" or its "reward" as it is.
    """

    baseline: Literal["mean", "others"] = "mean"
    scale: Literal["group", "batch", "none"] = "group"
    epsilon: float = 1e-6
    least_variance: float = 0.0
    combine: Literal["sum", "each"] = "sum"
    weights: tuple[float, ...] = ()
    lone: Literal["zero", "reward"] = "zero"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CreditConfig:
    """Generalised advantage estimation over the tokens of several turns (Video-MTR 2.6).

    Attributes:
        estimator: "plain" steps through every position, "masked" through the policy's own tokens,
            "turn" from turn to turn, "bilevel" from turn to turn and then through each turn.
        gamma, lam: discount and trace of a token step. turn_gamma, turn_lam: of a turn.
        whiten: advantages get mean 0 and variance 1 over the batch.
    """

    estimator: Literal["plain", "masked", "turn", "bilevel"] = "bilevel"
    gamma: float = 1.0
    lam: float = 1.0
    turn_gamma: float = 0.95
    turn_lam: float = 1.0
    whiten: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The one policy-gradient loss, every published variant by data (VideoSSR 8).

    `tgvlm_jax.objectives.policy.PRESETS` has the variants by name.

    Attributes:
        ratio: new over old probability of a "token"; the geometric mean over the "sequence", one
            value with one gradient (GSPO); or "sequence_token", its value with the gradient of the
            token (GSPO-token).
        surrogate: how the ratio meets the advantage: "clip" (PPO), "cispo", "sapo", "vespo", or
            "geometric" (GMPO).
        clip_low, clip_high: the ratio counts within [1 - low, 1 + high]; log ratios within
            [-low, high] for "geometric".
        dual_clip: where the advantage is negative the ratio counts up to this; 0 has no bound.
        log_ratio_limit: largest size of a token's log ratio; 0 has no bound, and float32 then
            overflows at 88.
        sequence_limit: largest log ratio of a sequence; 0 has no bound.
        sapo_temperature: for advantages above zero, and for the rest.
        vespo_shape: (k, lambda) for advantages from zero up, then for those below.
        kl: weight of the divergence from the reference policy.
        kl_estimator: per token k1 = d, abs = |d|, k2 = d^2 / 2 or k3 = e^-d + d - 1, where d is new
            minus reference log-probability.
        kl_limit: largest size of k3; 0 has no bound.
        kl_ratio: the estimate is weighted with the ratio, which makes it unbiased off-policy.
        entropy: weight of an entropy bonus.
        aggregation: the mean over tokens ("token_mean"); over sequences of their means
            ("sequence_mean") or sums ("sequence_sum"); over groups of the mean over their tokens
            ("group_mean"); over sequences of the sum over a fixed length ("length_mean",
            Dr. GRPO), or the sum of that ("length_sum").
        length: that fixed length; 0 takes the padded one.
        count_empty: answers without a token count as sequences.
    """

    ratio: Literal["token", "sequence", "sequence_token"] = "token"
    surrogate: Literal["clip", "cispo", "sapo", "vespo", "geometric"] = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 3.0
    log_ratio_limit: float = 20.0
    sequence_limit: float = 0.0
    sapo_temperature: tuple[float, float] = (1.0, 1.05)
    vespo_shape: tuple[tuple[float, float], tuple[float, float]] = ((2.0, 3.0), (3.0, 2.0))
    kl: float = 0.0
    kl_estimator: Literal["k1", "abs", "k2", "k3"] = "k3"
    kl_limit: float = 10.0
    kl_ratio: bool = False
    entropy: float = 0.0
    aggregation: Literal[
        "token_mean", "sequence_mean", "sequence_sum", "group_mean", "length_mean", "length_sum"
    ] = "token_mean"
    length: int = 0
    count_empty: bool = False

    def __post_init__(self):
        if 0 < self.dual_clip < 1 + self.clip_high:
            raise InputError(
                f"dual_clip={self.dual_clip} lies within the clip range; give at least "
                f"{1 + self.clip_high:g}, or 0 for none"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """An optimiser group: parameters whose dotted path matches `pattern` (first match wins)."""

    pattern: str
    lr_scale: float = 1.0
    frozen: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Linear warm-up, cosine decay, by parameter group.

    Attributes:
        name: "adamw", or "muon": orthogonalised momentum for matrices, AdamW for the rest.
        final_lr: learning rate at the last step, as a fraction of `lr`.
        clip: largest global gradient norm; 0 does not clip.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    warmup_steps: int = 20
    final_lr: float = 0.02
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 1.0
    groups: tuple[GroupConfig, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop.

    Attributes:
        steps: optimiser updates in all.
        accumulate: micro-batches a batch is cut into; exact, whatever the padding.
        checkpoint_every: steps between checkpoints (one is always written at the end).
        keep: checkpoints kept.
    """

    steps: int = 1000
    accumulate: int = 1
    log_every: int = 10
    checkpoint_every: int = 200
    keep: int = 2

    def __post_init__(self):
        _positive(self, "steps", "accumulate", "log_every", "checkpoint_every", "keep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Held-out evaluation.

    Attributes:
        samples: clips, spread evenly over the kinds.
        batch_size: clips generated at once.
        max_tokens: longest answer.
        seed: fixes the clips, whatever the seed of training.
    """

    samples: int = 96
    batch_size: int = 16
    max_tokens: int = 24
    seed: int = 1234

    def __post_init__(self):
        _positive(self, "samples", "batch_size", "max_tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices per mesh axis; -1 (one axis only) takes what is left. All 1: no mesh.

    Attributes:
        dcn: data parallel over slices. fsdp: data parallel within a slice, parameters sharded.
        tp: tensor parallel. cp: context parallel (sequence).
    """

    dcn: int = 1
    fsdp: int = 1
    tp: int = 1
    cp: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run, whole."""

    name: str = "experiment"
    seed: int = 0
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvalConfig = EvalConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        _divides("train.accumulate", self.train.accumulate, "data.batch_size", self.data.batch_size)
