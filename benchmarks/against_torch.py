"""Our decoder beside transformers + torch on this machine's CPU, measured in one run.

    pip install -e '.[parity]'
    python benchmarks/against_torch.py

Both sides have SmolLM2-135M's shape and the same random weights, which transformers saves and our
own reader loads. Outputs are compared before anything is timed. Then the two take turns, call by
call, each in a process of its own, so that whatever else runs on the machine slows both. Ours is
what the library runs: `VideoLanguageModel`, `train.step.make_step`, `rollout.sampler.generate`.

Prints a table and writes benchmarks/results/against_torch.json and .md.
"""

import argparse
import dataclasses
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported: this compares CPUs

import jax
import jax.numpy as jnp
import numpy as np

from tgvlm_jax.models import parameters
from tgvlm_jax.models.parameters import Blueprint, Params
from tgvlm_jax.rollout import sampler
from tgvlm_jax.schema import Experiment, GroupConfig, LoraConfig, ModelConfig, OptimConfig, presets
from tgvlm_jax.train import optim
from tgvlm_jax.train.state import TrainState
from tgvlm_jax.train.step import make_step
from tgvlm_jax.types import Batch, Prompt, Response
from tgvlm_jax.weights import hf, models, peft

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
VOCABULARY, RANK, ALPHA = 49152, 16, 32
# SmolLM2-135M's published config.json, as far as it differs from the class's defaults.
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.041666666666666664,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to do.

    `extra` is new tokens of generate, answer tokens of train, the columns of a product;
    `compiled` has torch generate with a static cache through torch.compile.
    """

    name: str
    kind: str
    batch: int
    length: int
    extra: int = 0
    compiled: bool = False
    aim: float | None = None

    @property
    def request(self) -> dict[str, Any]:
        """The other side's arguments."""
        names = ("kind", "batch", "length", "extra", "compiled")
        return {name: getattr(self, name) for name in names}


