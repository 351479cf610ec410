"""VideoP2R, supervised: observe, think, answer, each in its own tags (VideoP2R 3).

    tgvlm shard   --videos Video-R1-data --out runs/r1 --fps 2 --height 336
    tgvlm convert --from Qwen2.5-VL-7B-Instruct --to runs/start
    tgvlm train   --config configs/videop2r_sft.py --config.data.shards=runs/r1 \
        --config.data.annotations='VideoP2R-162k_sft.part*of2.json.gz' \
        --config.data.tokenizer=runs/start/hf --config.train.init_from=runs/start --workdir runs/sft

`tgvlm cot` makes such records out of questions. Arguments after a colon: `3b`, `tiny` (every
feature at the size of a test), `steps=N` (0: one pass over the paper's 162,062 records),
`mesh=v5e-256|v5p-64|v5p-128` (a TPU slice; its batches are in tgvlm_jax/schema/layouts.py).
`--config.objective.loss_on_prompt=true` learns the prompts, too, as the lineage of the code does.
"""

import dataclasses

from tgvlm_jax.config import parse_arg, to_config_dict
from tgvlm_jax.schema import Experiment, ModelConfig, layouts, presets

RECORDS = 162_062
PIXELS = 128 * 28 * 28  # of a frame, in training; twice that in evaluation


def released(*, small: bool) -> ModelConfig:
    """Qwen2.5-VL-7B, or 3B."""
    model = presets.QWEN2_5_VL_3B if small else presets.QWEN2_5_VL_7B
    return dataclasses.replace(model, dtype="bfloat16", remat="full")


def get_config(arg: str | None = None):
    """The experiment; everything is trained, the tower, too."""
    args = parse_arg(arg, tiny=False, steps=0, mesh="", **{"3b": False})
    small = getattr(args, "3b")
    name = "videop2r_sft" + ("_tiny" if args.tiny else "_3b" if small else "")
    model = presets.QWEN2_5_VL_TINY if args.tiny else released(small=small)
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

    config.train.accumulate = 2
    config.train.checkpoint_every = 500
    config.evaluation.max_tokens = 1024
    config.mesh.fsdp = -1
    layouts.lay_out(config, "videop2r_sft", args.mesh)
    config.train.steps = args.steps or RECORDS // config.data.batch_size
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
