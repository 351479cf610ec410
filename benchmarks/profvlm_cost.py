"""A training step of ProfVLM at its real size: with kept features, without, and in torch.

    pip install -e '.[parity]'
    python benchmarks/profvlm_cost.py

TimeSformer-base and SmolLM2-135M have random weights, the same on both sides; losses are compared
before anything is timed. Then the steps take turns, so that whatever else runs slows all of them.
The other side is transformers, peft and the projector in torch. Writes
benchmarks/results/profvlm_cost.*.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported: this compares CPUs

import jax
import jax.numpy as jnp
import numpy as np
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, TimesformerModel
from transformers import TimesformerConfig as HfTimesformer

from tgvlm_jax.models import parameters
from tgvlm_jax.schema import Experiment, GroupConfig, LoraConfig, OptimConfig, presets
from tgvlm_jax.train import optim, state
from tgvlm_jax.train.step import make_step
from tgvlm_jax.types import Batch, Prompt, Response, ViewFeatures, Views
from tgvlm_jax.weights import mapping, text, timesformer

RESULTS = Path(__file__).resolve().parent / "results"
PROMPT, ANSWER = 48, 128  # tokens
CORES = len(os.sched_getaffinity(0))  # what `taskset` leaves
MODEL = dataclasses.replace(
    presets.PROFVLM,
    projector=dataclasses.replace(presets.PROFVLM.projector, dropout=0.0),
    lora=(LoraConfig(pattern=r"^decoder\.blocks\.(q|v)$", rank=8, alpha=32),),
)
SETTING = OptimConfig(
    lr=1e-3,
    warmup_steps=0,
    final_lr=1.0,
    clip=0.0,
    groups=tuple(
        GroupConfig(pattern=pattern, frozen=True)
        for pattern in (r"^tower\.", r"^decoder\..*(?<!lora_a)(?<!lora_b)$")
    ),
)


class TorchProjector(torch.nn.Module):
    """The attentive gated projector (ProfVLM 2.2), with our parameters."""

    def __init__(self, params: dict[str, np.ndarray]):
        super().__init__()
        own = {k.removeprefix("projector."): v for k, v in params.items() if "projector." in k}
        d, e = 768, 576
        self.view_norm, self.norm = torch.nn.LayerNorm(d), torch.nn.LayerNorm(e)
        self.attention = torch.nn.MultiheadAttention(d, 4, batch_first=True)
        self.up, self.gate = torch.nn.Linear(d, 1024), torch.nn.Linear(1024, 1024)
        self.hidden_norm, self.down = torch.nn.LayerNorm(1024), torch.nn.Linear(1024, e)
        self.scale, self.shift = (torch.nn.Parameter(_tensor(own[n])) for n in ("scale", "shift"))
        with torch.no_grad():
            rows = [own[f"{n}.weight"].reshape(d, d).T for n in "qkv"]
            self.attention.in_proj_weight.copy_(_tensor(np.concatenate(rows)))
            self.attention.in_proj_bias.zero_()
            self.attention.out_proj.weight.copy_(_tensor(own["o.weight"].reshape(d, d).T))
            self.attention.out_proj.bias.zero_()
            for name in ("up", "gate", "down"):
                getattr(self, name).weight.copy_(_tensor(own[f"{name}.weight"].T))
                getattr(self, name).bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The token of each take, from vectors of its views."""
        x = self.view_norm(x)
        f = self.attention(x, x, x, need_weights=False)[0].mean(1)
        h = self.hidden_norm(torch.nn.functional.gelu(self.up(f)))
        o = self.norm(self.down(h * torch.sigmoid(self.gate(h))))
        u = (o - o.mean(-1, keepdim=True)) / (o.std(-1, keepdim=True) + 1e-6)
        return u * self.scale + self.shift


