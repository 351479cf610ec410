"""What the training step of a 7B decoder sends between chips, by how its weights are gathered.

    pip install -e '.[plan]'
    python benchmarks/collectives.py                     # minutes for each setting
    python benchmarks/collectives.py --layers 2 --settings step

The decoder of Qwen2.5-VL-7B, all of it trained by AdamW in float32 and computed with in bfloat16,
on 256 chips of a TPU v5e as 64 (fsdp) x 4 (tp), one sequence of 8192 tokens for each of the 64: 128
of a prompt and 8064 of an answer, which are two passes, as in every step of this library. Compiled
for chips that are not there; bytes are exact for these versions of jax and libtpu, and of ring
algorithms. "compiler" leaves it to the compiler what becomes of weights that are cut, as this
library did before. Writes benchmarks/results/collectives.*.
"""

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Literal

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported: nothing runs

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.models import parameters
from tgvlm_jax.plan import topology
from tgvlm_jax.plan.compiled import Compiled, compile_program
from tgvlm_jax.plan.programs import Program, placed, size
from tgvlm_jax.schema import DataConfig, Experiment, MeshConfig, OptimConfig, SftConfig, presets
from tgvlm_jax.train import optim, state
from tgvlm_jax.train.step import make_step
from tgvlm_jax.types import Batch, Prompt, Response

RESULTS = Path(__file__).resolve().parent / "results"
TOPOLOGY, ROWS, PROMPT, ANSWER = "v5e:16x16", 64, 128, 8064
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


def batch(mesh: jax.sharding.Mesh) -> Batch:
    """Text alone."""
    rows = NamedSharding(mesh, PartitionSpec(mesh_lib.RULES["batch"]))

    def array(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((ROWS, *shape), dtype, sharding=rows)

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


def compiled(setting: str, *, layers: int) -> Compiled:
    """The step of a setting."""
    chips, one = topology.find(TOPOLOGY), experiment(setting, layers=layers)
    mesh = mesh_lib.make(one.mesh, chips.devices)
    assert mesh is not None
    with mesh_lib.use(mesh):
        blueprint = parameters.blueprint(one.model)
        shapes = jax.eval_shape(lambda: parameters.init(one.model, jax.random.key(0)))
        tx = optim.build(one.optim, shapes, matrices=blueprint.matrices, steps=one.train.steps)
        current = jax.eval_shape(lambda: state.create(one, tx))
        current = jax.tree.map(lambda x: placed(x, mesh), current)
    program = Program(
        name="train",
        about=setting,
        mesh=mesh,
        lower=lambda: make_step(blueprint, tx, one).lower(current, batch(mesh)),
        held={"state": size(current)},
        beside={},
    )
    ours = mesh_lib.gathered
    if setting == "compiler":
        mesh_lib.gathered = lambda weight, along: weight
    try:
        return compile_program(program, chips)
    finally:
        mesh_lib.gathered = ours


def row(setting: str, found: Compiled) -> dict[str, Any]:
    """Figures of a setting, in bytes."""
    assert found.cost is not None, f"{setting} does not fit"
    kinds: dict[str, float] = {}
    for (kind, axes), sent in found.cost.wire.items():
        name = f"{kind} over {axes or 'all'}"
        kinds[name] = kinds.get(name, 0.0) + sent
    return {
        "setting": setting,
        "bytes": sum(kinds.values()),
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "peak": found.needed,
        "flops": found.cost.flops,
        "seconds": round(found.seconds),
    }


def table(rows: list[dict[str, Any]], *, layers: int) -> str:
    """As Markdown."""
    kinds = [name for name, sent in rows[0]["kinds"].items() if sent > 0.05 * GIB]
    kinds += [k for r in rows for k, sent in r["kinds"].items() if k not in kinds and sent > GIB]
    kinds = list(dict.fromkeys(kinds))
    lines = [
        f"Qwen2.5-7B decoder, {layers} layers, {TOPOLOGY}, fsdp {ROWS} x tp 4, "
        f"{PROMPT} + {ANSWER} tokens",
        "",
        f"| GiB sent by a chip | all | {' | '.join(kinds)} | peak memory |",
        "|---|" + "---:|" * (len(kinds) + 2),
    ]
    for one in rows:
        each = " | ".join(f"{one['kinds'].get(kind, 0.0) / GIB:.2f}" for kind in kinds)
        peak = f"{one['peak'] / GIB:.2f}"
        lines.append(f"| {one['setting']} | {one['bytes'] / GIB:.2f} | {each} | {peak} |")
    versions = f"jax {jax.__version__}, {topology.find(TOPOLOGY).compiler}"
    return "\n".join([*lines, "", versions, ""])


def main() -> None:
    """Compiles, prints and writes."""
    parser = argparse.ArgumentParser(description="Bytes between chips of a training step.")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--settings", default=";".join(SETTINGS), help="separated by semicolons")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = []
    for setting in args.settings.split(";"):
        rows.append(row(setting, compiled(setting, layers=args.layers)))
        print(json.dumps(rows[-1]), flush=True)
    text = table(rows, layers=args.layers)
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "collectives.md").write_text(text)
    (args.out / "collectives.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
