"""A tiny model on rendered films whose events are known to the frame: language grounding, on a CPU.

    tgvlm games --out runs/games --episodes 1000
    tgvlm shard --videos runs/games/videos --out runs/games/shards --fps 2 --height 48 --width 64
    tgvlm train --config configs/games.py:data=runs/games --workdir runs/games/sft
    tgvlm train --config configs/games.py:data=runs/games,fpo \
        --config.train.init_from=runs/games/sft --workdir runs/games/fpo
    python benchmarks/games_scores.py runs/games/sft runs/games/fpo

Grounding, dense captioning and referring questions together (docs/data_format.md). Arguments after
a colon: `data=DIR` (what `tgvlm games` wrote), `steps=N` (0: as many as the stage takes), `fpo`
(preferences, from a run without) or, to compare it with, `more` (the same steps without them).
"""

from tgvlm_jax.config import parse_arg, to_config_dict
from tgvlm_jax.schema import Experiment, FpoConfig


def get_config(arg: str | None = None):
    """Supervised fine-tuning from scratch, and what may come after it."""
    args = parse_arg(arg, data="runs/games", steps=0, fpo=False, more=False)
    # The supervised terms, which are learned by now, count less than the preference.
    objective = FpoConfig(supervised=0.1) if args.fpo else Experiment().objective
    config = to_config_dict(Experiment(name="games", objective=objective))

    config.model.unroll = 4
    # What is carried and what is ahead fill a patch each: little of a tower is enough.
    config.model.tower.cell_width = 32
    config.model.tower.width = 64
    config.model.tower.hidden = 128

    config.data.shards = f"{args.data}/shards"
    config.data.annotations = f"{args.data}/train.json"
    config.data.eval_annotations = f"{args.data}/val.json"
    config.data.tokenizer = f"{args.data}/tokenizer"
    config.data.fps = 2.0
    config.data.batch_size = 16
    config.data.frames = (30,)
    config.data.max_events = 4
    config.data.max_sources = 1
    # One shape of batch, so that the step compiles once.
    config.data.prompt_bucket = 64
    config.data.response_bucket = 40

    config.optim.name = "muon"
    config.optim.lr = 3e-3
    config.optim.warmup_steps = 20
    config.optim.weight_decay = 0.05
    config.optim.beta2 = 0.98

    config.train.steps = args.steps or 1000

    if args.fpo or args.more:
        config.seed = 1000  # another order of the records than the one the first stage had
        config.optim.lr = 1e-3
        config.optim.warmup_steps = 5
        config.train.steps = args.steps or 150

    config.train.checkpoint_every = 100
    config.train.log_every = 20

    config.evaluation.max_tokens = 40
    return config
