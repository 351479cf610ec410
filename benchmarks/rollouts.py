"""Eight sampled answers to one long prompt: a shared prefix, a prefix each, and transformers.

    python benchmarks/rollouts.py                   # some ten minutes on two cores

SmolLM2-135M's shape in float32 with random weights, prompts as long as those of a video, answers of
a fixed length at temperature 1 (random weights never end one). All ways take turns in one run;
torch runs in a process of its own. Writes benchmarks/results/rollouts.*.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time

import numpy as np
from published import publish

GROUP, NEW = 8, 64
WAYS = ("transformers", "a prefix each", "shared prefix")


def ours(lengths: list[int]):
    """Functions that time one rollout, and what XLA sets aside for it, by (way, prompt length)."""
    import jax

    from tgvlm_jax.models import parameters
    from tgvlm_jax.rollout.sampler import generate
    from tgvlm_jax.schema import ModelConfig, SamplingConfig, presets
    from tgvlm_jax.types import Prompt

    config = ModelConfig(decoder=presets.SMOLLM2_135M, tower=None, evidence=None)
    params = parameters.init(config, jax.random.key(0))
    settings = {
        "blueprint": parameters.blueprint(config),
        "max_tokens": NEW,
        "sampling": SamplingConfig(temperature=1.0),
    }
    traced = {"end_id": -1, "pad_id": 0, "key": jax.random.key(1)}

    def call(way: str, length: int):
        rows, samples = (1, GROUP) if way == "shared prefix" else (GROUP, 1)
        ids = np.random.default_rng(0).integers(1, 1000, (1, length)).astype(np.int32)
        prompt = Prompt(
            visual=None,
            tokens=np.repeat(ids, rows, axis=0),
            visual_index=np.full((rows, length), -1, np.int32),
            length=np.full(rows, length, np.int32),
        )
        made = generate.lower(params, prompt, samples=samples, **settings, **traced).compile()

        def run() -> float:
            began = time.perf_counter()
            found = jax.block_until_ready(made(params, prompt, **traced))
            assert found.mask.sum() == GROUP * NEW
            return time.perf_counter() - began

        return run, made.memory_analysis().temp_size_in_bytes

    return {(way, length): call(way, length) for way in WAYS[1:] for length in lengths}


def torch_side() -> None:
    """Reads prompt lengths, writes seconds; a line each."""
    import torch
    import transformers

    from tgvlm_jax.schema import presets

    spec = presets.SMOLLM2_135M
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.width,
        intermediate_size=spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    model = transformers.LlamaForCausalLM(config).eval()
    for line in sys.stdin:
        ids = torch.randint(1, 1000, (1, int(line)))
        began = time.perf_counter()
        with torch.inference_mode():
            found = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                num_return_sequences=GROUP,
                min_new_tokens=NEW,
                max_new_tokens=NEW,
                pad_token_id=0,
            )
        assert found.shape == (GROUP, int(line) + NEW)
        print(f"@{time.perf_counter() - began}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, nargs="+", default=[512, 2048], help="tokens")
    parser.add_argument("--torch", action="store_true", help="be the other side")
    options = parser.parse_args()
    if options.torch:
        torch_side()
        return
    command = [sys.executable, __file__, "--torch"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    calls = ours(options.prompts)
    times: dict[str, dict[str, list[float]]] = {}
    for length in options.prompts:
        rows = times[str(length)] = {way: [] for way in WAYS}
        for number in range(options.rounds + 1):  # the first only warms up
            worker.stdin.write(f"{length}\n")
            worker.stdin.flush()
            spent = {"transformers": float(worker.stdout.readline().removeprefix("@"))}
            spent |= {way: calls[way, length][0]() for way in WAYS[1:]}
            print(length, {way: round(value, 2) for way, value in spent.items()}, flush=True)
            for way, value in spent.items() if number else ():
                rows[way].append(value)
    worker.stdin.close()
    memory = {f"{way}, {length}": size for (way, length), (_, size) in calls.items()}
    write(times, memory, options)


def write(times: dict, memory: dict[str, int], options: argparse.Namespace) -> None:
    facts = {
        "model": "SmolLM2-135M's shape, float32, random weights",
        "answers": f"{GROUP} of {NEW} tokens to one prompt, temperature 1",
        "calls": f"{options.rounds} of each, in turns, after one to warm up; medians (minima)",
        "memory": "what XLA sets aside beside the weights: keys and values, activations",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    lines = ["# Rollouts: eight answers to one prompt", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += [
        "",
        "| prompt | way | seconds | tokens a second | transformers / it | memory |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for length, rows in times.items():
        base = statistics.median(rows["transformers"])
        for way, spent in rows.items():
            middle = statistics.median(spent)
            size = memory.get(f"{way}, {length}")
            lines.append(
                f"| {length} | {way} | {middle:.2f} ({min(spent):.2f}) | {GROUP * NEW / middle:.0f}"
                f" | {base / middle:.2f} | {f'{size / 2**20:.0f} MiB' if size else ''} |"
            )
    text = "\n".join(lines) + "\n"
    publish("rollouts", text, {"facts": facts, "seconds": times, "bytes": memory})


if __name__ == "__main__":
    main()
