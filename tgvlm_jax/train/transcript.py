"""Sampled answers as a person reads them: a line of JSON for each group, and a page.

`rollouts.jsonl` has {"step", "kind", "video", "question", "truth", "answers": [{"text", "reward"}],
"failures"} of the first prompt of a batch, every so many steps. Answers of several turns have
"turns", too, [{"frames", "text", "terms"}], and the line has "pictures" of these frames, JPEG in
base64 by their number.
"""

import base64
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import simplejpeg

from tgvlm_jax import files
from tgvlm_jax.data.augment import resize
from tgvlm_jax.train.metrics import rewind
from tgvlm_jax.train.rollouts import Rolled, Told

NAME = "rollouts.jsonl"
_TALL = 72  # pixels of a picture


class Transcript:
    """Appends to `rollouts.jsonl`; lines of steps that are run again are dropped first."""

    def __init__(self, workdir: Path, *, every: int, resume_step: int):
        """Writes at step 1 and then every so many steps, on the first host only."""
        self.path, self.every = workdir / NAME, every
        self.writes = jax.process_index() == 0
        self.rewind(resume_step)

    def rewind(self, step: int) -> None:
        """Drops what was written about later steps."""
        if self.writes:
            rewind(self.path, step=step)

    def add(self, step: int, rolled: Rolled) -> None:
        """Writes down the first group of a step, if it is that step's turn or a reward failed."""
        if not self.writes or not (step == 1 or step % self.every == 0 or rolled.failures):
            return
        line = record(step, rolled.told[0], failures=rolled.failures)
        with files.disk_errors(self.path), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def record(step: int, told: Told, *, failures: Sequence[str] = ()) -> dict[str, Any]:
    """One group as a line of the file has it."""
    answers: list[dict[str, Any]] = [
        {"text": text, "reward": reward if math.isfinite(reward) else None}
        for text, reward in zip(told.texts, told.rewards, strict=True)
    ]
    line = {
        "step": step,
        "kind": told.sample.kind,
        "video": told.sample.video,
        "question": told.sample.question,
        "truth": told.sample.answer,
        "answers": answers,
        "failures": list(failures),
    }
    if not told.turns:
        return line
    for answer, turns in zip(answers, told.turns, strict=True):
        answer["turns"] = [
            {"frames": list(one.frames), "text": one.text, "terms": one.terms} for one in turns
        ]
    return line | {"pictures": _pictures(told)}


def _pictures(told: Told) -> dict[str, str]:
    """Every frame that was shown, small."""
    pool = told.sample.frames
    shown = sorted({frame for turns in told.turns for turn in turns for frame in turn.frames})
    if not pool.size or not shown:
        return {}
    wide = max(1, round(_TALL * pool.shape[2] / pool.shape[1]))
    small = np.ascontiguousarray(resize(pool[shown], (_TALL, wide)))
    jpegs = [simplejpeg.encode_jpeg(one, quality=80) for one in small]
    return {
        str(frame): base64.b64encode(jpeg).decode()
        for frame, jpeg in zip(shown, jpegs, strict=True)
    }
