"""D2VLM-3.8B, supervised: ground by `<evi>`, then answer (D2VLM 2; docs/systems/d2vlm.md).

    tgvlm shard   --videos ET-Instruct-164K/videos --out runs/et --fps 1 --height 224
    tgvlm convert --from D2VLM_OR_ETCHAT_STAGE_2 --to runs/start
    tgvlm train   --config configs/d2vlm_sft.py --config.data.shards=runs/et \
        --config.data.annotations=evi.json --config.train.init_from=runs/start --workdir runs/sft

Arguments after a colon: `tiny` (every feature at the size of a test), `batch=N`, `epochs=N`,
`mesh=v5e-16` (a TPU slice that holds it, docs/tpu.md).
"""

import dataclasses

from tgvlm_jax.config import parse_arg, to_config_dict
from tgvlm_jax.schema import (
    EvidenceConfig,
    Experiment,
    FrameEncoderConfig,
    GroupConfig,
    LoraConfig,
    ModelConfig,
    layouts,
    presets,
)

RECORDS = 163_880  # of E.T. Instruct 164K
WARMUP = 0.03  # share of the steps
ADAPTED = r"^decoder\.blocks\.(qkv|o)$"
# What the released code trains beside the adapters: all of the compressor but the Q-Former's
# words and feed-forward layers, embeddings, output head and evidence heads (D2VLM 2.2).
FROZEN = (
    r"^tower\.eva\.",
    r"^tower\.compressor\.qformer\.(words|positions|norm\.)",
    r"^tower\.compressor\.qformer\.layers\.(query|text)_(mlp|norm)\.",
    r"^decoder\.(blocks|norm)\.",
)


def released() -> ModelConfig:
    """Phi-3-mini behind EVA ViT-g and a Q-Former; the sizes of the released checkpoints."""
    return ModelConfig(
        tower=presets.D2VLM_FRAME_ENCODER,
        decoder=dataclasses.replace(presets.PHI3_MINI, sliding_window=0),
        evidence=EvidenceConfig(bank_layer=6),
        lora=(LoraConfig(pattern=ADAPTED, rank=128, alpha=256, dropout=0.05),),
        dtype="bfloat16",
        remat="full",
    )


def tiny() -> ModelConfig:
    """Every structural feature of `released`, on a CPU."""
    return ModelConfig(
        tower=FrameEncoderConfig(eva=presets.EVA_TINY, compressor=presets.COMPRESSOR_TINY),
        decoder=dataclasses.replace(presets.PHI3_TINY, sliding_window=0),
        evidence=EvidenceConfig(bank_layer=1),
        lora=(LoraConfig(pattern=ADAPTED, rank=8, alpha=16, dropout=0.05),),
    )


def get_config(arg: str | None = None):
    """The experiment; `tiny` trains all of its parameters, for it starts from scratch."""
    args = parse_arg(arg, tiny=False, batch=32, epochs=1, mesh="")
    steps = args.epochs * RECORDS // args.batch
    name = "d2vlm_sft_tiny" if args.tiny else "d2vlm_sft"
    config = to_config_dict(Experiment(name=name, model=tiny() if args.tiny else released()))

    config.data.fps = 1.0
    config.data.times = "points"
    config.data.fit = "centre"
    config.data.tokenizer = "" if not args.tiny else "tiny"
    config.data.question_vocab = "" if not args.tiny else "tiny"
    config.data.batch_size = args.batch
    config.data.frames = (32, 64, 128, 192, 256, 352)
    config.data.strides = (1,)
    config.data.prompt_bucket = 128
    config.data.response_bucket = 128
    config.data.max_events = 32
    config.data.max_sources = 8

    config.optim.lr = 2e-5
    config.optim.warmup_steps = round(WARMUP * steps)
    config.optim.final_lr = 0.0
    config.optim.clip = 0.0
    adapters = GroupConfig(pattern=r"\.lora_[ab]$", lr_scale=2.5)  # 5e-5
    frozen = (GroupConfig(pattern=pattern, frozen=True) for pattern in FROZEN)
    config.optim.groups = tuple(map(to_config_dict, (adapters, *frozen)))

    config.train.steps = steps
    config.train.accumulate = 2
    config.train.checkpoint_every = 500
    config.evaluation.batch_size = 16
    config.evaluation.max_tokens = 512
    config.mesh.fsdp = -1
    layouts.lay_out(config, "d2vlm", args.mesh, batch=args.batch)
    return make_tiny(config) if args.tiny else config


def make_tiny(config):
    """Sizes of a test."""
    config.data.batch_size = 2
    config.data.frames = (8, 16)
    config.data.question_tokens = 64
    config.data.prompt_bucket = 32
    config.data.response_bucket = 32
    config.data.max_events = 4
    config.data.max_sources = 2
    config.data.threads = 1
    config.optim.lr = 1e-3
    config.optim.warmup_steps = 2
    config.optim.groups = config.optim.groups[:2]  # the decoder learns, too
    config.train.steps = 40
    config.train.accumulate = 1
    config.train.log_every = 10
    config.evaluation.samples = 8
    config.evaluation.batch_size = 4
    config.evaluation.max_tokens = 32
    config.mesh.fsdp = 1
    return config
