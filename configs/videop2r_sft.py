"""VideoP2R, supervised: observe, think, answer, each in its own tags (VideoP2R 3).

    tgvlm shard   --videos Video-R1-data --out runs/r1 --fps 2 --height 336
    tgvlm convert --from Qwen2.5-VL-7B-Instruct --to runs/start
    tgvlm train   --config configs/videop2r_sft.py --config.data.shards=runs/r1 \
        --config.data.annotations='VideoP2R-162k_sft.part*of2.json.gz' \
        --config.data.tokenizer=runs/start/hf --config.train.init_from=runs/start --workdir runs/sft

`tgvlm cot` makes such records out of questions. Arguments after a colon: `3b`, `tiny` (every
feature at the size of a test), `steps=N` (0: one pass over the paper's 162,062 records).
`--config.objective.loss_on_prompt=true` learns the prompts, too, as the lineage of the code does.
"""

from tgvlm_jax.config import parse_arg, to_config_dict
from tgvlm_jax.schema import (
    CLIP_MEAN,
    CLIP_STD,
    DecoderConfig,
    Experiment,
    ModelConfig,
    QwenVisionConfig,
    RopeConfig,
)

RECORDS = 162_062
PIXELS = 128 * 28 * 28  # of a frame, in training; twice that in evaluation


def released(*, small: bool) -> ModelConfig:
    """Qwen2.5-VL-7B, or 3B."""
    sizes = {"width": 2048, "layers": 36, "heads": 16, "kv_heads": 2, "hidden": 11008}
    if not small:
        sizes = {"width": 3584, "layers": 28, "heads": 28, "kv_heads": 4, "hidden": 18944}
    return ModelConfig(
        tower=QwenVisionConfig(
            kind="qwen2_5_vl",
            layers=32,
            width=1280,
            heads=16,
            hidden=3420,
            out_width=sizes["width"],
            patch=14,
            full_layers=(7, 15, 23, 31),
            window=112,
            tokens_per_second=2,
            mean=CLIP_MEAN,
            std=CLIP_STD,
        ),
        decoder=DecoderConfig(
            vocab_size=151936 if small else 152064,
            head_size=128,
            norm_eps=1e-6,
            rope=RopeConfig(theta=1e6, sections=(16, 24, 24), original_length=128_000),
            qkv_bias=True,
            tie_embeddings=small,
            **sizes,
        ),
        evidence=None,
        two_way_frames=False,
        dtype="bfloat16",
        remat="full",
    )


def tiny() -> ModelConfig:
    """Every structural feature of `released`, on a CPU."""
    return ModelConfig(
        tower=QwenVisionConfig(
            kind="qwen2_5_vl",
            layers=4,
            width=32,
            heads=2,
            hidden=44,
            out_width=64,
            patch=4,
            full_layers=(1, 3),
            window=16,
            tokens_per_second=2,
            mean=CLIP_MEAN,
            std=CLIP_STD,
        ),
        decoder=DecoderConfig(
            vocab_size=512,
            width=64,
            layers=3,
            heads=4,
            kv_heads=2,
            head_size=16,
            hidden=160,
            norm_eps=1e-6,
            rope=RopeConfig(theta=1e6, sections=(2, 3, 3), original_length=512),
            qkv_bias=True,
            tie_embeddings=False,
        ),
        evidence=None,
        two_way_frames=False,
    )


def get_config(arg: str | None = None):
    """The experiment; everything is trained, the tower, too."""
    args = parse_arg(arg, tiny=False, steps=0, **{"3b": False})
    small = getattr(args, "3b")
    name = "videop2r_sft" + ("_tiny" if args.tiny else "_3b" if small else "")
    model = tiny() if args.tiny else released(small=small)
    config = to_config_dict(Experiment(name=name, seed=1, model=model))

    config.data.tokenizer = "tiny" if args.tiny else ""
    config.data.template = "qwen2"
    config.data.instruction = "process"
    config.data.fps = 2.0
    config.data.grid_seconds = 1.0  # Video-R1 trains without telling the model the real rate
    config.data.batch_size = 16
    config.data.frames = (16,)
    config.data.strides = (1,)
    config.data.min_seconds = 0.0
    config.data.max_seconds = 1e6
    config.data.max_words = 2000
    config.data.min_pixels = config.data.max_pixels = PIXELS
    config.data.prompt_tokens = 2048  # 16 such frames need at most 1,072
    config.data.response_bucket = 128

    config.optim.lr = 1e-6
    config.optim.warmup_steps = 0
    config.optim.decay = "linear"
    config.optim.final_lr = 0.0
    config.optim.clip = 5.0

    config.train.steps = args.steps or RECORDS // config.data.batch_size
    config.train.accumulate = 2
    config.train.checkpoint_every = 500
    config.evaluation.max_tokens = 1024
    config.mesh.fsdp = -1
    return make_tiny(config, steps=args.steps) if args.tiny else config


def make_tiny(config, *, steps):
    """Sizes of a test."""
    config.model.unroll = 4
    config.data.instruction = "process_brief"
    config.data.batch_size = 4
    config.data.frames = (8,)
    config.data.min_pixels = config.data.max_pixels = 24 * 32
    config.data.prompt_tokens = 256
    config.data.response_bucket = 32
    config.data.threads = 1
    config.optim.lr = 1e-3
    config.train.steps = steps or 100
    config.train.accumulate = 1
    config.train.log_every = 1
    config.evaluation.samples = 8
    config.evaluation.batch_size = 4
    config.evaluation.max_tokens = 48
    config.mesh.fsdp = 1
    return config