class Torch:
    """transformers and peft."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.encoder = TimesformerModel(HfTimesformer(num_frames=8)).eval()
        spec = presets.SMOLLM2_135M
        language = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=spec.vocab_size,
                hidden_size=spec.width,
                intermediate_size=spec.hidden,
                num_hidden_layers=spec.layers,
                num_attention_heads=spec.heads,
                num_key_value_heads=spec.kv_heads,
                rms_norm_eps=spec.norm_eps,
                rope_parameters={"rope_type": "default", "rope_theta": spec.rope.theta},
                tie_word_embeddings=True,
                max_position_embeddings=8192,
            )
        )
        self.weights = {n: x.detach().numpy() for n, x in language.state_dict().items()}
        self.weights = {n: np.array(x) for n, x in self.weights.items()}
        self.seen = {n: x.detach().numpy() for n, x in self.encoder.state_dict().items()}
        rule = PeftConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"])
        self.model = get_peft_model(language, rule)

    def prepare(self, params: dict[str, np.ndarray]) -> None:
        """The projector with our parameters, and the optimiser."""
        self.projector = TorchProjector(params)
        both = [*self.projector.parameters(), *self.model.parameters()]
        trained = [x for x in both if x.requires_grad]
        self.optim = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)

    def loss(self, batch: Batch, vectors: torch.Tensor | None) -> torch.Tensor:
        """Of a batch of views, or of what was kept of them."""
        if vectors is None:
            vectors = self.vectors(batch.prompt.visual.clips)
        tokens = np.concatenate([batch.prompt.tokens, batch.response.tokens], axis=1)
        ids = torch.from_numpy(np.asarray(tokens, np.int64))
        x = self.model.get_input_embeddings()(ids)
        place = int(np.argmax(batch.prompt.visual_index[0] >= 0))
        z = self.projector(vectors)[:, None]
        x = torch.cat([x[:, :place], z, x[:, place + 1 :]], dim=1)
        labels = ids.clone()
        labels[:, :PROMPT] = -100
        return self.model(inputs_embeds=x, labels=labels).loss

    def vectors(self, clips: np.ndarray) -> torch.Tensor:
        """What the encoder makes of each view."""
        b, v = clips.shape[:2]
        pixels = torch.from_numpy(np.asarray(clips)).float().div(255).sub(0.45).div(0.225)
        pixels = pixels.flatten(0, 1).permute(0, 1, 4, 2, 3)
        with torch.no_grad():
            return self.encoder(pixels).last_hidden_state.mean(1).reshape(b, v, -1)

    def step(self, batch: Batch, vectors: torch.Tensor | None = None) -> float:
        """One update."""
        loss = self.loss(batch, vectors)
        self.optim.zero_grad()
        loss.backward()
        self.optim.step()
        return float(loss.detach())


class Ours:
    """The same weights in our model."""

    def __init__(self, other: Torch) -> None:
        self.blueprint = parameters.blueprint(MODEL)
        shapes = self.blueprint.shapes
        params = {n: np.asarray(x) for n, x in parameters.init(MODEL, jax.random.key(0)).items()}
        maps = timesformer.tensors(MODEL.tower, prefix="", ours="tower.")
        params |= mapping.to_ours(maps, other.seen.__getitem__, shapes=shapes)
        maps = text.tensors(MODEL.decoder, ours="decoder.")
        params |= mapping.to_ours(maps, other.weights.__getitem__, shapes=shapes)
        self.host = params
        one = Experiment(model=MODEL, optim=SETTING)
        tx = optim.build(SETTING, params, matrices=self.blueprint.matrices, steps=1000)
        trained = optim.trainable(SETTING, params)
        assert sum(x.size for x in trained.values()) == 5_255_362
        self.update = make_step(self.blueprint, tx, one)
        params = jax.tree.map(jnp.array, params)
        self.state = state.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init({n: params[n] for n in trained}),
            key=jax.random.key(0),
        )

    def step(self, batch: Batch) -> float:
        """One update."""
        self.state, metrics = self.update(self.state, jax.device_put(batch))
        jax.block_until_ready(self.state)
        return float(metrics["language.sum"] / metrics["language.weight"])


def make_batch(takes: int, views: int) -> Batch:
    rng = np.random.default_rng(0)
    mask = np.ones((takes, views), bool)
    clips = rng.integers(0, 256, (takes, views, 8, 224, 224, 3), np.uint8)
    index = np.full((takes, PROMPT), -1, np.int32)
    index[:, PROMPT - 8] = 0
    return Batch(
        prompt=Prompt(
            visual=Views(clips=clips, mask=mask),
            tokens=rng.integers(3, 49152, (takes, PROMPT)).astype(np.int32),
            visual_index=index,
            length=np.full(takes, PROMPT, np.int32),
        ),
        response=Response(
            tokens=rng.integers(3, 49152, (takes, ANSWER)).astype(np.int32),
            mask=np.ones((takes, ANSWER), bool),
            evidence=np.full((takes, ANSWER), -1, np.int32),
            spans=np.zeros((takes, 0, 2), np.float32),
            evidence_mask=np.zeros((takes, 0), bool),
        ),
    )


def _tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(x, np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--takes", type=int, default=1, help="a step")
    parser.add_argument("--views", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(CORES)
    batch = make_batch(options.takes, options.views)
    other = Torch()
    ours = Ours(other)
    other.prepare(ours.host)
    vectors = other.vectors(batch.prompt.visual.clips)
    features = ViewFeatures(vectors=vectors.numpy(), mask=batch.prompt.visual.mask)
    cached = dataclasses.replace(batch, prompt=dataclasses.replace(batch.prompt, visual=features))
    sides: dict[str, Callable[[], float]] = {
        "ours": lambda: ours.step(batch),
        "ours, kept features": lambda: ours.step(cached),
        "torch": lambda: other.step(batch),
        "torch, kept features": lambda: other.step(cached, vectors),
    }
    first = {"torch": float(other.loss(batch, vectors).detach()), "ours": ours.step(batch)}
    assert abs(first["ours"] - first["torch"]) < 1e-3, first
    print(f"losses agree: {first}", flush=True)
    for run in sides.values():
        run()  # compiles, warms up
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, run in sides.items():
            began, used = time.perf_counter(), time.process_time()
            run()
            seconds[name].append(time.perf_counter() - began)
            spent[name].append(time.process_time() - used)
        print({name: round(x[-1], 2) for name, x in spent.items()}, flush=True)
    write(seconds, spent, first, options)


def write(
    seconds: dict[str, list[float]],
    spent: dict[str, list[float]],
    first: dict[str, float],
    options: argparse.Namespace,
) -> None:
    clock = {name: statistics.median(x) for name, x in seconds.items()}
    middle = {name: statistics.median(x) for name, x in spent.items()}
    load = os.getloadavg()[0]
    facts = {
        "step": f"{options.takes} take(s) of {options.views} views, {PROMPT} + {ANSWER} tokens",
        "model": "TimeSformer-base, projector, SmolLM2-135M with LoRA; float32, random weights",
        "trained": "5,255,362 parameters, by AdamW",
        "first loss": f"{first['ours']:.5f} ours, {first['torch']:.5f} torch",
        "machine": f"{platform.machine()}, {CORES} of {os.cpu_count()} cores, load {load:.1f}",
        "figures": f"medians of {options.repeats} steps, all four in turns",
        "ratios": "of processor seconds, which other load disturbs least",
    }
    rows = {
        "without kept features over with, ours": middle["ours"] / middle["ours, kept features"],
        "torch over ours, whole step": middle["torch"] / middle["ours"],
        "torch over ours, kept features": (
            middle["torch, kept features"] / middle["ours, kept features"]
        ),
    }
    lines = ["# A training step of ProfVLM", "", *(f"- {key}: {x}" for key, x in facts.items())]
    lines += ["", "| step | processor seconds | by the clock |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {x:.2f} | {clock[name]:.2f} |" for name, x in middle.items()]
    lines += ["", "| ratio | |", "| --- | ---: |"]
    lines += [f"| {name} | {x:.2f} |" for name, x in rows.items()]
    table = "\n".join(lines) + "\n"
    print(table)
    record: dict[str, Any] = {"facts": facts, "processor": spent, "clock": seconds, "ratios": rows}
    (RESULTS / "profvlm_cost.md").write_text(table)
    (RESULTS / "profvlm_cost.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
