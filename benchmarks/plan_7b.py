"""What a step of a 7B or 8B decoder costs, beside the least that it can, and beside MaxText.

    pip install -e '.[plan]'
    python benchmarks/plan_7b.py                          # minutes for each case
    python benchmarks/plan_7b.py --cases llama3.1-8b --layers 2

A decoder alone, trained whole by AdamW in float32 and computed with in bfloat16, sequences of 8192
tokens: 128 of a prompt and 8064 of an answer. Compiled for chips that are not there, so FLOPs and
bytes are exact for these versions of jax and libtpu; times are a roofline's, calibrated nowhere.

The least: six FLOPs for every weight and token, attention over all pairs and over those that a
causal mask leaves; on the wires every weight once forward and once backward in bfloat16, and its
gradient scattered. MaxText's figure is what its authors measured on the same shape and chip:
https://maxtext.readthedocs.io/en/latest/reference/models/tiering.html (Llama 3.1 8B, Trillium, 256
chips, bfloat16, sequences of 8192; a causal mask counts half). Writes results/plan_7b.*.
"""

import argparse
import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported: nothing runs

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.models import parameters
from tgvlm_jax.plan import topology
from tgvlm_jax.plan.compiled import compile_program
from tgvlm_jax.plan.model_flops import of_step
from tgvlm_jax.plan.programs import Program, placed, size
from tgvlm_jax.plan.roofline import estimate
from tgvlm_jax.schema import (
    DataConfig,
    DecoderConfig,
    Experiment,
    MeshConfig,
    ModelConfig,
    RopeConfig,
    SftConfig,
    presets,
)
from tgvlm_jax.train import optim, state
from tgvlm_jax.train.step import make_step
from tgvlm_jax.types import Batch, Prompt, Response

RESULTS = Path(__file__).resolve().parent / "results"
PROMPT, ANSWER, GIB = 128, 8064, 2**30
LLAMA = DecoderConfig(
    vocab_size=128_256,
    width=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    head_size=128,
    hidden=14336,
    rope=RopeConfig(theta=500_000.0, original_length=8192),
    tie_embeddings=False,
)
MAXTEXT = {"llama3.1-8b": 0.4546}  # MFU, at 7,207 tokens a second and chip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A decoder on a slice; a sequence for each chip of `fsdp`."""

    decoder: DecoderConfig
    topology: str
    mesh: MeshConfig


CASES = {
    "llama3.1-8b": Case(decoder=LLAMA, topology="v6e:16x16", mesh=MeshConfig(fsdp=256)),
    "qwen2.5-7b": Case(
        decoder=presets.QWEN2_5_VL_7B.decoder,
        topology="v5e:16x16",
        mesh=MeshConfig(fsdp=64, tp=4),
    ),
}


def experiment(case: Case, *, layers: int) -> Experiment:
    """The decoder alone."""
    decoder = dataclasses.replace(case.decoder, layers=layers or case.decoder.layers)
    model = ModelConfig(
        tower=None,
        decoder=decoder,
        evidence=None,
        two_way_frames=False,
        dtype="bfloat16",
        remat="full",
    )
    data = DataConfig(batch_size=case.mesh.fsdp)
    return Experiment(name="plan_7b", model=model, data=data, objective=SftConfig(), mesh=case.mesh)


