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

import text_step
from text_step import ANSWER, PROMPT

from tgvlm_jax.models import parameters
from tgvlm_jax.plan import topology
from tgvlm_jax.plan.compiled import compile_program
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

RESULTS = Path(__file__).resolve().parent / "results"
GIB = 2**30
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
    program = text_step.program(one, chips, about=name)
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
        "model_flops": program.model_flops / program.mesh.size,
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
