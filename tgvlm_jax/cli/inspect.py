"""tgvlm inspect: show what is in a config, in frame shards, or in a checkpoint.

$ tgvlm inspect --config configs/tiny.py            # every key and value
$ tgvlm inspect --shards runs/shards                # videos, frames, sizes
$ tgvlm inspect --shards runs/shards --verify       # reads every byte, too
$ tgvlm inspect --checkpoint runs/demo/seed0        # steps, parameters by part, last losses
"""

import contextlib
import math
from pathlib import Path

from absl import flags as absl_flags

from tgvlm_jax.cli.flags import define_config
from tgvlm_jax.types import InputError


def flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of the verb."""
    define_config(flag_values, required=False)
    absl_flags.DEFINE_string("shards", None, "<DIR>: frame shards", flag_values=flag_values)
    absl_flags.DEFINE_string(
        "checkpoint", None, "<DIR>: work folder of a run", flag_values=flag_values
    )
    absl_flags.DEFINE_bool(
        "verify", False, "compare all of the shards with their hashes", flag_values=flag_values
    )


def main(flags: absl_flags.FlagValues) -> None:
    """Runs the verb."""
    if not (flags.config or flags.shards or flags.checkpoint):
        raise InputError("say what to inspect: --config FILE, --shards DIR or --checkpoint DIR")
    if flags.verify and not flags.shards:
        raise InputError("--verify is about shards; name them: --shards DIR")
    if flags.config:
        _config(flags.config)
    if flags.shards:
        _shards(Path(flags.shards), verify=flags.verify)
    if flags.checkpoint:
        _checkpoint(Path(flags.checkpoint))


def _config(config) -> None:
    from tgvlm_jax.config import dump, freeze
    from tgvlm_jax.schema import Experiment

    freeze(config, Experiment)
    print(dump(config), end="")


def _shards(folder: Path, *, verify: bool) -> None:
    from tgvlm_jax.cli.shard import summary
    from tgvlm_jax.data.shards import open_shards

    shards = open_shards(folder, verify="hash" if verify else "size")
    print(summary(shards.manifest, folder))
    print(f"\n{'video':<32}{'seconds':>10}{'frames':>8}{'fps':>7}  shard")
    for name in shards.video_ids:
        entry = shards.video(name)
        print(
            f"{name:<32}{entry.duration:>10.1f}{len(entry.seconds):>8}{entry.fps:>7.2f}"
            f"  {entry.shard}"
        )
    if verify:
        print("all content hashes agree")


def _checkpoint(folder: Path) -> None:
    from tgvlm_jax.models import parameters
    from tgvlm_jax.train import checkpoint
    from tgvlm_jax.train.metrics import read_metrics

    experiment = checkpoint.load_experiment(folder)
    with contextlib.closing(checkpoint.Checkpoints(folder, read_only=True)) as store:
        steps = store.steps()
    shapes = parameters.blueprint(experiment.model).shapes
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total = sum(sizes.values())
    print(f"{folder}: {experiment.name}, seed {experiment.seed}")
    saved = f"at steps {', '.join(map(str, steps))}" if steps else "none yet"
    print(f"  checkpoints: {saved} of {experiment.train.steps}")
    print(f"  {total:,} parameters")
    parts: dict[str, int] = {}
    for name, size in sizes.items():
        part = ".".join(name.split(".")[:2])
        parts[part] = parts.get(part, 0) + size
    for part, size in parts.items():
        print(f"    {part:<28}{size:>12,}")
    records = read_metrics(folder / "metrics.jsonl")
    if records:
        last = records[-1]
        names = ("step", "loss", "language", "grounding", "consistency")
        print("  last: " + "  ".join(f"{name} {last[name]:.4g}" for name in names if name in last))
