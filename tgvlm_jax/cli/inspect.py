"""tgvlm inspect: show what is in a config, in frame shards, in annotations, or in a checkpoint.

$ tgvlm inspect --config configs/tiny.py            # every key and value
$ tgvlm inspect --shards runs/shards                # videos, frames, sizes
$ tgvlm inspect --shards runs/shards --verify       # reads every byte, too
$ tgvlm inspect --annotations evi.json              # tasks, a rendered record, every bad one
$ tgvlm inspect --annotations evi.json --config configs/d2vlm_sft.py --shards runs/et --record 3
$ tgvlm inspect --checkpoint runs/demo/seed0        # steps, parameters by part, last losses
$ tgvlm inspect --checkpoint Phi-3-mini-4k-instruct # the same in Hugging Face format: does it fit?
"""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path

from absl import flags as absl_flags

from tgvlm_jax.cli.flags import define_config
from tgvlm_jax.types import InputError


def flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of the verb."""
    define_config(flag_values, required=False)
    absl_flags.DEFINE_string(
        "shards", None, "<DIR>: frame shards, here or gs://...", flag_values=flag_values
    )
    absl_flags.DEFINE_string(
        "checkpoint", None, "<DIR>: of a run, or in Hugging Face format", flag_values=flag_values
    )
    absl_flags.DEFINE_string(
        "annotations", None, "<FILE>: E.T. Instruct JSON", flag_values=flag_values
    )
    absl_flags.DEFINE_integer(
        "record", 0, "which good record of --annotations is rendered", flag_values=flag_values
    )
    absl_flags.DEFINE_bool(
        "verify", False, "compare all of the shards with their hashes", flag_values=flag_values
    )


def main(flags: absl_flags.FlagValues) -> int:
    """Runs the verb; the status is 1 where annotations have a bad record."""
    if not (flags.config or flags.shards or flags.checkpoint or flags.annotations):
        raise InputError(
            "say what to inspect: --config FILE, --shards DIR, --annotations FILE or "
            "--checkpoint DIR"
        )
    if flags.verify and not flags.shards:
        raise InputError("--verify is about shards; name them: --shards DIR")
    if flags.annotations:
        return _annotations(flags)
    if flags.config:
        _config(flags.config)
    if flags.shards:
        _shards(flags.shards, verify=flags.verify)
    if flags.checkpoint:
        folder = Path(flags.checkpoint)
        theirs = (folder / "config.json").exists() and not (folder / "experiment.json").exists()
        (_published if theirs else _checkpoint)(folder)
    return 0


def _annotations(flags: absl_flags.FlagValues) -> int:
    from tgvlm_jax.cli import inspect_annotations
    from tgvlm_jax.config import freeze
    from tgvlm_jax.schema import Experiment

    return inspect_annotations.run(
        Path(flags.annotations),
        experiment=freeze(flags.config, Experiment) if flags.config else None,
        shards=flags.shards,
        record=flags.record,
    )


def _config(config) -> None:
    from tgvlm_jax.config import dump, freeze
    from tgvlm_jax.schema import Experiment

    freeze(config, Experiment)
    print(dump(config), end="")


def _shards(folder: str, *, verify: bool) -> None:
    from tgvlm_jax.cli.shard import summary
    from tgvlm_jax.data.shards import open_shards

    shards = open_shards(folder, verify="hash" if verify else "size")
    print(summary(shards.manifest, shards.directory))
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
    print(f"{folder}: {experiment.name}, seed {experiment.seed}")
    saved = f"at steps {', '.join(map(str, steps))}" if steps else "none yet"
    if steps == [0]:
        print("  checkpoints: a converted model")
    else:
        print(f"  checkpoints: {saved} of {experiment.train.steps}")
    _sizes({name: math.prod(shape) for name, shape in shapes.items()})
    records = read_metrics(folder / "metrics.jsonl")
    if records:
        last = records[-1]
        names = ("step", "loss", "language", "grounding", "consistency")
        print("  last: " + "  ".join(f"{name} {last[name]:.4g}" for name in names if name in last))


def _sizes(sizes: Mapping[str, int]) -> None:
    """Parameters, in all and by the first two words of their paths."""
    print(f"  {sum(sizes.values()):,} parameters")
    parts: dict[str, int] = {}
    for name, size in sizes.items():
        part = ".".join(name.split(".")[:2])
        parts[part] = parts.get(part, 0) + size
    for part, size in parts.items():
        print(f"    {part:<28}{size:>14,}")


def _published(folder: Path) -> None:
    """A folder in Hugging Face format; only the headers of its files are read."""
    from tgvlm_jax.models import parameters
    from tgvlm_jax.schema import QwenVisionConfig
    from tgvlm_jax.weights import hf, mapping, models
    from tgvlm_jax.weights.published import Published

    model, found = models.read(folder), Published(folder)
    tensors, shapes = models.tensors(model), parameters.blueprint(model).shapes
    config = hf.read_config(folder)
    kinds = sorted({found.dtype(name) for name in found.names if not hf.is_buffer(name)})
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    named = config.get("architectures") or ["no class"]
    print(f"{folder}: {named[0]} ({config['model_type']})")
    print(f"  {len(found.names)} tensors of {', '.join(kinds)}, {size:,} bytes")
    spec, tower = model.decoder, model.tower
    print(
        f"  decoder: {spec.layers} layers of width {spec.width}, {spec.heads} heads of "
        f"{spec.head_size} ({spec.kv_heads} of keys), hidden {spec.hidden}, "
        f"vocabulary {spec.vocab_size}"
    )
    if isinstance(tower, QwenVisionConfig):
        print(f"  tower: {tower.layers} layers of width {tower.width}, {tower.heads} heads")
    sizes = dict.fromkeys(shapes, 0)
    for entry in tensors:
        for name in mapping.numbered(entry, shapes):
            if name in found:
                sizes[entry.parts[0].path] += math.prod(found.shape(name))
    _sizes(sizes)
    told = hf.misfits(found, tensors, shapes=shapes, ignore=models.ignored(found, model)).told()
    print("  fits: every tensor is there" if not told else "  does not fit:")
    for line in told:
        print(f"    {line}")
