"""The tiny grounded video-language model: everything of the large ones, in minutes on a CPU.

    tgvlm shard --videos tgvlm_jax/assets --out runs/shards --fps 4 --height 72
    tgvlm train --config configs/tiny.py --config.data.shards=runs/shards --workdir runs/tiny

Arguments after a colon: `steps=N`, `frames=N` (frames of a clip).
"""

from tgvlm_jax.config import parse_arg, to_config_dict
from tgvlm_jax.schema import Experiment


def get_config(arg: str | None = None):
    """The experiment of `tgvlm demo`."""
    args = parse_arg(arg, steps=540, frames=32)
    config = to_config_dict(Experiment(name="tiny"))

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

    config.train.steps = args.steps
    config.train.checkpoint_every = 100
    config.train.log_every = 20
    return config
