"""Sampled answers as a person reads them: a line of JSON for each group, and a page.

`rollouts.jsonl` has {"step", "kind", "video", "question", "truth", "answers": [{"text", "reward"}],
"failures"} of the first prompt of a batch, every so many steps.
"""

import json
import math
from pathlib import Path

import jax

from tgvlm_jax import files
from tgvlm_jax.train.metrics import rewind
from tgvlm_jax.train.rollouts import Rolled

NAME = "rollouts.jsonl"


class Transcript:
    """Appends to `rollouts.jsonl`; lines of steps that are run again are dropped first."""

    def __init__(self, workdir: Path, *, every: int, resume_step: int):
        """Writes at step 1 and then every so many steps, on the first host only."""
        self.path, self.every = workdir / NAME, every
        self.writes = jax.process_index() == 0
        if self.writes:
            rewind(self.path, step=resume_step)

    def add(self, step: int, rolled: Rolled) -> None:
        """Writes down the first group of a step, if it is that step's turn or a reward failed."""
        if not self.writes or not (step == 1 or step % self.every == 0 or rolled.failures):
            return
        told = rolled.told[0]
        line = {
            "step": step,
            "kind": told.sample.kind,
            "video": told.sample.video,
            "question": told.sample.question,
            "truth": told.sample.answer,
            "answers": [
                {"text": text, "reward": reward if math.isfinite(reward) else None}
                for text, reward in zip(told.texts, told.rewards, strict=True)
            ],
            "failures": list(rolled.failures),
        }
        with files.disk_errors(self.path), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
