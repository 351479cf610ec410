"""Answers to a benchmark by a model that looks again, and what it looked at for each of them.

`conversations.jsonl` has {"question", "turns": [{"frames", "seconds", "text"}]} a line; the first
conversations are on a page beside it, with pictures.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tgvlm_jax import files
from tgvlm_jax.cli import session
from tgvlm_jax.report.rollouts import write_rollouts
from tgvlm_jax.schema import SamplingConfig
from tgvlm_jax.train import talks, transcript
from tgvlm_jax.train.episodes import Episode
from tgvlm_jax.types import Sample

CONVERSATIONS, PAGE = "conversations.jsonl", "conversations.html"
_PICTURED = 12  # conversations on the page


class Conversations:
    """Holds conversations, likeliest tokens all along, and writes down how each went."""

    def __init__(self, model: session.Model, folder: Path):
        self.model, self.folder, self._page = model, folder, []
        self._path = folder / CONVERSATIONS

    def answer(self, samples: Mapping[str, Sample]) -> list[str]:
        """What was said last about each sample; names are those of the questions."""
        if not samples:
            return []
        experiment = self.model.experiment
        asked, size = list(samples.values()), experiment.evaluation.batch_size
        # A batch that is short is filled up, so that nothing compiles twice.
        found = talks.play(
            self.model.params,
            [asked[i % len(asked)] for i in range(size)],
            experiment=experiment,
            chat=self.model.chat,
            sampling=SamplingConfig(),
            max_tokens=experiment.evaluation.max_tokens,
        )[: len(asked)]
        self._write(dict(zip(samples, found, strict=True)))
        return [one.texts[-1] for one in found]

    def _write(self, found: Mapping[str, Episode]) -> None:
        with files.disk_errors(self._path), self._path.open("a") as file:
            for name, one in found.items():
                file.write(json.dumps({"question": name, "turns": _turns(one)}) + "\n")
        room = max(0, _PICTURED - len(self._page))
        if not room:
            return
        told = [talks.told((one,), ((),)) for one in list(found.values())[:room]]
        self._page += [transcript.record(0, one) for one in told]
        page = self.folder / PAGE
        write_rollouts(page, self._page, metrics=[], title="looking again")


def _turns(one: Episode) -> Sequence[Mapping[str, Any]]:
    return [
        {
            "frames": list(before.frames),
            "seconds": np.round(one.sample.seconds[list(before.frames)], 3).tolist(),
            "text": text,
        }
        for before, text in zip(one.turns, one.texts, strict=False)
    ]
