"""One of our own models as a language model: text in, text out, nothing is shown to it."""

import contextlib
import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from tgvlm_jax.data.chat import Chat, open_chat
from tgvlm_jax.data.collate import collate
from tgvlm_jax.judges.judge import Reply
from tgvlm_jax.models import parameters
from tgvlm_jax.models.parameters import Params
from tgvlm_jax.rollout.sampler import generate
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import checkpoint
from tgvlm_jax.types import InputError, Sample

BATCH = 8


class LocalModel:
    """Completes prompts in its own chat template, the likeliest tokens; from any thread."""

    def __init__(self, experiment: Experiment, params: Params, *, max_tokens: int):
        """`max_tokens` is the longest reply."""
        # What its questions were followed by in training is none of a judge's business.
        data = dataclasses.replace(experiment.data, instruction="")
        self.experiment = dataclasses.replace(experiment, data=data)
        self.chat: Chat = open_chat(data, experiment.model)
        self.params, self.max_tokens = params, max_tokens
        self._lock = threading.Lock()

    def __call__(self, prompts: Sequence[str]) -> list[Reply]:
        """A reply to each prompt; one that is too long for the model fails alone."""
        found = []
        for start in range(0, len(prompts), BATCH):
            found += self._batch(list(prompts[start : start + BATCH]))
        return found

    def _batch(self, prompts: list[str]) -> list[Reply]:
        try:
            return self._generate(prompts)
        except InputError as error:
            if len(prompts) == 1:
                return [Reply(text="", failure=str(error))]
            return [reply for prompt in prompts for reply in self._batch([prompt])]

    def _generate(self, prompts: list[str]) -> list[Reply]:
        samples = [self._sample(prompt) for prompt in prompts]
        samples += samples[-1:] * (BATCH - len(samples))  # so that it compiles once
        encoded = [self.chat.encode(sample) for sample in samples]
        data, pad = self.experiment.data, self.chat.pad_id
        prompt = collate(samples, encoded, config=data, pad_id=pad).prompt
        with self._lock:
            found = generate(
                self.params,
                jax.device_put(prompt),
                blueprint=parameters.blueprint(self.experiment.model),
                max_tokens=self.max_tokens,
                evidence_id=self.chat.evidence_id,
                end_id=self.chat.end_id,
                pad_id=pad,
            )
        tokens = np.asarray(found.tokens)[: len(prompts)]
        return [Reply(text=self.chat.decode(row.tolist())) for row in tokens]

    def _sample(self, prompt: str) -> Sample:
        return Sample(
            frames=np.zeros((0, *(self.experiment.model.frame_size or (0, 0)), 3), np.uint8),
            seconds=np.zeros(0),
            duration=0.0,
            question=prompt,
            answer="",
            spans=np.zeros((0, 2)),
            video="",
            kind="text",
        )


def open_local(workdir: Path, *, max_tokens: int) -> LocalModel:
    """The newest checkpoint of a run.

    Raises:
        InputError: nothing is there, it is damaged, or this is one of several hosts.
    """
    if jax.process_count() > 1:
        raise InputError("a local judge needs a single host; serve it, and ask it over HTTP")
    if not workdir.is_dir():
        raise InputError(f"{workdir}: no such folder; give the --workdir of a `tgvlm train` run")
    experiment = checkpoint.load_experiment(workdir)
    with contextlib.closing(checkpoint.Checkpoints(workdir, read_only=True)) as store:
        params = store.restore_params(experiment.model, mesh=None)
    return LocalModel(experiment, params, max_tokens=max_tokens)
