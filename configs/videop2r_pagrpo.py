"""VideoP2R, rewarded: process-aware GRPO after `videop2r_sft.py` (VideoP2R 5).

    tgvlm train --config configs/videop2r_pagrpo.py --config.data.shards=runs/r1 \
        --config.data.annotations='VideoP2R-263k_rl.part*of3.json.gz' \
        --config.data.tokenizer=runs/start/hf --config.train.init_from=runs/sft \
        --config.objective.process.judge.kind=http \
        --config.objective.process.judge.url=http://localhost:8000/v1 \
        --config.objective.process.judge.model=llama-3.1-70b --workdir runs/pagrpo

One switch makes it plain GRPO: `--config.objective.process.advantages=reasoning`;
docs/systems/videop2r.md has those of the other ablations. Arguments after a colon: `3b`, `tiny`,
`steps=N` (0: as many as the stage takes), `mesh=v5e-256|v5p-64|v5p-128` (a TPU slice),
`prompts=N` a step (0: 7 as in the paper, one for each of 7 GPUs, or what the slice has in
tgvlm_jax/schema/layouts.py; chips that share the batch must divide N).
"""

import pathlib

from tgvlm_jax.config import load, parse_arg, to_config_dict
from tgvlm_jax.schema import (
    AdvantageConfig,
    GrpoConfig,
    PolicyConfig,
    ProcessConfig,
    SamplingConfig,
    layouts,
)


def objective(*, small: bool) -> GrpoConfig:
    """The paper's; where it says nothing, Video-R1's. `small` lengths are those of a test."""
    process = ProcessConfig()
    if small:
        process = ProcessConfig(perception_tokens=(8, 32), reasoning_tokens=(8, 32))
    return GrpoConfig(
        reward="process",
        process=process,
        num_generations=4 if small else 8,
        # 768 in Video-R1, which 320 and 512 rewarded tokens would not fit into.
        max_tokens=48 if small else 1024,
        sampling=SamplingConfig(temperature=1.0, top_p=0.95),
        advantage=AdvantageConfig(epsilon=1e-4),
        policy=PolicyConfig(
            dual_clip=0.0,
            log_ratio_limit=0.0,
            kl=0.04,
            kl_limit=0.0,
            kl_gap=10.0,
            aggregation="sequence_mean",
        ),
        reference="copy",
    )


def get_config(arg: str | None = None):
    """The experiment: model and data are as in `videop2r_sft.py`."""
    args = parse_arg(arg, tiny=False, steps=0, prompts=0, mesh="", **{"3b": False})
    small = ",tiny" if args.tiny else ",3b" if getattr(args, "3b") else ""
    first = pathlib.Path(__file__).with_name("videop2r_sft.py")
    config = load(f"{first}:steps={args.steps or 1000}{small}")
    config.name = config.name.replace("sft", "pagrpo")
    with config.unlocked():
        config.objective = to_config_dict(objective(small=args.tiny))
    config.data.batch_size = 7
    config.optim.decay = "cosine"
    config.optim.weight_decay = 0.01
    config.train.accumulate = 1
    config.train.log_every = 1
    config.train.checkpoint_every = 50
    layouts.lay_out(config, "videop2r_pagrpo", args.mesh, batch=args.prompts)
    if args.tiny:
        config.data.batch_size = 4
        config.optim.lr = 1e-4
        config.train.steps = args.steps or 20
    return config
