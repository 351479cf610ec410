"""What the training step of a 7B decoder sends between chips, by how its weights are gathered.

    pip install -e '.[plan]'
    python benchmarks/collectives.py                     # minutes for each setting
    python benchmarks/collectives.py --settings step "step, sums"   # the others stay as they are

The decoder of Qwen2.5-VL-7B, all of it trained by AdamW in float32 and computed with in bfloat16,
on 256 chips of a TPU v5e as 64 (fsdp) x 4 (tp), one sequence of 8192 tokens for each of the 64: 128
of a prompt and 8064 of an answer, which are two passes, as in every step of this library. Compiled
for chips that are not there; bytes are exact for these versions of jax and libtpu, and of ring
algorithms. "compiler" leaves it to the compiler what becomes of weights that are cut, as this
library did before. Writes benchmarks/results/collectives.*, after every setting; rows of other
settings stay if they are of as many layers and the same versions.
"""

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Literal

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported: nothing runs

import jax
import text_step
from text_step import ANSWER, PROMPT

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.plan import topology
from tgvlm_jax.plan.compiled import Compiled, compile_program
from tgvlm_jax.schema import DataConfig, Experiment, MeshConfig, OptimConfig, SftConfig, presets

RESULTS = Path(__file__).resolve().parent / "results"
TOPOLOGY, ROWS = "v5e:16x16", 64
GIB = 2**30
# Of each: when weights are gathered, and what a layer keeps for its backward pass.
SETTINGS: dict[str, tuple[Literal["layer", "step"], Literal["full", "sums"]]] = {
    "compiler": ("layer", "full"),
    "layer": ("layer", "full"),
    "step": ("step", "full"),
    "step, sums": ("step", "sums"),
}


def experiment(setting: str, *, layers: int) -> Experiment:
    """The decoder alone."""
    gather, remat = SETTINGS[setting]
    decoder = dataclasses.replace(presets.QWEN2_5_VL_7B.decoder, layers=layers)
    model = dataclasses.replace(
        presets.QWEN2_5_VL_7B, tower=None, decoder=decoder, dtype="bfloat16", remat=remat
    )
    return Experiment(
        model=model,
        data=DataConfig(batch_size=ROWS),
        objective=SftConfig(),
        optim=OptimConfig(clip=1.0),
        mesh=MeshConfig(fsdp=ROWS, tp=4, gather=gather),
    )


def compiled(setting: str, *, layers: int) -> Compiled:
    """The step of a setting."""
    chips, one = topology.find(TOPOLOGY), experiment(setting, layers=layers)
    program = text_step.program(one, chips, about=setting)
    ours = mesh_lib.gathered
    if setting == "compiler":
        mesh_lib.gathered = lambda weight, along: weight
    try:
        return compile_program(program, chips)
    finally:
        mesh_lib.gathered = ours


def row(setting: str, found: Compiled, *, layers: int) -> dict[str, Any]:
    """Figures of a setting, in bytes."""
    assert found.cost is not None, f"{setting} does not fit"
    kinds: dict[str, float] = {}
    for (kind, axes), sent in found.cost.wire.items():
        name = f"{kind} over {axes or 'all'}"
        kinds[name] = kinds.get(name, 0.0) + sent
    return {
        "setting": setting,
        "layers": layers,
        "versions": f"jax {jax.__version__}, {topology.find(TOPOLOGY).compiler}",
        "bytes": sum(kinds.values()),
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "peak": found.needed,
        "flops": found.cost.flops,
        "seconds": round(found.seconds),
    }


def among(rows: list[dict[str, Any]], made: dict[str, Any]) -> list[dict[str, Any]]:
    """Earlier rows with a new one, in the order of `SETTINGS`, without what does not compare."""
    alike = [row for row in rows if all(row[key] == made[key] for key in ("layers", "versions"))]
    found = {row["setting"]: row for row in [*alike, made]}
    return [found[setting] for setting in dict.fromkeys([*SETTINGS, *found]) if setting in found]


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    kinds = [name for name, sent in rows[0]["kinds"].items() if sent > 0.05 * GIB]
    kinds += [k for r in rows for k, sent in r["kinds"].items() if k not in kinds and sent > GIB]
    kinds = list(dict.fromkeys(kinds))
    lines = [
        f"Qwen2.5-7B decoder, {rows[0]['layers']} layers, {TOPOLOGY}, fsdp {ROWS} x tp 4, "
        f"{PROMPT} + {ANSWER} tokens",
        "",
        f"| GiB sent by a chip | all | {' | '.join(kinds)} | peak memory |",
        "|---|" + "---:|" * (len(kinds) + 2),
    ]
    for one in rows:
        each = " | ".join(f"{one['kinds'].get(kind, 0.0) / GIB:.2f}" for kind in kinds)
        peak = f"{one['peak'] / GIB:.2f}"
        lines.append(f"| {one['setting']} | {one['bytes'] / GIB:.2f} | {each} | {peak} |")
    return "\n".join([*lines, "", rows[0]["versions"], ""])


def main() -> None:
    """Compiles, prints and writes."""
    parser = argparse.ArgumentParser(description="Bytes between chips of a training step.")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=RESULTS / "collectives.json")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(args.out.read_text()) if args.out.exists() else []
    for setting in args.settings:
        made = row(setting, compiled(setting, layers=args.layers), layers=args.layers)
        print(json.dumps(made), flush=True)
        rows = among(rows, made)
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
