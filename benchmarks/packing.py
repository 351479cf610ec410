"""Packed rows beside rows of one sample: how much of them is padding, and how long a step takes.

    python benchmarks/packing.py                    # about ten minutes on two cores

Clips of 4 to 32 frames in three shapes, with answers of 5 to 400 tokens (log-normal, median 37),
shown to a Qwen3-VL twin with random weights. The same samples a step, with a row each and several
to a row; whole training steps, in turn, after every program is compiled. How many programs a longer
run would compile is counted from plans alone, which need no pixels. Scores are XLA's products but
on a TPU, so all pairs of a row are computed; there the kernels leave out what nobody sees.

Prints a table and writes benchmarks/results/packing.*.
"""

import argparse
import dataclasses
import os
import platform
import statistics
import time
from typing import Any

import jax
import numpy as np
from published import publish

from tgvlm_jax.cli import session
from tgvlm_jax.data import packing
from tgvlm_jax.data.chat import Chat, open_chat
from tgvlm_jax.data.collate import collate
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import DataConfig, Experiment, ModelConfig, presets
from tgvlm_jax.train import optim, state
from tgvlm_jax.train.step import make_step
from tgvlm_jax.types import Batch, Sample

SIZES = ((48, 64), (64, 48), (40, 40))  # pixels; tokens of 8 x 8 of them
DATA = DataConfig(
    template="qwen3",
    frames=(32,),
    min_pixels=40 * 40,
    max_pixels=48 * 64,
    prompt_tokens=1008,  # of which the longest sample has all but ten
    patch_slots=192,
)


def model() -> ModelConfig:
    """Every part of Qwen3-VL, and a decoder wide enough that products are most of its work."""
    tiny = presets.QWEN3_VL_TINY
    assert tiny.tower is not None
    sizes = {"width": 512, "heads": 8, "kv_heads": 4, "head_size": 32, "hidden": 2048}
    sections = dataclasses.replace(tiny.decoder.rope, sections=(8, 4, 4))
    return dataclasses.replace(
        tiny,
        tower=dataclasses.replace(tiny.tower, out_width=sizes["width"]),
        decoder=dataclasses.replace(tiny.decoder, rope=sections, layers=2, **sizes),
    )


