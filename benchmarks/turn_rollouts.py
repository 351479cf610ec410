"""Conversations of three turns: a cache that grows, beside reading everything again in every turn.

    python benchmarks/turn_rollouts.py              # some minutes on two cores

A small decoder (random weights, and no token ends an answer) with eight conversations of 16 + 8 + 8
frames. Words stand for the frames' tokens, which cost a decoder the same; there is no tower, which
would have its frames read once in one way and up to three times in the other. Both ways are told
the same and take turns in one run. Writes benchmarks/results/turn_rollouts.*.
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
from tgvlm_jax.rollout import turns
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.rollout.turns import Limits
from tgvlm_jax.schema import DecoderConfig, ModelConfig, SamplingConfig
from tgvlm_jax.types import Prompt

WAYS = ("read again", "cache grows")
FRAMES, TURNS = (16, 8, 8), 3
WORDS = 64  # of text in every observation
WARM = SamplingConfig(temperature=1.0)
CONFIG = ModelConfig(
    tower=None,
    evidence=None,
    two_way_frames=False,
    decoder=DecoderConfig(
        vocab_size=8192, width=384, layers=8, heads=6, kv_heads=2, head_size=64, hidden=1024
    ),
)


def observation(seed: int, frames: int, each: int) -> Prompt:
    """One row: words, then `each` tokens for every frame. They stand for a tower's, as words do.

    A decoder computes the same for a visual token as for a word.
    """
    count = WORDS + frames * each
    ids = np.random.default_rng(seed).integers(1, CONFIG.decoder.vocab_size, count)
    return Prompt(
        visual=None,
        tokens=ids.astype(np.int32),
        visual_index=np.full(count, -1, np.int32),
        length=np.int32(count),
    )


def stacked(rows: list[Prompt]) -> Prompt:
    return jax.tree.map(lambda *x: np.stack(x), *rows)


class Ways:
    """Both ways of holding the same conversations."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.params = parameters.init(CONFIG, jax.random.key(0))
        self.blueprint = parameters.blueprint(CONFIG)
        each, rows = options.tokens_per_frame, options.prompts * options.samples
        self.first = stacked([observation(row, FRAMES[0], each) for row in range(options.prompts)])
        self.later = [
            [observation(100 * turn + row, frames, each) for row in range(rows)]
            for turn, frames in enumerate(FRAMES[1:], start=1)
        ]
        self.settings = {"blueprint": self.blueprint, "sampling": WARM}
        self.marks = {"end_id": -1, "pad_id": 0}

    def grows(self, key: jax.Array) -> np.ndarray:
        """What is said, [row, turn * tokens], with keys and values of all that was read kept."""
        blank = jax.tree.map(np.zeros_like, self.later[0][0])
        found = turns.converse(
            self.params,
            jax.device_put(self.first),
            lambda turn, said: self.later[turn] if turn < TURNS - 1 else [None] * len(said),
            limits=Limits(turns=TURNS, tokens=self.options.new),
            blank=blank,
            key=key,
            samples=self.options.samples,
            **self.settings,
            **self.marks,
        )
        own, tokens = np.asarray(found.own), np.asarray(found.text.tokens)
        return np.stack([row[mask] for row, mask in zip(tokens, own, strict=True)])

    def again(self, key: jax.Array) -> np.ndarray:
        """The same, each turn one long prompt that is read from its start."""
        said: list[np.ndarray] = []
        rows = self.options.prompts * self.options.samples
        for turn in range(TURNS):
            prompt, samples = self.first, self.options.samples
            if turn:
                prompt, samples = self._whole(said, turn), 1
            found = generate(
                self.params,
                jax.device_put(prompt),
                max_tokens=self.options.new,
                key=jax.random.fold_in(key, turn),
                samples=samples,
                **self.settings,
                **self.marks,
            )
            said.append(np.asarray(found.tokens))
            assert len(said[-1]) == rows
        return np.concatenate(said, axis=1)

    def _whole(self, said: list[np.ndarray], turn: int) -> Prompt:
        """All that was read and said so far, a row each."""
        samples = self.options.samples
        parts = [np.repeat(self.first.tokens, samples, axis=0)]
        for number in range(turn):
            parts += [said[number], np.stack([row.tokens for row in self.later[number]])]
        tokens = np.concatenate(parts, axis=1)
        return Prompt(
            visual=None,
            tokens=tokens,
            visual_index=np.full(tokens.shape, -1, np.int32),
            length=np.full(len(tokens), tokens.shape[1], np.int32),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--samples", type=int, default=4, help="conversations to each prompt")
    parser.add_argument("--tokens-per-frame", type=int, default=32)
    parser.add_argument("--new", type=int, default=32, help="tokens of an answer")
    options = parser.parse_args()
    ways = Ways(options)
    calls = dict(zip(WAYS, (ways.again, ways.grows), strict=True))
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(options.rounds + 1):  # the first only warms up
        key, said = jax.random.key(number), {}
        for way, call in calls.items():
            began = time.perf_counter()
            said[way] = call(key)
            spent = time.perf_counter() - began
            print(f"{way}: {spent:.2f} s", flush=True)
            if number:
                times[way].append(spent)
        same = np.mean(said[WAYS[0]] == said[WAYS[1]])
        # Sums in another order: a draw at the edge of two tokens may fall the other way.
        assert same > 0.9, f"only {same:.0%} of the tokens are the same"
    write(times, options)


def write(times: dict[str, list[float]], options: argparse.Namespace) -> None:
    each, rows = options.tokens_per_frame, options.prompts * options.samples
    read = [WORDS + frames * each for frames in FRAMES]
    tokens = rows * TURNS * options.new
    facts = {
        "model": "decoder of 8 layers, 384 wide, float32, random weights; no tower in the clock",
        "conversations": f"{rows}, {options.samples} to a prompt, {TURNS} turns of {options.new} "
        f"tokens, after observations of {read} tokens ({FRAMES} frames of {each})",
        "calls": f"{options.rounds} of each, in turns, after one to warm up; medians (minima)",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    base = statistics.median(times[WAYS[0]])
    lines = ["# Conversations of three turns", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += ["", "| way | seconds | tokens a second | ratio |", "| --- | ---: | ---: | ---: |"]
    for way, spent in times.items():
        middle = statistics.median(spent)
        lines.append(
            f"| {way} | {middle:.2f} ({min(spent):.2f}) | {tokens / middle:.0f} | "
            f"{base / middle:.2f} |"
        )
    text = "\n".join(lines) + "\n"
    publish("turn_rollouts", text, {"facts": facts, "seconds": times})


if __name__ == "__main__":
    main()
