"""Video-MTR-7B: Qwen2.5-VL learns to look again at a video before it answers (Video-MTR).

    tgvlm shard   --videos VIDEOS --out runs/videos --fps 1 --height 256
    tgvlm convert --from Qwen2.5-VL-7B-Instruct --to runs/start
    tgvlm train   --config configs/videomtr_ppo.py --config.data.shards=runs/videos \
        --config.data.annotations=looking_8k.json --config.data.tokenizer=runs/start/hf \
        --config.train.init_from=runs/start --workdir runs/mtr

`python -m tgvlm_jax.data.curation` makes that file out of NExT-GQA and QVHighlights. Without
annotations the questions are about marks that are hidden in the videos themselves.

Arguments after a colon: `grpo` (groups of conversations instead of a critic), `released` (rewards
as the released code has them, and its discount), `budget=32|64|80` (frames), `single` (one turn
that shows all of the budget at once), `steps=N` (0: as many as the stage takes),
`mesh=v5e-256|v5p-64|v5p-128` (a TPU slice; its batches are in tgvlm_jax/schema/layouts.py), `tiny`
(sizes of a test). The tiny twin starts from random weights, so a script talks first, by `imitate`:

    tgvlm shard --videos tgvlm_jax/assets --out runs/shards --fps 4 --height 72
    tgvlm train --config configs/videomtr_ppo.py:tiny,imitate \
        --config.data.shards=runs/shards --workdir runs/talk
    tgvlm train --config configs/videomtr_ppo.py:tiny --config.data.shards=runs/shards \
        --config.train.init_from=runs/talk --workdir runs/look
"""

import dataclasses

from tgvlm_jax.config import parse_arg, to_config_dict
from tgvlm_jax.schema import (
    AdvantageConfig,
    CreditConfig,
    CriticConfig,
    DecoderConfig,
    Experiment,
    GroupConfig,
    ImitateConfig,
    ModelConfig,
    PolicyConfig,
    PpoConfig,
    TinyVitConfig,
    TurnsConfig,
    layouts,
    presets,
)

FIRST = {32: 16, 64: 32, 80: 40}  # frames of the first turn, by frames in all


def released() -> ModelConfig:
    """Qwen2.5-VL-7B."""
    return dataclasses.replace(presets.QWEN2_5_VL_7B, dtype="bfloat16", remat="full")


def tiny() -> ModelConfig:
    """A small decoder behind the demo's small tower."""
    return ModelConfig(
        tower=TinyVitConfig(
            height=32, width_px=48, patch=16, cell_width=32, width=64, hidden=128, heads=2
        ),
        decoder=DecoderConfig(width=96, layers=4, heads=4, kv_heads=2, head_size=24, hidden=256),
        evidence=None,
        two_way_frames=False,
        unroll=4,
    )


def learning(args):
    """What is learned from, and how."""
    reward = "released" if args.released else "paper"
    if args.imitate:
        return ImitateConfig()
    if args.grpo:
        return PpoConfig(
            reward=reward,
            baseline="group",
            group=AdvantageConfig(lone="reward"),
            num_generations=8,
            policy=PolicyConfig(kl=1e-3, aggregation="sequence_mean"),
            reference="copy",
        )
    return PpoConfig(
        reward=reward,
        credit=CreditConfig(turn_gamma=1.0 if args.released else 0.95),
        policy=PolicyConfig(entropy=1e-3, dual_clip=0.0, aggregation="sequence_mean"),
        kl_reward=1e-3,
        reference="copy",
        updates=4,
    )


