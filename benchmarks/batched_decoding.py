"""Evidence decoding of eight videos at once, against the same model asked one by one.

    python benchmarks/batched_decoding.py            # about four minutes on two cores

The decoder is of SmolLM2-135M's shape with evidence heads, the videos are ragged, and answers have
a fixed number of tokens (random weights never end one). Both ways run the same jitted loop, in the
same buckets, in turn; their tokens are compared. Writes benchmarks/results/batched_decoding.*.
"""

import argparse
import os
import platform
import statistics
import time

import jax
import numpy as np
from published import publish

from tgvlm_jax.models import parameters
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.schema import EvidenceConfig, ModelConfig, presets
from tgvlm_jax.types import Frames, Prompt

MODEL = ModelConfig(decoder=presets.SMOLLM2_135M, evidence=EvidenceConfig(bank_layer=6))
EVIDENCE, PAD = 7, 0
VIDEOS = 8


def prompts(frames: int, question: int) -> Prompt:
    """Ragged videos and questions, padded to one bucket."""
    rng = np.random.default_rng(0)
    counts = rng.integers(frames // 2, frames + 1, VIDEOS)
    lengths = counts + rng.integers(question // 2, question + 1, VIDEOS)
    slots = np.arange(frames + question)
    height, width = MODEL.frame_size
    pixels = rng.integers(0, 256, (VIDEOS, frames, height, width, 3), np.uint8)
    words = rng.integers(8, 1000, (VIDEOS, frames + question))
    return Prompt(
        visual=Frames(pixels=pixels, mask=np.arange(frames) < counts[:, None]),
        tokens=np.where(slots < lengths[:, None], words, PAD).astype(np.int32),
        visual_index=np.where(slots < counts[:, None], slots, -1).astype(np.int32),
        length=lengths.astype(np.int32),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="both ways in turn")
    parser.add_argument("--frames", type=int, default=64, help="of the longest video")
    parser.add_argument("--question", type=int, default=32, help="tokens of the longest")
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 128], help="of an answer")
    options = parser.parse_args()
    blueprint = parameters.blueprint(MODEL)
    params = parameters.init(MODEL, jax.random.key(0))
    whole = jax.device_put(prompts(options.frames, options.question))
    single = [jax.tree.map(lambda x, i=i: x[i : i + 1], whole) for i in range(VIDEOS)]

    rows = []
    for count in options.tokens:
        settings = {"blueprint": blueprint, "max_tokens": count, "end_id": -1, "pad_id": PAD}

        def ask(prompt, settings=settings):
            return jax.block_until_ready(
                generate(params, prompt, evidence_id=EVIDENCE, **settings).tokens
            )

        together = ask(whole)
        apart = np.concatenate([ask(one) for one in single])
        batched, alone = [], []
        for number in range(options.rounds):
            print(f"{count} tokens, round {number + 1} of {options.rounds}", flush=True)
            began = time.perf_counter()
            ask(whole)
            middle = time.perf_counter()
            for one in single:
                ask(one)
            batched.append(middle - began)
            alone.append(time.perf_counter() - middle)
        rows.append(
            {
                "tokens": count,
                "one_by_one": statistics.median(alone),
                "batched": statistics.median(batched),
                "ratio": statistics.median(a / b for a, b in zip(alone, batched, strict=True)),
                "same": float(np.mean(np.asarray(together) == apart)),
            }
        )
    _write(rows, options)


def _write(rows: list[dict[str, float]], options: argparse.Namespace) -> None:
    facts = {
        "model": "random weights, decoder of SmolLM2-135M's shape in float32, evidence heads",
        "videos": f"{VIDEOS}, of {options.frames // 2} to {options.frames} frames",
        "both": f"the same jitted loop, in turn, median of {options.rounds} rounds",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores,"
        f" load {os.getloadavg()[0]:.1f} at the end",
    }
    lines = ["# Evidence decoding, eight videos at once", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += ["", "| tokens an answer | one by one, s | at once, s | ratio | same tokens |"]
    lines += ["| ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {row['tokens']} | {row['one_by_one']:.2f} | {row['batched']:.2f}"
        f" | {row['ratio']:.1f} | {row['same']:.1%} |"
        for row in rows
    ]
    text = "\n".join(lines) + "\n"
    publish("batched_decoding", text, {"facts": facts, "rows": rows})


if __name__ == "__main__":
    main()
