"""Resident memory that loading a checkpoint takes at its peak, each way in a process of its own.

    python benchmarks/load_memory.py                 # 1 GB of random numbers, about two minutes

Prints a table and writes benchmarks/results/load_memory.json and .md. A process imports all it
needs, loads a checkpoint of the same layout and next to no size, notes its resident memory, resets
the kernel's record of its peak, and loads the large one. Pages of the file that the kernel keeps
are nobody's resident memory, since files are read and not mapped.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from published import publish

DTYPES = {"bf16": "bfloat16", "f32": "float32"}
# Types of the file and of what is loaded, and how many devices there are.
WAYS = [("bf16", "bf16", 1), ("f32", "f32", 1), ("bf16", "f32", 1), ("f32", "bf16", 1)]
WAYS += [("bf16", "bf16", 8), ("f32", "f32", 8)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loading:
    """One load; sizes in bytes. `loaded` is what the parameters take, `peak` above the baseline."""

    stored: str
    target: str
    devices: int
    checkpoint: int
    loaded: int
    baseline: int
    peak: int
    seconds: float


def spec(layers: int, width: int):
    """A Llama of twelve heads; its embedding is a tenth of the large one."""
    from tgvlm_jax.schema import DecoderConfig

    return DecoderConfig(
        vocab_size=32_000 if width > 100 else 96,
        width=width,
        layers=layers,
        heads=12,
        kv_heads=4,
        head_size=width // 12,
        hidden=4 * width,
    )


def shapes(layers: int, width: int, dtype: str, mesh):
    """What the parameters look like, on the mesh."""
    import jax
    from flax import nnx

    from tgvlm_jax import mesh as mesh_lib
    from tgvlm_jax.models.decoder import Decoder
    from tgvlm_jax.schema.presets import language_model

    config = language_model(spec(layers, width))
    with mesh_lib.use(mesh):
        state = nnx.state(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    found = {}
    for path, leaf in nnx.to_flat_state(state):
        layout = leaf.get_value().sharding
        layout = None if mesh is None else jax.sharding.NamedSharding(mesh, layout.spec)
        shape = jax.ShapeDtypeStruct(leaf.shape, DTYPES[dtype], sharding=layout)
        found[".".join(map(str, path))] = shape
    return found


def write(folder: Path, layers: int, width: int, stored: str) -> int:
    """A checkpoint of random numbers in three files or so; returns its bytes."""
    from tgvlm_jax.weights import mapping, published, text

    rng = np.random.default_rng(0)
    own = {path: leaf.shape for path, leaf in shapes(layers, width, stored, None).items()}
    dtype = np.dtype(next(iter(shapes(layers, width, stored, None).values())).dtype)
    specs = [
        published.Spec(name=name, shape=mapping.published_shape(entry, own), dtype=dtype)
        for entry in text.tensors(spec(layers, width))
        for name in mapping.numbered(entry, own)
    ]
    values = (rng.standard_normal(one.shape, np.float32).astype(dtype) for one in specs)
    folder.mkdir()
    published.write(folder, specs, values, shard_bytes=400_000_000)
    return sum(one.size for one in specs)


def resident(what: str) -> int:
    """VmRSS (now) or VmHWM (the peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))


def load(folder: Path, small: Path, options: argparse.Namespace) -> None:
    """Runs in a process of its own and prints what it found."""
    import jax

    from tgvlm_jax import mesh as mesh_lib
    from tgvlm_jax.schema import MeshConfig
    from tgvlm_jax.weights import hf, text

    mesh = mesh_lib.make(MeshConfig(fsdp=4, tp=2)) if options.devices == 8 else None

    def read(where: Path, layers: int, width: int):
        like = shapes(layers, width, options.target, mesh)
        params = hf.load(where, text.tensors(spec(layers, width)), like=like)
        return jax.block_until_ready(params)

    read(small, options.layers, 48)
    baseline = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    began = time.perf_counter()
    params = read(folder, options.layers, options.width)
    seconds = time.perf_counter() - began
    found = Loading(
        stored=options.stored,
        target=options.target,
        devices=options.devices,
        checkpoint=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        loaded=sum(value.nbytes for value in params.values()),
        baseline=baseline,
        peak=resident("VmHWM") - baseline,
        seconds=seconds,
    )
    print(json.dumps(dataclasses.asdict(found)))


def measure(stored: str, target: str, devices: int, options: argparse.Namespace) -> Loading:
    # A layer of the large model has 15.3 width^2 parameters, its embedding as many as it has.
    per_layer = 15.34 * options.width**2
    each = 2 if stored == "bf16" else 4
    layers = math.ceil((options.gigabytes * 1e9 / each - 32_000 * options.width) / per_layer)
    flags = f"--xla_force_host_platform_device_count={devices}"
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        large, small = Path(scratch) / "large", Path(scratch) / "small"
        write(large, layers, options.width, stored)
        write(small, layers, 48, stored)
        command = [sys.executable, __file__, "--load", str(large), "--small", str(small)]
        command += ["--stored", stored, "--target", target, "--devices", str(devices)]
        command += ["--layers", str(layers), "--width", str(options.width)]
        env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return Loading(**json.loads(done.stdout.splitlines()[-1]))


def table(rows: list[Loading], facts: dict[str, object]) -> str:
    lines = [
        "# Memory at the peak of loading a checkpoint",
        "",
        *(f"- {key}: {value}" for key, value in facts.items()),
        "",
        "| file | loaded as | devices | file, MB | loaded, MB | peak, MB | peak / loaded | s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row.stored} | {row.target} | {row.devices} | {row.checkpoint / 1e6:.0f}"
            f" | {row.loaded / 1e6:.0f} | {row.peak / 1e6:.0f}"
            f" | {row.peak / row.loaded:.2f} | {row.seconds:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the checkpoint")
    parser.add_argument("--width", type=int, default=1536, help="of the model")
    parser.add_argument("--scratch", type=Path, default=None, help="where checkpoints are made")
    for name in ("load", "small"):
        parser.add_argument(f"--{name}", type=Path, help=argparse.SUPPRESS)
    for name in ("stored", "target"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    for name in ("devices", "layers"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(options.load, options.small, options)
        return
    rows = [measure(*way, options) for way in WAYS]
    facts = {
        "checkpoint": f"random numbers in several files, a Llama of width {options.width}",
        "peak": "resident memory above what the process had before, by the kernel's record",
        "devices": "8 are simulated on the one host, as fsdp 4 x tp 2",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores,"
        f" load {os.getloadavg()[0]:.1f} at the end",
    }
    text = table(rows, facts)
    publish(
        "load_memory", text, {"facts": facts, "ways": [dataclasses.asdict(row) for row in rows]}
    )


if __name__ == "__main__":
    main()