def batch(mesh: jax.sharding.Mesh, rows: int) -> Batch:
    """Text alone."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh_lib.RULES["batch"]))

    def array(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding)

    ids = array(jnp.int32, PROMPT)
    return Batch(
        prompt=Prompt(visual=None, tokens=ids, visual_index=ids, length=array(jnp.int32)),
        response=Response(
            tokens=array(jnp.int32, ANSWER),
            mask=array(jnp.bool_, ANSWER),
            evidence=array(jnp.int32, ANSWER),
            spans=array(jnp.float32, 2, 2),
            evidence_mask=array(jnp.bool_, 2),
        ),
    )


def least(one: Experiment) -> dict[str, float]:
    """FLOPs and bytes of a chip that no step of this kind can do without."""
    decoder, mesh = one.model.decoder, one.mesh
    chips, length = mesh.fsdp * mesh.tp, PROMPT + ANSWER
    table = decoder.vocab_size * decoder.width
    shapes = parameters.blueprint(one.model).shapes
    matrices = parameters.blueprint(one.model).matrices
    weights = sum(math.prod(shapes[name]) for name in matrices)
    rows = one.data.batch_size
    scores = 12.0 * decoder.layers * rows * decoder.heads * decoder.head_size * length**2
    linear = 6.0 * rows * (length * weights + ANSWER * table)
    each = 2.0 * (weights + 2 * table) / mesh.tp  # bfloat16
    share = (mesh.fsdp - 1) / mesh.fsdp
    return {
        "flops": (linear + scores / 2) / chips,
        "flops_all_pairs": (linear + scores) / chips,
        "fsdp_bytes": 3 * each * share,
    }


def measured(name: str, *, layers: int) -> dict[str, Any]:
    """A case, compiled."""
    case = CASES[name]
    chips, one = topology.find(case.topology), experiment(case, layers=layers)
    mesh = mesh_lib.make(one.mesh, chips.devices)
    assert mesh is not None
    with mesh_lib.use(mesh):
        blueprint = parameters.blueprint(one.model)
        shapes = jax.eval_shape(lambda: parameters.init(one.model, jax.random.key(0)))
        tx = optim.build(one.optim, shapes, matrices=blueprint.matrices, steps=one.train.steps)
        current = jax.eval_shape(lambda: state.create(one, tx))
        current = jax.tree.map(lambda x: placed(x, mesh), current)
    fed = batch(mesh, one.data.batch_size)
    program = Program(
        name="train",
        about=name,
        mesh=mesh,
        lower=lambda: make_step(blueprint, tx, one).lower(current, fed),
        held={"state": size(current)},
        beside={},
    )
    found = compile_program(program, chips)
    assert found.cost is not None, f"{name} does not fit"
    assert chips.chip is not None
    time = estimate(found.cost, chips.chip, kind=chips.kind, between="dcn")
    minimum, peak = least(one), chips.chip.flops
    return {
        "case": name,
        "topology": case.topology,
        "layers": one.model.decoder.layers,
        "least": minimum,
        "model_flops": of_step(one, fed) / mesh.size,
        "flops": found.cost.flops,
        "kernels": {k: v.flops for k, v in found.cost.kernels.items()},
        "traffic": found.cost.bytes,
        "wire": {f"{k} over {axes}": sent for (k, axes), sent in found.cost.wire.items()},
        "peak_memory": found.needed,
        "time": dataclasses.asdict(time),
        "mfu": [minimum["flops"] / peak / t for t in (time.serial, time.overlapped)],
        "maxtext_mfu": MAXTEXT.get(name),
        "compile_seconds": round(found.seconds),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        f"Sequences of {PROMPT + ANSWER} tokens, one for each chip of `fsdp`, layers recomputed; "
        "figures of a chip and a step.",
        "",
        "| | chips | TFLOP | the least, causal (all pairs) | GiB on the wires "
        "| the least of `fsdp` | memory | time at least | MFU at most | MaxText |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        minimum, low, high = row["least"], *row["mfu"]
        published = row["maxtext_mfu"]
        cells = [
            f"{row['case']}, {row['layers']} layers",
            row["topology"],
            f"{row['flops'] / 1e12:.1f}",
            f"{minimum['flops'] / 1e12:.1f} ({minimum['flops_all_pairs'] / 1e12:.1f})",
            f"{sum(row['wire'].values()) / GIB:.1f}",
            f"{minimum['fsdp_bytes'] / GIB:.1f}",
            f"{row['peak_memory'] / GIB:.2f} GiB",
            f"{row['time']['overlapped']:.2f} to {row['time']['serial']:.2f} s",
            f"{low:.0%} to {high:.0%}",
            f"{published:.1%}" if published else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--layers", type=int, default=0, help="all if 0")
    parser.add_argument("--out", type=Path, default=RESULTS / "plan_7b.json")
    args = parser.parse_args()
    rows = json.loads(args.out.read_text()) if args.out.exists() else []
    for name in args.cases:
        made = measured(name, layers=args.layers)
        rows = [row for row in rows if row["case"] != name] + [made]
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(table(rows) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
