"""An experiment that a test can afford: 16 000 parameters, one short clip; it learns to answer.

tgvlm shard --videos tests/assets --out DIR/shards --fps 8 --height 16 --width 16
tgvlm train --config tests/cli/small_config.py --config.data.shards=DIR/shards --workdir DIR/run
"""

from tgvlm_jax.config import parse_arg, to_config_dict
from tgvlm_jax.schema import Experiment


def get_config(arg: str | None = None):
    args = parse_arg(arg, steps=60)
    config = to_config_dict(Experiment(name="small"))

    config.model.tower.height = config.model.tower.width_px = 16
    config.model.tower.patch = config.model.tower.cell_width = 8
    config.model.tower.width = config.model.tower.hidden = 16
    config.model.tower.heads = 2
    config.model.decoder.width = config.model.decoder.hidden = 16
    config.model.decoder.layers = config.model.decoder.heads = 2
    config.model.decoder.kv_heads = 1
    config.model.decoder.head_size = 8
    config.model.evidence.bank_layer = 1

    config.data.fps = 8.0
    config.data.batch_size = 2
    config.data.frames = (8,)
    config.data.kinds = ("invert", "grayscale")
    config.data.prompt_bucket = 64

    config.optim.lr = 3e-2
    config.optim.warmup_steps = 2
    config.train.steps = args.steps
    config.train.log_every = 20
    config.train.checkpoint_every = 30
    config.evaluation.samples = 6
    config.evaluation.batch_size = 4
    config.evaluation.max_tokens = 16
    return config
