"""What benchmarks/accelerator.py measures: models, lengths, and how much work they are.

Read by the side that runs our library; the torch side gets all it needs as JSON.
"""

import dataclasses
from typing import Any

from tgvlm_jax.schema import (
    DecoderConfig,
    EvaConfig,
    LoraConfig,
    ModelConfig,
    QwenVisionConfig,
    RopeConfig,
    TimesformerConfig,
    presets,
)
from tgvlm_jax.weights import hf_config

RANK, ALPHA = 16, 32
GIB = 2**30
Tower = TimesformerConfig | EvaConfig | QwenVisionConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lengths:
    """How many rows and tokens everything has.

    Attributes:
        train, prefill, decode: rows, tokens before, and tokens of the answer or to be generated.
        rollout: prompts, tokens of one, answers to each, tokens of each.
        clips: of the tower; Qwen-VL's are of `frames` frames, `side` pixels square.
        product, copied: side of the products, and mebibytes of the copy, that stand for the peak.
    """

    train: tuple[int, int, int]
    prefill: tuple[int, int]
    decode: tuple[int, int, int]
    rollout: tuple[int, int, int, int]
    clips: int
    frames: int = 16
    side: int = 392
    product: int = 8192
    copied: int = 2048


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """A language model, the tower before it, and lengths on an accelerator and on a CPU."""

    decoder: DecoderConfig
    tower: Tower
    lengths: Lengths
    on_cpu: Lengths
    remat: str = "none"


_SMALL = Lengths(
    train=(16, 512, 256),
    prefill=(16, 1024),
    decode=(16, 512, 128),
    rollout=(4, 512, 8, 128),
    clips=16,
)
_SMALL_CPU = Lengths(
    train=(2, 128, 128),
    prefill=(1, 512),
    decode=(4, 128, 32),
    rollout=(1, 256, 4, 32),
    clips=1,
    product=2048,
    copied=128,
)
_LARGE = Lengths(
    train=(4, 2048, 512),
    prefill=(4, 2048),
    decode=(8, 1024, 64),
    rollout=(2, 2048, 8, 128),
    clips=2,
)
_TINY = Lengths(
    train=(2, 16, 8),
    prefill=(1, 16),
    decode=(2, 16, 4),
    rollout=(1, 16, 2, 4),
    clips=1,
    frames=4,
    side=32,
    product=64,
    copied=1,
)


def _text(decoder: DecoderConfig) -> DecoderConfig:
    """For text alone: one axis of positions, and no window, which these lengths never reach."""
    rope = dataclasses.replace(decoder.rope, sections=(), interleaved=False)
    return dataclasses.replace(decoder, rope=rope, sliding_window=0)


def _parts(model: ModelConfig) -> tuple[DecoderConfig, Tower]:
    return _text(model.decoder), model.tower


# As BLIP-2 has it.
_EVA = dataclasses.replace(presets.EVA_VIT_G, key_bias=True, final_norm=True)
_SMALL_EVA = dataclasses.replace(presets.EVA_TINY, key_bias=True, final_norm=True)
SYSTEMS = {
    **{
        name: System(decoder=decoder, tower=tower, lengths=_TINY, on_cpu=_TINY, remat=remat)
        for name, decoder, tower, remat in (
            ("tiny", presets.SMOLLM2_TINY, presets.TIMESFORMER_TINY, "none"),
            ("tiny-phi3", _text(presets.PHI3_TINY), _SMALL_EVA, "none"),
            ("tiny-qwen2.5", *_parts(presets.QWEN2_5_VL_TINY), "full"),
            ("tiny-qwen3", *_parts(presets.QWEN3_VL_TINY), "full"),
        )
    },
    "profvlm": System(
        decoder=presets.SMOLLM2_135M,
        tower=presets.TIMESFORMER_BASE_K600,
        lengths=_SMALL,
        on_cpu=_SMALL_CPU,
    ),
    "d2vlm": System(
        decoder=_text(presets.PHI3_MINI),
        tower=_EVA,
        lengths=dataclasses.replace(_LARGE, clips=32),
        on_cpu=_SMALL_CPU,
        remat="full",
    ),
    "qwen2.5-vl-7b": System(
        decoder=_text(presets.QWEN2_5_7B),
        tower=presets.QWEN2_5_VL_7B_VISION,
        lengths=_LARGE,
        on_cpu=_SMALL_CPU,
        remat="full",
    ),
    "qwen3-vl-8b": System(
        decoder=_text(presets.QWEN3_8B),
        tower=presets.QWEN3_VL_8B_VISION,
        lengths=dataclasses.replace(_LARGE, side=384),
        on_cpu=_SMALL_CPU,
        remat="full",
    ),
}
SIZES = {
    "tiny": ("tiny",),
    "small": ("profvlm",),
    "paper": ("profvlm", "d2vlm", "qwen2.5-vl-7b", "qwen3-vl-8b"),
}
_WORKING = 12 * GIB  # of a large model beside its weights


