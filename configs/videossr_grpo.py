"""VideoSSR-8B: Qwen3-VL learns from videos alone, by questions that a program can check (VideoSSR).

    tgvlm shard   --videos VIDEOS --out runs/videos --fps 2 --height 256
    tgvlm convert --from Qwen3-VL-8B-Instruct --to runs/start
    tgvlm train   --config configs/videossr_grpo.py --config.data.shards=runs/videos \
        --config.data.tokenizer=runs/start/hf --config.train.init_from=runs/start --workdir runs/ssr

Arguments after a colon: `tiny` (every feature at the size of a test), `sft` (supervised on the same
questions), `steps=N` (0: as many as the stage takes), `mesh=v5e-256|v5p-64|v5p-128` (a TPU slice;
its batches are in tgvlm_jax/schema/layouts.py). The tiny twin starts from random weights, so it is
told the answers first:

    tgvlm shard --videos tgvlm_jax/assets --out runs/shards --fps 4 --height 72
    tgvlm train --config configs/videossr_grpo.py:tiny,sft --config.data.shards=runs/shards \
        --workdir runs/sft
    tgvlm train --config configs/videossr_grpo.py:tiny --config.data.shards=runs/shards \
        --config.train.init_from=runs/sft --workdir runs/grpo

Unlike the paper's, clips have a stride of their own: 48 frames of 24 seconds to 2.4 minutes.
"""

import dataclasses

from tgvlm_jax.config import parse_arg, to_config_dict
from tgvlm_jax.schema import (
    Experiment,
    GrpoConfig,
    ModelConfig,
    PolicyConfig,
    SftConfig,
    layouts,
    presets,
)

STEPS = 468  # one pass over 30,000 questions, 64 a step


def released() -> ModelConfig:
    """Qwen3-VL-8B."""
    return dataclasses.replace(presets.QWEN3_VL_8B, dtype="bfloat16", remat="full")


def get_config(arg: str | None = None):
    """The experiment (VideoSSR 5); everything is trained, the tower, too."""
    args = parse_arg(arg, tiny=False, sft=False, steps=0, mesh="")
    objective = GrpoConfig(
        reward="videossr",
        num_generations=8,
        max_tokens=2048,
        policy=PolicyConfig(kl=1e-3),
        reference="copy",
        rollout_size=16,
    )
    if args.sft:
        objective = SftConfig()
    name = "videossr_" + ("sft" if args.sft else "grpo") + ("_tiny" if args.tiny else "")
    model = presets.QWEN3_VL_TINY if args.tiny else released()
    config = to_config_dict(Experiment(name=name, seed=1, model=model, objective=objective))

    config.data.tokenizer = "tiny" if args.tiny else ""
    config.data.template = "qwen3"
    config.data.system = "Look at the video and answer the question directly."
    config.data.fps = 2.0
    config.data.batch_size = 64
    config.data.frames = (48,)
    config.data.strides = (1, 2, 3, 4, 6)
    # 12,000 of grounding and of jigsaw, 6,000 of counting.
    config.data.tasks = ("grounding", "grounding", "jigsaw", "jigsaw", "counting")
    config.data.kinds = ("channel_swap", "mirror", "zoom_out", "rotate180")
    config.data.train_span = config.data.eval_span = (0.05, 0.95)
    config.data.crop = 1.0
    config.data.jitter = 0.0
    config.data.min_pixels = 128 * 128
    config.data.max_pixels = 256 * 256
    config.data.prompt_tokens = 2048  # 8192 in the paper, of which 48 such frames need 1,900

    config.optim.lr = 1e-6
    config.optim.warmup_steps = 0
    config.optim.final_lr = 1.0
    config.optim.weight_decay = 0.01

    config.train.steps = args.steps or STEPS
    config.train.accumulate = 8
    config.train.log_every = 1
    config.train.checkpoint_every = 50
    config.evaluation.samples = 270
    config.evaluation.max_tokens = 128
    config.mesh.fsdp = -1
    layouts.lay_out(config, "videossr", args.mesh)
    return make_tiny(config, sft=args.sft, steps=args.steps) if args.tiny else config


def make_tiny(config, *, sft, steps):
    """Sizes of a test: short clips of one film, small frames, short answers."""
    config.model.unroll = 4
    config.data.system = ""
    config.data.fps = 4.0
    config.data.batch_size = 8 if sft else 4
    config.data.frames = (12,)
    config.data.strides = (1, 2, 3)
    config.data.train_span = (0.0, 2 / 3)
    config.data.eval_span = (2 / 3, 1.0)
    config.data.skip_seconds = ((488.6, 580.0),)  # the credits of Big Buck Bunny
    config.data.crop = 0.6
    config.data.jitter = 1.0
    config.data.min_pixels = 24 * 32
    config.data.max_pixels = 32 * 56
    config.data.prompt_tokens = 320
    config.optim.lr = 1e-3 if sft else 1e-4
    config.optim.warmup_steps = 20 if sft else 0
    config.train.steps = steps or (400 if sft else 60)
    config.train.accumulate = 1
    config.train.log_every = 10
    config.evaluation.samples = 48
    config.evaluation.max_tokens = 12
    config.mesh.fsdp = 1
    if not sft:
        config.objective.num_generations = 4
        config.objective.max_tokens = 12
        config.objective.rollout_size = 0
    return config