def drawn(seed: int, count: int, chat: Chat, *, pixels: bool = True) -> list[packing.Pair]:
    """The samples of a step; without pixels only their shapes are right."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        frames, size = int(rng.integers(4, 33)), SIZES[rng.integers(len(SIZES))]
        answer = int(np.clip(np.exp(rng.normal(3.6, 1.0)), 5, 400))
        words = "and then " * int(rng.integers(1, 12))
        shape = (frames, *size, 3)
        shown = (
            rng.integers(0, 256, shape, np.uint8) if pixels else np.broadcast_to(np.uint8(0), shape)
        )
        sample = Sample(
            frames=shown,
            seconds=np.arange(frames) / 2,
            duration=frames / 2,
            question=f"What happens first, {words}what?",
            answer="",
            spans=np.zeros((0, 2)),
            video="made",
            kind="made",
        )
        one = chat.encode(sample, pixels=pixels)
        response = rng.integers(100, 200, answer).astype(np.int32)
        pairs.append((sample, dataclasses.replace(one, response=response)))
    return pairs


def config_of(samples: int, pack: int) -> DataConfig:
    return dataclasses.replace(DATA, batch_size=samples // pack, pack=pack)


def made(pairs: list[packing.Pair], config: DataConfig, pad_id: int) -> Batch:
    """The batch of a step as a run makes it."""
    if config.pack == 1:
        return collate(*zip(*pairs, strict=True), config=config, pad_id=pad_id)
    planned = packing.plan(pairs, config)
    rows = [[pairs[i] for i in row] for row in planned.rows]
    return packing.collate(rows, planned, config=config, pad_id=pad_id)


def filled(batch: Batch) -> dict[str, float]:
    """Parts of a batch that are no padding."""
    prompt, response = batch.prompt, batch.response
    tokens = float(prompt.length.sum() + response.mask.sum())
    return {
        "tokens": tokens / (prompt.tokens.size + response.tokens.size),
        "patches": float((prompt.visual.frames >= 0).mean()),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """Steps of so many samples, packed into rows that are padded to multiples of `buckets`."""

    samples: int
    pack: int
    buckets: tuple[int, int, int] = (16, 16, 8)

    def count(self, steps: int, chat: Chat) -> dict[str, Any]:
        """How many shapes so many steps have, and how much of their tokens is no padding."""
        prompt, response, visual = self.buckets
        config = dataclasses.replace(
            config_of(self.samples, self.pack),
            prompt_bucket=prompt,
            response_bucket=response,
            visual_bucket=visual,
        )
        found, there, whole = set(), 0, 0
        for seed in range(steps):
            pairs = drawn(seed, self.samples, chat, pixels=False)
            one = packing.plan(pairs, config)
            found.add((one.prompt, one.response, one.visual))
            there += sum(len(each.prompt) + len(each.response) for _, each in pairs)
            whole += config.batch_size * (one.prompt + one.response)
        about = dataclasses.asdict(self)
        return about | {"steps": steps, "programs": len(found), "tokens": there / whole}


COARSE = (1024, 512, 32)
SHAPES = (
    *(Shapes(samples=16, pack=pack) for pack in (4, 8)),
    *(Shapes(samples=16, pack=pack, buckets=COARSE) for pack in (4, 8)),
    Shapes(samples=128, pack=8),
    Shapes(samples=128, pack=8, buckets=COARSE),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=16, help="a step")
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--steps", type=int, default=3, help="different ones that are timed")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--planned", type=int, default=200, help="steps whose shapes are counted")
    options = parser.parse_args()
    session.prepare_jax()
    chat = open_chat(DATA, model())
    steps = [drawn(seed, options.samples, chat) for seed in range(options.steps)]
    ways = {}
    for pack in options.packs:
        config = config_of(options.samples, pack)
        batches = [jax.device_put(made(pairs, config, chat.pad_id)) for pairs in steps]
        ways[pack] = Way(Experiment(model=model(), data=config), batches)
    for _ in range(options.rounds):
        for number in range(options.steps):
            for way in ways.values():
                way.time(number)
    rows = []
    for pack, way in ways.items():
        parts = [filled(batch) for batch in way.batches]
        rows.append(
            {
                "pack": pack,
                **{name: statistics.mean(part[name] for part in parts) for name in parts[0]},
                "seconds": statistics.median(way.seconds),
                "cpu": statistics.median(way.cpu),
                "ratio": statistics.median(
                    a / b for a, b in zip(ways[options.packs[0]].seconds, way.seconds, strict=True)
                ),
                "loss": way.loss,
            }
        )
    write(rows, [one.count(options.planned, chat) for one in SHAPES], options)


class Way:
    """A training step on the same samples, packed one way."""

    def __init__(self, experiment: Experiment, batches: list[Batch]):
        """Compiles what there is to compile."""
        blueprint = parameters.blueprint(experiment.model)
        tx = optim.build(
            experiment.optim,
            jax.eval_shape(lambda: parameters.init(experiment.model, jax.random.key(0))),
            matrices=blueprint.matrices,
            steps=1000,
        )
        self.batches, self.seconds, self.cpu = batches, [], []
        self.step = make_step(blueprint, tx, experiment)
        self.state = jax.jit(lambda: state.create(experiment, tx))()
        self.loss = self._run(0)
        for number in range(1, len(batches)):
            self._run(number)

    def _run(self, number: int) -> float:
        self.state, metrics = self.step(self.state, self.batches[number])
        return float(metrics["language.sum"] / metrics["language.weight"])

    def time(self, number: int) -> None:
        """One more step."""
        wall, cpu = time.perf_counter(), time.process_time()
        self._run(number)
        self.seconds.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


def write(
    rows: list[dict[str, float]], shapes: list[dict[str, Any]], options: argparse.Namespace
) -> None:
    device = jax.devices()[0]
    facts = {
        "model": "a Qwen3-VL twin with random weights, decoder of 2 layers, 512 wide, float32",
        "samples": f"{options.samples} a step: clips of 4 to 32 frames of {len(SIZES)} shapes,"
        " answers of 5 to 400 tokens",
        "step": f"forward, backward and AdamW, in turn; median of {options.steps} steps, each"
        f" {options.rounds} times; the ratio is the median of pairs",
        "loss": "of the first step, by random weights: the same samples, so the same number",
        "buckets": "data.prompt_bucket, data.response_bucket, data.visual_bucket: the defaults,"
        f" or {', '.join(map(str, COARSE))}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device.device_kind},"
        f" load {os.getloadavg()[0]:.1f} at the end",
    }
    lines = ["# Several samples to a row", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += [
        "",
        "| data.pack | tokens filled | patches filled | step, s | CPU, s | times as fast |",
    ]
    lines[-1] += " loss |"
    lines += ["| ---: " * 7 + "|"]
    lines += [
        f"| {row['pack']} | {row['tokens']:.1%} | {row['patches']:.1%} | {row['seconds']:.2f}"
        f" | {row['cpu']:.2f} | {row['ratio']:.2f} | {row['loss']:.5f} |"
        for row in rows
    ]
    lines += [
        "",
        "Programs that a run compiles, one for each shape of its steps (from plans alone):",
    ]
    lines += ["", "| samples a step | data.pack | buckets | steps | programs | tokens filled |"]
    lines += ["| ---: " * 6 + "|"]
    lines += [
        f"| {one['samples']} | {one['pack']} | {', '.join(map(str, one['buckets']))}"
        f" | {one['steps']} | {one['programs']} | {one['tokens']:.1%} |"
        for one in shapes
    ]
    text = "\n".join(lines) + "\n"
    publish("packing", text, {"facts": facts, "rows": rows, "shapes": shapes})


if __name__ == "__main__":
    main()