def language_model(system: System, *, dtype: str, layers: int, adapters: bool) -> ModelConfig:
    """The decoder alone, computing and kept in `dtype`."""
    decoder = dataclasses.replace(system.decoder, layers=layers)
    return dataclasses.replace(
        presets.language_model(decoder),
        dtype=dtype,
        param_dtype=dtype,
        remat=system.remat,
        lora=(LoraConfig(pattern=r"decoder\.blocks", rank=RANK, alpha=ALPHA),) if adapters else (),
    )


def fitting_layers(system: System, *, weights: float, memory: float) -> int:
    """How many layers there is room for, of a decoder whose weights take so many bytes."""
    room = max(memory - _WORKING, memory / 2)
    share = min(1.0, room / weights) if memory else 1.0
    return max(2, int(system.decoder.layers * share))


def hf_decoder(config: ModelConfig) -> dict[str, Any]:
    """`config.json` of the decoder for transformers."""
    plain = dataclasses.replace(config, lora=())
    return hf_config.to_hf(plain, ids=hf_config.TokenIds())


def hf_tower(tower: Tower, lengths: Lengths) -> dict[str, Any]:
    """Which class of transformers the tower is, and its config."""
    if isinstance(tower, QwenVisionConfig):
        decoder = DecoderConfig(
            width=tower.out_width, qkv_bias=True, rope=RopeConfig(sections=(1, 1, 1))
        )
        if tower.kind == "qwen3_vl":
            rope = dataclasses.replace(decoder.rope, interleaved=True)
            decoder = dataclasses.replace(decoder, qk_norm=True, qkv_bias=False, rope=rope)
        ids = hf_config.TokenIds(image=0, video=0, vision_start=0)
        whole = hf_config.to_hf(presets.qwen_vl(tower, decoder), ids=ids)
        return {"kind": tower.kind, "config": whole["vision_config"]}
    shared = {
        "image_size": tower.image,
        "patch_size": tower.patch,
        "hidden_size": tower.width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "intermediate_size": tower.hidden,
        "layer_norm_eps": tower.norm_eps,
    }
    if isinstance(tower, EvaConfig):
        return {"kind": "eva", "config": shared}
    return {"kind": "timesformer", "config": {**shared, "num_frames": tower.frames}}


def grid(tower: QwenVisionConfig, lengths: Lengths) -> tuple[int, int, int]:
    """Temporal patches, rows and columns of patches of one clip."""
    side = lengths.side // (tower.patch * tower.merge) * tower.merge
    return lengths.frames // tower.temporal, side, side


def tower_scores(tower: Tower, lengths: Lengths) -> float:
    """FLOPs of attention's two products, counting the patches that see each other."""
    if isinstance(tower, QwenVisionConfig):
        frames, rows, columns = grid(tower, lengths)
        whole = rows * columns
        full = len(tower.full_layers) if tower.full_layers else tower.layers
        window = min(whole, (tower.window // tower.patch) ** 2)
        seen = full * whole + (tower.layers - full) * window
        return 4.0 * lengths.clips * frames * whole * seen * tower.width
    if isinstance(tower, EvaConfig):
        tokens = 1 + tower.patches
        return 4.0 * lengths.clips * tower.layers * tokens**2 * tower.width
    p, f = tower.patches, tower.frames
    return 4.0 * lengths.clips * tower.layers * (p * f * f + f * p * p) * tower.width


def tower_tokens(tower: Tower, lengths: Lengths) -> int:
    """Patches, class tokens included, of all clips."""
    if isinstance(tower, QwenVisionConfig):
        frames, rows, columns = grid(tower, lengths)
        return lengths.clips * frames * rows * columns
    if isinstance(tower, EvaConfig):
        return lengths.clips * (1 + tower.patches)
    return lengths.clips * (1 + tower.patches * tower.frames)
