"""Conversations that a script leads, for weights that cannot hold one yet."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.data.chat import Chat
from tgvlm_jax.models.parameters import Blueprint
from tgvlm_jax.objectives import grpo
from tgvlm_jax.objectives.ppo import TurnBatch
from tgvlm_jax.rollout import retrieval_prompts, turns
from tgvlm_jax.schema import Experiment, ImitateConfig
from tgvlm_jax.train import distributed, talks, turn_rollouts
from tgvlm_jax.train import episodes as episodes_lib
from tgvlm_jax.train.episodes import Episode
from tgvlm_jax.train.rollouts import Rolled
from tgvlm_jax.train.state import TrainState
from tgvlm_jax.types import Pools

_SCRIPT = 7  # of the streams of random numbers, beside those of samples


class Demonstrations:
    """Conversations that a script leads, to be imitated."""

    def __init__(
        self, experiment: Experiment, *, blueprint: Blueprint, chat: Chat, mesh: Mesh | None
    ):
        config = experiment.objective
        assert isinstance(config, ImitateConfig)
        turn_rollouts.check(experiment)
        self.config, self.seed = config, experiment.seed
        self.batch_size = experiment.data.batch_size
        self.talks = talks.Talks(experiment, blueprint=blueprint, chat=chat, mesh=mesh)

    def close(self) -> None:
        """Nothing is open."""

    def get_state(self) -> dict[str, Any]:
        """Nothing is kept from step to step."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing is kept from step to step."""

    def __call__(self, state: TrainState, pools: Pools) -> Rolled:
        """Scripted conversations; what is drawn follows from the seed and the step."""
        played, prompt = self.talks.begin(state.params, pools.samples, group=1)
        rows = mesh_lib.own_rows(self.talks.mesh, self.batch_size)[: len(played.episodes)]
        script = [
            self._lines(one, np.random.default_rng([self.seed, _SCRIPT, int(state.step), row]))
            for row, one in zip(rows, played.episodes, strict=True)
        ]
        found = turns.recite(
            state.params,
            [[self.talks.prompts.ids(line) for line in lines] for lines in script],
            played.reply,
            **self.talks.settings(played, self.config.max_tokens),
        )
        there = np.asarray([sample.readable for sample in pools.samples])
        own = found.own & mesh_lib.put_batch(there, self.talks.mesh)[:, None]
        text, own, chances = jax.tree.map(
            lambda x: grpo.grouped(x, 1), (found.text, own, found.log_probs)
        )
        return Rolled(
            batch=TurnBatch(prompt=prompt, text=text, own=own, log_probs=chances),
            metrics=distributed.mean(episodes_lib.summary(played.episodes)),
            told=tuple(talks.told((one,), ((),)) for one in played.episodes),
            failures=(),
        )

    def _lines(self, episode: Episode, rng: np.random.Generator) -> Sequence[str]:
        """A look, to where the answer is or to anywhere, and the answer."""
        task, answer = episode.asked.task, episode.sample.answer
        if self.talks.config.turns < 2:
            return retrieval_prompts.script(task, look=None, answer=answer)
        shown = sorted(set(episode.turns[0].frames))
        place = int(rng.integers(max(1, len(shown) - 1)))
        if task.relevant and rng.random() < self.config.right:
            # The stretch between two frames shown that the middle of what matters lies in.
            middle = sorted(task.relevant)[len(task.relevant) // 2]
            place = max(0, int(np.searchsorted(shown, middle, side="right")) - 1)
        place = min(place, max(0, len(shown) - 2))
        look = shown[place], shown[min(place + 1, len(shown) - 1)]
        return retrieval_prompts.script(task, look=look, answer=answer)