_ONE = {"kind": "generate", "batch": 1, "length": 128, "extra": 64}
CASES = (
    Case(name="forward 8 x 128", kind="forward", batch=8, length=128, aim=2.0),
    Case(name="forward 1 x 512", kind="forward", batch=1, length=512, aim=2.0),
    Case(name="LoRA step 4 x 256", kind="train", batch=4, length=256, extra=255, aim=1.3),
    Case(name="prefill 1 x 512", kind="prefill", batch=1, length=512),
    Case(name="generate 1 x (128 + 64)", **_ONE, aim=2.2),
    Case(name="generate 8 x (128 + 64)", **_ONE | {"batch": 8}, aim=2.2),
    Case(name="generate 1 x (128 + 64), torch compiled", **_ONE, compiled=True),
    Case(name="generate 8 x (128 + 64), torch compiled", **_ONE | {"batch": 8}, compiled=True),
    *(
        Case(name=f"30 products {m} x 576 x 1536", kind="product", batch=m, length=576, extra=1536)
        for m in (1024, 8, 1)
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A table: torch's type and that of our weights, and the type in which we compute."""

    name: str
    weights: str
    ours: str


SETTINGS = {
    "float32": Setting(name="float32", weights="float32", ours="float32"),
    "bfloat16": Setting(name="bfloat16", weights="bfloat16", ours="bfloat16"),
    "mixed": Setting(
        name="bfloat16 weights, ours computing in float32", weights="bfloat16", ours="float32"
    ),
}


class Torch:
    """The other side, in its own process and environment."""

    def __init__(self, python: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [python, str(HERE / "against_torch_worker.py"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """One request, answered."""
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line.startswith("@"):
            raise SystemExit("the torch process died; its last words are above")
        return json.loads(line[1:])

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


@functools.partial(jax.jit, static_argnums=0)
def forward(blueprint: Blueprint, params: Params, prompt: Prompt) -> jax.Array:
    model = blueprint.build(params)
    return model.decoder.logits(model.states(prompt).final)


@functools.partial(jax.jit, static_argnums=0)
def prefill(blueprint: Blueprint, params: Params, prompt: Prompt) -> Any:
    model = blueprint.build(params)
    read = model.prefill(prompt)
    return model.decoder.logits(read.final), read


@jax.jit
def products(x: jax.Array, weights: list[jax.Array]) -> list[jax.Array]:
    return [x @ weight for weight in weights]


class Ours:
    """The same weights in our models."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self.folder, self.ids, self.dtype = folder, np.load(folder / "ids.npy"), setting.ours
        rows = np.load(folder / "factors.npy")
        self.factors = [jnp.asarray(x.T, setting.weights).astype(setting.ours) for x in rows]
        config = models.from_hf(hf.read_config(folder / "model"))
        assert config == presets.language_model(presets.SMOLLM2_135M)
        config = dataclasses.replace(config, dtype=setting.ours, param_dtype=setting.weights)
        tuned = dataclasses.replace(
            config, remat="dots", lora=(LoraConfig(pattern="blocks", rank=RANK, alpha=ALPHA),)
        )
        tensors = models.tensors(config)
        self.blueprint = parameters.blueprint(config)
        self.params = hf.load(folder / "model", tensors, like=_like(config))
        wanted = {name: x for name, x in _like(tuned).items() if name not in self.params}
        self._adapters = peft.load(folder / "adapters", tensors, like=wanted)
        self._prepare_training(tuned)

    def _prepare_training(self, config: ModelConfig) -> None:
        frozen = GroupConfig(pattern=r"(?<!lora_a)(?<!lora_b)$", frozen=True)
        setting = OptimConfig(lr=1e-3, warmup_steps=0, final_lr=1.0, clip=0.0, groups=(frozen,))
        experiment = Experiment(model=config, optim=setting)
        blueprint = parameters.blueprint(config)
        params = {**self.params, **self._adapters}
        tx = optim.build(setting, params, matrices=blueprint.matrices, steps=1000)
        trained = optim.trainable(setting, params)
        assert trained.keys() == self._adapters.keys()
        self.step = make_step(blueprint, tx, experiment)
        # The step gives its state's memory away, and the other cases need the weights too.
        self.state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=jax.tree.map(jnp.array, params),
            opt_state=tx.init(trained),
            key=jax.random.key(0),
        )

    def run(self, case: Case) -> jax.Array:
        """What a case computes."""
        if case.kind == "product":
            x = jnp.ones((case.batch, case.length), self.factors[0].dtype)
            return products(x, self.factors)[-1]
        ids = self.ids[: case.batch, : case.length]
        if case.kind == "train":
            self.state, metrics = self.step(self.state, _batch(ids, case.extra))
            return metrics["language.sum"] / metrics["language.weight"]
        if case.kind == "forward":
            return forward(self.blueprint, self.params, _prompt(ids))
        if case.kind == "prefill":
            return prefill(self.blueprint, self.params, _prompt(ids))[0]
        setting = {"blueprint": self.blueprint, "max_tokens": case.extra}
        return sampler.generate(self.params, _prompt(ids), **setting, end_id=-1, pad_id=0).tokens

    def seconds(self, case: Case) -> dict[str, float]:
        """How long it takes, by the clock and on the processor."""
        began, spent = time.perf_counter(), time.process_time()
        jax.block_until_ready(self.run(case))
        if case.kind == "train":
            jax.block_until_ready(self.state)
        return {"wall": time.perf_counter() - began, "cpu": time.process_time() - spent}


def _like(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    return jax.eval_shape(lambda: parameters.init(config, jax.random.key(0)))


def _prompt(ids: np.ndarray) -> Prompt:
    batch, length = ids.shape
    return Prompt(
        visual=None,
        tokens=jnp.asarray(ids, jnp.int32),
        visual_index=jnp.full(ids.shape, -1, jnp.int32),
        length=jnp.full(batch, length, jnp.int32),
    )


def _batch(ids: np.ndarray, answer: int) -> Batch:
    """The last `answer` tokens are the answer to the others."""
    response = ids[:, -answer:]
    rows = len(ids)
    return Batch(
        prompt=_prompt(ids[:, :-answer]),
        response=Response(
            tokens=jnp.asarray(response, jnp.int32),
            mask=jnp.ones(response.shape, bool),
            evidence=jnp.full(response.shape, -1, jnp.int32),
            spans=jnp.zeros((rows, 0, 2), jnp.int32),
            evidence_mask=jnp.zeros((rows, 0), bool),
        ),
    )


def check(case: Case, ours: Ours, torch: Torch, *, exact: bool) -> float:
    """How far the two are apart: logits, losses (relative), or the share of other tokens.

    With `exact` (float32) it must be rounding: 1e-4 on logits, no other token, and 1e-4 on the
    losses of three steps, of which each has the updates before it: Adam makes much of little.
    """
    path, worst = ours.folder / "outputs.npy", 0.0
    for _ in range(3 if case.kind == "train" else 1):
        torch.ask("outputs", path=str(path), **case.request)
        theirs, own = np.load(path), np.asarray(ours.run(case), np.float32)
        if case.kind == "generate":
            apart = np.mean(theirs != own)
        elif case.kind == "train":
            apart = np.abs(own / theirs - 1)
        else:
            apart = np.abs(own - theirs).max()
        worst = max(worst, float(apart))
    limit = 0.0 if case.kind == "generate" else 1e-4
    if exact and not worst <= limit:
        raise SystemExit(f"{case.name}: the two sides differ by {worst:.3g}; nothing was timed")
    return worst


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """Times of every call of both sides, in the order in which they were made."""

    case: Case
    setting: Setting
    difference: float
    torch: list[dict[str, float]]
    ours: list[dict[str, float]]

    def ratio(self, clock: str, of: Callable = statistics.median) -> float:
        """Torch's median (or minimum) over ours: above 1 we are faster."""
        theirs, own = (of([x[clock] for x in times]) for times in (self.torch, self.ours))
        return theirs / own


def measure(case: Case, setting: Setting, ours: Ours, torch: Torch, rounds: int) -> Row:
    """Checks, then times of both, who take turns; the first turn only warms up."""
    difference = check(case, ours, torch, exact=setting.weights == "float32")
    turns = [(torch.ask("seconds", **case.request), ours.seconds(case)) for _ in range(rounds + 1)]
    theirs, own = map(list, zip(*turns[1:], strict=True))
    return Row(case=case, setting=setting, difference=difference, torch=theirs, ours=own)


def _times(calls: list[dict[str, float]]) -> str:
    wall = [1e3 * each["wall"] for each in calls]
    digits = 0 if min(wall) >= 100 else 1
    return f"{statistics.median(wall):.{digits}f} ({min(wall):.{digits}f})"


def table(rows: list[Row], facts: dict[str, object]) -> str:
    lines = [
        "# SmolLM2-135M's shape on a CPU, beside transformers + torch",
        "",
        *(f"- {key}: {value}" for key, value in facts.items()),
        "",
        "Milliseconds are medians (minima). Torch / ours: above 1 we are faster. It is that of the",
        "medians, of the minima, and of the medians of processor time, which other work on the",
        "machine disturbs least. The products at the end are those of one of the model's layers",
        "alone: what both sides are built of. The last column: logits, tokens or losses apart.",
    ]
    for setting in dict.fromkeys(row.setting for row in rows):
        lines += [
            "",
            f"| {setting.name} | torch | ours | torch / ours | minima | CPU time | aim | apart |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for row in rows:
            if row.setting != setting:
                continue
            aim = f"{row.case.aim:.1f}" if row.case.aim and setting.weights == "float32" else ""
            lines.append(
                f"| {row.case.name} | {_times(row.torch)} | {_times(row.ours)}"
                f" | **{row.ratio('wall'):.2f}** | {row.ratio('wall', min):.2f}"
                f" | {row.ratio('cpu'):.2f} | {aim} | {row.difference:.1g} |"
            )
    return "\n".join(lines) + "\n"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    found = [word for word in named.get("flags", "").split() if word in _TELLING]
    model = f", model {named['model']}" if "model" in named else ""
    name = f"{named.get('model name', platform.machine())}{model}"
    return f"{name}, {os.cpu_count()} cores; {', '.join(found)}"


_TELLING = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def run(options: argparse.Namespace) -> None:
    """Measures row after row, and writes what there is after each."""
    rows, loads = [], [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as scratch:
        folder, rng = Path(scratch), np.random.default_rng(0)
        np.save(folder / "ids.npy", rng.integers(1, VOCABULARY, (8, 512)))
        np.save(folder / "factors.npy", 0.02 * rng.standard_normal((30, 1536, 576), np.float32))
        torch = Torch(options.torch_python, folder)
        versions = torch.ask("make", settings=SHAPE, rank=RANK, alpha=ALPHA)
        facts = {
            "machine": _cpu(),
            "versions": ", ".join(
                f"{k} {v}" for k, v in {"jax": jax.__version__, **versions}.items()
            ),
            "calls": f"{options.rounds} of each, in turns, after one to warm up",
        }
        for setting in (SETTINGS[name] for name in options.settings):
            torch.ask("load", dtype=setting.weights)
            ours = Ours(folder, setting)
            for case in (case for case in CASES if options.only in case.name):
                rows.append(measure(case, setting, ours, torch, options.rounds))
                loads.append(os.getloadavg()[0])
                print(f"{setting.name}, {case.name}: {rows[-1].ratio('wall'):.2f}", flush=True)
                facts["load"] = (
                    f"{min(loads):.1f} to {max(loads):.1f}, of which this run is about 2"
                )
                write(rows, facts, options.out)
        torch.close()
    print("\n" + table(rows, facts))


def write(rows: list[Row], facts: dict[str, object], folder: Path) -> None:
    """The table, and every call's times as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "against_torch.md").write_text(table(rows, facts))
    record = {"facts": facts, "rows": [dataclasses.asdict(row) for row in rows]}
    (folder / "against_torch.json").write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default=sys.executable, help="python with torch, peft")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
