"""The tiny grounded video-language model: everything of the large ones, in minutes on a CPU.

    tgvlm shard --videos tgvlm_jax/assets --out runs/shards --fps 4 --height 72
    tgvlm train --config configs/tiny.py --config.data.shards=runs/shards --workdir runs/sft
    tgvlm train --config configs/tiny.py:fpo --config.data.shards=runs/shards \
        --config.train.init_from=runs/sft --workdir runs/fpo

    tgvlm train --config configs/tiny.py:grpo --config.data.shards=runs/shards \
        --config.train.init_from=runs/fpo --workdir runs/grpo

With `pretext` the same model has no evidence heads and answers two pretext tasks of VideoSSR in
plain text, when something is wrong and how many shapes there are:

    tgvlm train --config configs/tiny.py:pretext --config.data.shards=runs/shards \
        --workdir runs/pretext
    tgvlm train --config configs/tiny.py:pretext,grpo --config.data.shards=runs/shards \
        --config.train.init_from=runs/pretext --workdir runs/pretext-grpo

Arguments after a colon: `steps=N` (0: as many as the stage takes), `frames=N` (frames of a clip),
`fpo` (preferences, from a run without) or `grpo` (rewards, from either).
"""

from tgvlm_jax.config import parse_arg, to_config_dict
from tgvlm_jax.schema import (
    Experiment,
    FpoConfig,
    GrpoConfig,
    PerturbationConfig,
    PolicyConfig,
)


def get_config(arg: str | None = None):
    """The experiments of `tgvlm demo`."""
    args = parse_arg(arg, steps=0, frames=32, fpo=False, grpo=False, pretext=False)
    objective = Experiment().objective
    if args.fpo:
        # Times alone are made worse: what is asked and answered says which anomaly it is.
        # The supervised terms, which are learned by now, count less than the preference.
        worse = PerturbationConfig(kinds=("shift",))
        objective = FpoConfig(perturbation=worse, supervised=0.1)
    if args.grpo:
        # The reward is how well the evidence fits, where the words are right; words and frames each
        # learn from it. Without the words' part they are dropped one by one.
        objective = GrpoConfig(
            reward="worded_grounding",
            num_generations=8,
            max_tokens=24,
            spans=1.0,
            policy=PolicyConfig(aggregation="sequence_mean"),
        )
    config = to_config_dict(Experiment(name="tiny", objective=objective))

    config.model.unroll = 4

    config.data.shards = "runs/shards"
    config.data.batch_size = 8
    config.data.frames = (args.frames,)
    config.data.strides = (1, 2, 3, 4)
    config.data.kinds = ("grayscale", "invert", "channel_swap", "rotate180", "noise", "zoom_out")
    # Big Buck Bunny's end credits: light letters on black, where most anomalies cannot be seen.
    config.data.skip_seconds = ((488.6, 580.0),)

    config.optim.name = "muon"
    config.optim.lr = 3e-3
    config.optim.warmup_steps = 20
    config.optim.weight_decay = 0.05
    config.optim.beta2 = 0.98
    config.train.steps = args.steps or 540

    if args.fpo:
        config.seed = 1000  # other clips than those that the first stage began with
        config.optim.lr = 1e-3
        config.optim.warmup_steps = 5
        config.train.steps = args.steps or 100

    if args.grpo:
        config.seed = 2000
        # Muon's steps are as long for noise as for a signal; rewards have more of the former.
        config.optim.name = "adamw"
        config.optim.lr = 5e-5
        config.optim.weight_decay = 0.0
        config.optim.warmup_steps = 5
        config.train.steps = args.steps or 40

    if args.pretext:
        ask_in_text(config, args)

    config.train.checkpoint_every = 100
    config.train.log_every = 20
    return config


def ask_in_text(config, args):
    """Pretext tasks in plain text: no evidence."""
    config.model.evidence = None
    config.data.tasks = ("grounding", "counting")
    # A frame carries no time here, so all clips are of one rate.
    config.data.strides = (2,)
    config.data.prompt_bucket = 128
    config.evaluation.samples = 192
    config.data.batch_size = 16
    if args.grpo:
        config.objective.reward = "videossr"
        config.objective.spans = 0.0
        config.objective.max_tokens = 12
        config.optim.lr = 3e-4
        config.train.steps = args.steps or 100
    else:
        config.train.steps = args.steps or 500
