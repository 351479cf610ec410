"""Our side of benchmarks/accelerator.py, in a process of its own: see there."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import accelerator_systems as systems
import jax
import jax.numpy as jnp
import numpy as np
from accelerator_systems import Lengths, System
from flax import nnx
from serving import serve

from tgvlm_jax.data import qwen_patches, qwen_rows
from tgvlm_jax.models import parameters
from tgvlm_jax.models.eva_vit import EvaVit
from tgvlm_jax.models.layers import Linear
from tgvlm_jax.models.qwen_vit import QwenVisionTower
from tgvlm_jax.models.timesformer import Timesformer
from tgvlm_jax.objectives.grpo import PolicyBatch
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.schema import (
    EvaConfig,
    Experiment,
    GroupConfig,
    GrpoConfig,
    OptimConfig,
    QwenVisionConfig,
    SamplingConfig,
)
from tgvlm_jax.train import optim, state, step
from tgvlm_jax.types import Batch, Prompt, Response

OPTIM = OptimConfig(
    lr=1e-4,
    warmup_steps=0,
    final_lr=1.0,
    clip=0.0,
    groups=(GroupConfig(pattern=r"(?<!lora_a)(?<!lora_b)$", frozen=True),),
)
_PRODUCTS = 8


@dataclasses.dataclass(frozen=True)
class Case:
    """Something compiled.

    Attributes:
        run: does it and waits. compile: seconds. memory: bytes that XLA sets aside for it.
        first: what `run` does before what is to be timed; None for nothing.
    """

    run: Callable[[], Any]
    compile: float
    memory: float
    first: Callable[[], Any] | None = None


class Ours:
    """One system at a time."""

    def __init__(self) -> None:
        self.cases: dict[str, Case] = {}
        self.made: dict[str, Any] = {}

    def hello(self) -> dict[str, Any]:
        """What there is to measure."""
        device = jax.devices()[0]
        memory = (device.memory_stats() or {}) if device.platform != "cpu" else {}
        return {
            "platform": device.platform,
            "device": device.device_kind,
            "devices": jax.device_count(),
            "memory": memory.get("bytes_limit", 0),
            "versions": {"jax": jax.__version__, "jaxlib": jax.lib.__version__},
            "sizes": systems.SIZES,
            "systems": list(systems.SYSTEMS),
        }

    def begin(self, name: str, dtype: str) -> dict[str, Any]:
        """Random weights of a system; what the other side has to know, and how much work it is."""
        self.cases.clear()
        self.made.clear()
        chosen, told = systems.SYSTEMS[name], self.hello()
        lengths = chosen.on_cpu if told["platform"] == "cpu" else chosen.lengths
        self.system, self.lengths, self.dtype = chosen, lengths, dtype
        full = _sizes(chosen, dtype, chosen.decoder.layers)
        width = jnp.dtype(dtype).itemsize
        layers = systems.fitting_layers(
            chosen, weights=width * full["parameters"], memory=told["memory"]
        )
        shared = {"dtype": dtype, "layers": layers}
        self.config = systems.language_model(chosen, **shared, adapters=True)
        self.plain = systems.language_model(chosen, **shared, adapters=False)
        self.sizes = _sizes(chosen, dtype, layers)
        return {
            "decoder": systems.hf_decoder(self.plain),
            "tower": systems.hf_tower(chosen.tower, lengths),
            "grid": systems.grid(chosen.tower, lengths)
            if isinstance(chosen.tower, QwenVisionConfig)
            else None,
            "lengths": dataclasses.asdict(lengths),
            "layers": [layers, chosen.decoder.layers],
            "parameters": self.sizes["parameters"],
            "rank": systems.RANK,
            "alpha": systems.ALPHA,
            "remat": chosen.remat != "none",
            "flops": self._flops(),
            "bytes": self._bytes(),
        }

    def _flops(self) -> dict[str, float]:
        """Of each case: products and attention scores that the model needs, nothing done twice."""
        lengths, product = self.lengths, self.lengths.product
        rows, prompt, answer = lengths.train
        prompts, asked, group, new = lengths.rollout
        work = {"config": self.config, "sizes": self.sizes}
        rolled = {"rows": prompts, "prompt": asked, "answers": group, "answer": new}
        few = {"rows": lengths.prefill[0], "prompt": lengths.prefill[1]}
        return {
            "product": 2.0 * _PRODUCTS * product**3,
            "sft": flops(**work, rows=rows, prompt=prompt, answers=1, answer=answer, trains=True),
            "update": flops(**work, **rolled, trains=True),
            "rollout": flops(**work, **rolled, trains=False),
            "prefill": flops(**work, **few, answers=1, answer=0, trains=False),
            "tower": systems.tower_scores(self.system.tower, lengths),  # products: `_tower`
        }

    def _bytes(self) -> dict[str, float]:
        """What has to be read or written: by the copy, and by a token that is decoded."""
        spec, width = self.plain.decoder, jnp.dtype(self.dtype).itemsize
        rows, prompt, new = self.lengths.decode
        kept = 2 * spec.layers * spec.kv_heads * spec.head_size * rows * (prompt + new / 2)
        read = self.sizes["blocks"] + spec.vocab_size * spec.width + kept
        return {"copy": 2.0 * 2**20 * self.lengths.copied, "decode": new * width * read}

    def prepare(self, case: str) -> dict[str, Any]:
        """Compiles a case and runs it once."""
        try:
            self.cases[case] = getattr(self, f"_{case}")()
            self.cases[case].run()
        except jax.errors.JaxRuntimeError as error:
            self.cases.pop(case, None)
            self.made.pop("state", None)  # a step may have given it away
            return {"error": _first_line(error)}
        found = self.cases[case]
        more = {"flops": self.made["tower_flops"]} if case == "tower" else {}
        return {"compile": found.compile, "memory": found.memory, **more}

    def seconds(self, case: str) -> dict[str, float]:
        """How long it takes, by the clock and on the processor, and how long a first token does."""
        taken = _timed(self.cases[case].run)
        first = self.cases[case].first
        return taken if first is None else taken | {"first": _timed(first)["wall"]}

    def end(self, case: str) -> dict[str, Any]:
        """Lets go of a case, and of what no other needs."""
        self.cases.pop(case, None)
        if case in ("product", "copy", "tower"):
            self.made.pop(case, None)
        return {}

    def _product(self) -> Case:
        side, kind = self.lengths.product, jnp.dtype(self.dtype)
        keys = jax.random.split(jax.random.key(0))
        x, w = (jax.random.normal(key, (side, side), kind) for key in keys)
        w = w * jnp.asarray(side**-0.5, kind)  # so that products stay of size 1

        def products(x, w):
            return jax.lax.fori_loop(0, _PRODUCTS, lambda _, y: y @ w, x)

        return _compiled(jax.jit(products), x, w)

    def _copy(self) -> Case:
        x = jnp.ones(2**20 * self.lengths.copied // 4, jnp.float32)
        return _compiled(jax.jit(lambda x: x + 1), x)

    def _tower(self) -> Case:
        made = _tower(self.system, self.lengths, self.dtype)
        self.made["tower_flops"] = made.flops + self._flops()["tower"]
        return _compiled(made.run, made.weights, made.seen)

    def _weights(self) -> state.TrainState:
        """One copy for all cases; a training step gives it away and gets it back."""
        if "state" not in self.made:
            experiment = Experiment(model=self.config, optim=OPTIM)
            blueprint = parameters.blueprint(self.config)
            self.tx = optim.build(OPTIM, blueprint.shapes, matrices=blueprint.matrices, steps=1000)
            self.made["state"] = jax.jit(lambda: state.create(experiment, self.tx))()
        return self.made["state"]

    def _plain_params(self) -> parameters.Params:
        whole, names = self._weights().params, parameters.blueprint(self.plain).shapes
        return {name: whole[name] for name in names}

    def _prefill(self) -> Case:
        blueprint = parameters.blueprint(self.plain)

        def prefill(params, prompt):
            model = blueprint.build(params)
            read = model.prefill(prompt)
            return model.decoder.logits(read.final), read

        return _compiled(jax.jit(prefill), self._plain_params, _prompt(*self.lengths.prefill, self))

    def _generate(self, rows: int, length: int, new: int, *, samples: int, heat: float) -> Case:
        fixed = {
            "blueprint": parameters.blueprint(self.plain),
            "max_tokens": new,
            "sampling": SamplingConfig(temperature=heat),
            "samples": samples,
        }
        traced = {"end_id": -1, "pad_id": 0, "key": jax.random.key(1)}
        prompt = _prompt(rows, length, self)
        return _compiled(generate, self._plain_params, prompt, fixed=fixed, traced=traced)

    def _decode(self) -> Case:
        """A token more than are counted, and the first alone."""
        rows, length, new = self.lengths.decode
        first = self._generate(rows, length, 1, samples=1, heat=0.0)
        whole = self._generate(rows, length, new + 1, samples=1, heat=0.0)
        first.run()
        return dataclasses.replace(whole, first=first.run)

    def _rollout(self) -> Case:
        prompts, length, group, new = self.lengths.rollout
        return self._generate(prompts, length, new, samples=group, heat=1.0)

    def _sft(self) -> Case:
        rows, length, answer = self.lengths.train
        response = _response((rows, answer), self.config.decoder.vocab_size)
        return self._step(
            Experiment(model=self.config, optim=OPTIM),
            Batch(prompt=_prompt(rows, length, self), response=response),
        )

    def _update(self) -> Case:
        prompts, length, group, new = self.lengths.rollout
        words = self.config.decoder.vocab_size
        shape = (prompts, group, new)
        better = jnp.where(jnp.arange(group) % 2 == 0, 1.0, -1.0)[None, :, None]
        batch = PolicyBatch(
            prompt=_prompt(prompts, length, self),
            response=_response(shape, words),
            advantages=jnp.broadcast_to(better, shape).astype(jnp.float32),
            log_probs=jnp.full(shape, -math.log(words), jnp.float32),
        )
        objective = GrpoConfig(num_generations=group, max_tokens=new)
        return self._step(Experiment(model=self.config, optim=OPTIM, objective=objective), batch)

    def _step(self, experiment: Experiment, batch: Any) -> Case:
        self._weights()
        taken = step.make_step(parameters.blueprint(self.config), self.tx, experiment)
        began = time.perf_counter()
        made = taken.lower(self.made["state"], batch).compile()
        compiling = time.perf_counter() - began

        def run() -> None:
            self.made["state"], metrics = made(self.made["state"], batch)
            jax.block_until_ready((self.made["state"], metrics))
            if not math.isfinite(float(metrics["grad_norm"])):
                raise SystemExit("a gradient is no number")

        return Case(run, compiling, _memory(made))


@dataclasses.dataclass(frozen=True)
class _Made:
    run: Callable
    weights: Any
    seen: Any
    flops: float


def _tower(system: System, lengths: Lengths, dtype: str) -> _Made:
    """The tower alone, on random pixels."""
    config, kind = system.tower, jnp.dtype(dtype)
    abstract = nnx.eval_shape(lambda: _module(config, kind))
    graph = nnx.graphdef(abstract)
    weights = jax.jit(lambda: nnx.state(_module(config, kind)))()

    def look(weights: Any, seen: Any) -> Any:
        tower = nnx.merge(graph, weights)
        return tower.vectors(seen) if isinstance(tower, Timesformer) else tower(seen)

    tokens = systems.tower_tokens(config, lengths)
    seen = _seen(config, lengths, kind)
    return _Made(jax.jit(look), weights, seen, _tower_products(abstract, config, tokens))


def _module(config: systems.Tower, kind: jnp.dtype) -> nnx.Module:
    made = {"rngs": nnx.Rngs(0), "dtype": kind}
    if isinstance(config, EvaConfig):
        return EvaVit(config, **made)
    if isinstance(config, QwenVisionConfig):
        return QwenVisionTower(config, **made, activations=kind)
    return Timesformer(config, **made, activations=kind)


def _seen(config: systems.Tower, lengths: Lengths, kind: jnp.dtype) -> Any:
    if isinstance(config, QwenVisionConfig):
        return _patches(config, lengths)
    rng, side = np.random.default_rng(0), config.image
    if isinstance(config, EvaConfig):
        return jnp.asarray(rng.normal(size=(1, lengths.clips, side, side, 3)), kind)
    shape = (1, lengths.clips, config.frames, side, side, 3)
    return jnp.asarray(rng.integers(0, 256, shape), jnp.uint8)


def _tower_products(tower: nnx.Module, config: systems.Tower, tokens: int) -> float:
    """FLOPs of matrices; what merges patches sees a quarter of them."""
    total = 0.0
    for path, module in nnx.iter_modules(tower):
        if isinstance(module, Linear):
            merges = isinstance(config, QwenVisionConfig) and path[0] in ("merger", "deepstack")
            uses = tokens / config.merge**2 if merges else tokens
            total += 2.0 * math.prod(module.weight.shape) * uses
    return total


def _patches(config: QwenVisionConfig, lengths: Lengths) -> Any:
    """Clips of one size, a temporal patch a row."""
    frames, rows, columns = grid = systems.grid(config, lengths)
    rule = qwen_patches.QWEN2_5_VL if config.window else qwen_patches.QWEN3_VL
    rule = dataclasses.replace(
        rule, patch=config.patch, window=config.window, table_side=config.table_side
    )
    rng = np.random.default_rng(0)
    width = 3 * config.temporal * config.patch**2
    slots = rows * columns
    laid = [
        qwen_rows.to_rows(
            [
                qwen_patches.Patched(
                    patches=rng.integers(0, 256, (math.prod(grid), width), np.uint8), grid=grid
                )
            ],
            rule=rule,
            rows=frames,
            slots=slots,
        ).rows
        for _ in range(lengths.clips)
    ]
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *laid)


def flops(
    *,
    config: Any,
    sizes: dict[str, int],
    rows: int,
    prompt: int,
    answers: int,
    answer: int,
    trains: bool,
) -> float:
    """Matrix products and scores of prompts with answers that share them (models/flops.py).

    Training is through frozen matrices (twice forward) to the adapters (three times). Without
    answers the head makes one token of each prompt.
    """
    spec = config.decoder
    tokens, said = rows * (prompt + answers * answer), rows * answers * answer
    through = 2 if trains else 1
    work = 2.0 * tokens * sizes["blocks"] * through
    work += 6.0 * tokens * sizes["adapters"] if trains else 0.0
    work += 2.0 * (said or rows) * spec.vocab_size * spec.width * through
    pairs = prompt**2 + answers * answer * (prompt + answer)
    scores = 4.0 * spec.layers * spec.heads * spec.head_size * rows * pairs
    return work + scores * (3 if trains else 1)


def _sizes(system: System, dtype: str, layers: int) -> dict[str, int]:
    """Numbers in the decoder, in the matrices of its layers, and in their adapters."""
    config = systems.language_model(system, dtype=dtype, layers=layers, adapters=True)
    plan = parameters.blueprint(config)
    low = {name for name in plan.shapes if name.endswith((".lora_a", ".lora_b"))}
    count = {name: math.prod(shape) for name, shape in plan.shapes.items()}
    return {
        "parameters": sum(count[name] for name in count if name not in low),
        "blocks": sum(count[name] for name in plan.matrices if name.startswith("decoder.blocks")),
        "adapters": sum(count[name] for name in low),
    }


def _prompt(rows: int, length: int, side: Ours) -> Prompt:
    words = side.config.decoder.vocab_size
    ids = np.random.default_rng(0).integers(1, words, (rows, length))
    return Prompt(
        visual=None,
        tokens=jnp.asarray(ids, jnp.int32),
        visual_index=jnp.full(ids.shape, -1, jnp.int32),
        length=jnp.full(rows, length, jnp.int32),
    )


def _response(shape: tuple[int, ...], words: int) -> Response:
    tokens = np.random.default_rng(1).integers(1, words, shape)
    rows = shape[:-1]
    return Response(
        tokens=jnp.asarray(tokens, jnp.int32),
        mask=jnp.ones(shape, bool),
        evidence=jnp.full(shape, -1, jnp.int32),
        spans=jnp.zeros((*rows, 0, 2), jnp.float32),
        evidence_mask=jnp.zeros((*rows, 0), bool),
    )


def _compiled(
    function: Any, first: Any, *rest: Any, fixed: dict | None = None, traced: dict | None = None
) -> Case:
    """Compiled ahead of time; a `first` that is a function is asked for at every call."""
    get = first if callable(first) else lambda: first
    traced = traced or {}
    began = time.perf_counter()
    made = function.lower(get(), *rest, **(fixed or {}), **traced).compile()
    compiling = time.perf_counter() - began

    def run() -> None:
        jax.block_until_ready(made(get(), *rest, **traced))

    return Case(run, compiling, _memory(made))


def _memory(made: Any) -> float:
    """Bytes of arguments, results and what lies between; what is given away counts once."""
    found = made.memory_analysis()
    if found is None:  # not every backend tells
        return 0.0
    whole = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return float(whole - found.alias_size_in_bytes)


def _timed(run: Callable[[], None]) -> dict[str, float]:
    began, spent = time.perf_counter(), time.process_time()
    run()
    return {"wall": time.perf_counter() - began, "cpu": time.process_time() - spent}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


if __name__ == "__main__":
    serve(Ours)