def get_config(arg: str | None = None):
    """The experiment (Video-MTR 2 and 3); all weights are trained, the tower's, too."""
    args = parse_arg(
        arg,
        tiny=False,
        imitate=False,
        grpo=False,
        released=False,
        single=False,
        budget=32,
        steps=0,
        mesh="",
    )
    objective = learning(args)
    stage = "imitate" if args.imitate else ("grpo" if args.grpo else "ppo")
    name = f"videomtr_{stage}" + ("_tiny" if args.tiny else "")
    model = tiny() if args.tiny else released()
    config = to_config_dict(Experiment(name=name, seed=1, model=model, objective=objective))
    if not (args.grpo or args.imitate):
        config.model.critic = to_config_dict(CriticConfig())
        # Its learning rate is 1e-5, ten times the policy's.
        config.optim.groups = (to_config_dict(GroupConfig(pattern=r"^critic\.", lr_scale=10.0)),)

    config.data.tokenizer = "tiny" if args.tiny else ""
    config.data.template = "qwen2"
    config.data.fps = 1.0
    config.data.batch_size = 16
    config.data.frames = (64,)
    config.data.strides = (1, 2, 3)
    config.data.crop = 1.0
    config.data.jitter = 0.0
    # 128 squares of 14 pixels, a fourth of what the released evaluation shows.
    config.data.min_pixels = config.data.max_pixels = 128 * 14**2
    config.data.prompt_tokens = 1536 if args.budget == 32 else 3072
    first, each = FIRST[args.budget], FIRST[args.budget] // 2
    if args.single:
        turns = TurnsConfig(first=args.budget, each=1, turns=1, hidden=FIRST[args.budget])
        config.data.prompt_tokens = 1536 * args.budget // 16
    else:
        turns = TurnsConfig(first=first, each=each, tokens=640 if args.budget == 32 else 1280)
    config.data.turns = to_config_dict(turns)

    config.optim.lr = 1e-6
    config.optim.warmup_steps = 0
    config.optim.final_lr = 1.0
    config.train.steps = args.steps or 500
    config.train.accumulate = 4
    config.train.log_every = 1
    config.train.checkpoint_every = 50
    config.evaluation.samples = 100
    config.evaluation.max_tokens = 512
    config.mesh.fsdp = -1
    layouts.lay_out(config, "videomtr_grpo" if args.grpo else "videomtr_ppo", args.mesh)
    return make_tiny(config, args) if args.tiny else config


def make_tiny(config, args):
    """Clips of one film, few small frames, short answers with nothing thought."""
    config.data.template = "phi3"
    config.data.fps = 4.0
    config.data.strides = (1,)
    config.data.skip_seconds = ((488.6, 580.0),)  # the credits of Big Buck Bunny
    config.data.crop = 0.6
    config.data.jitter = 1.0
    config.data.frames = (64,)
    # As many frames for one turn as for two, about the same questions.
    several = TurnsConfig(first=8, each=8, turns=2, tokens=56, prompts="short")
    single = TurnsConfig(first=16, each=1, turns=1, tokens=56, prompts="short", hidden=8)
    config.data.turns = to_config_dict(single if args.single else several)
    config.data.prompt_tokens = 112 if args.single else 80
    config.train.steps = args.steps or (300 if args.imitate else 30)
    config.train.accumulate = 1
    config.train.log_every = 10
    config.train.checkpoint_every = 100
    config.evaluation.samples = 128
    config.evaluation.max_tokens = 16
    config.mesh.fsdp = 1
    config.objective.max_tokens = 16
    if args.imitate:
        config.data.batch_size = 32
        config.optim.name = "muon"
        config.optim.lr = 3e-3
        config.optim.warmup_steps = 20
        config.optim.weight_decay = 0.05
        config.optim.beta2 = 0.98
        config.optim.final_lr = 0.02
        return config
    # Two updates of every rollout at three times that rate undo after ten steps what was learned.
    config.optim.lr = 3e-4 if args.grpo else 1e-4
    config.optim.warmup_steps = 5
    config.data.batch_size = 8 if args.grpo else 16
    config.objective.num_generations = 8 if args.grpo else 4
    config.objective.updates = 1 if args.grpo else 2
    config.objective.sampling.temperature = 1.0
    config.objective.sampling.top_p = 1.0
    config.objective.reference = "none"
    config.objective.kl_reward = 0.0
    config.objective.policy.kl = 0.0
    if not args.grpo:
        config.optim.groups[0].lr_scale = 5.0
    return config
