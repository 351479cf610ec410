"""Conversations of one model about pools of frames, for training and to be judged."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.data.chat import Chat
from tgvlm_jax.data.turn_prompts import TurnPrompts
from tgvlm_jax.models import parameters
from tgvlm_jax.models.parameters import Blueprint, Params
from tgvlm_jax.rollout import turns
from tgvlm_jax.rollout.turns import Limits
from tgvlm_jax.schema import Experiment, SamplingConfig
from tgvlm_jax.train import optim
from tgvlm_jax.train.episodes import Episode, Episodes
from tgvlm_jax.train.rollouts import Told, ToldTurn
from tgvlm_jax.types import Prompt, Sample


class Talks:
    """Conversations of one model about pools of frames."""

    def __init__(
        self, experiment: Experiment, *, blueprint: Blueprint, chat: Chat, mesh: Mesh | None
    ):
        """Raises InputError where the chat or the model is not for several turns."""
        assert experiment.data.turns is not None, "checked"
        self.blueprint, self.chat, self.mesh = blueprint, chat, mesh
        self.config = experiment.data.turns
        self.prompts = TurnPrompts(chat, experiment.data, experiment.model)
        trained = optim.trainable(experiment.optim, blueprint.shapes)
        self.sees_once = not parameters.reach_tower(
            name.removeprefix("critic.") for name in trained
        )

    def begin(
        self, params: Params, samples: Sequence[Sample], *, group: int
    ) -> tuple[Episodes, Prompt]:
        """Episodes that have just begun, and their first prompts on the devices."""
        found = Episodes(samples, group=group, prompts=self.prompts, config=self.config)
        prompt = mesh_lib.put_batch(found.first(), self.mesh)
        if self.sees_once:
            prompt = turns.see(params, prompt, blueprint=self.blueprint)
        return found, prompt

    def settings(self, found: Episodes, tokens: int) -> dict[str, Any]:
        """What `turns.converse` and `turns.recite` both want."""
        return {
            "blueprint": self.blueprint,
            "limits": Limits(turns=self.config.turns, tokens=tokens),
            "blank": found.blank(),
            "pad_id": self.chat.pad_id,
            "keep_features": self.sees_once,
            "mesh": self.mesh,
        }


def play(
    params: Params,
    samples: Sequence[Sample],
    *,
    experiment: Experiment,
    chat: Chat,
    sampling: SamplingConfig,
    key: jax.Array | None = None,
    max_tokens: int,
) -> list[Episode]:
    """One conversation about each question, to be judged; all of one batch, for one host.

    Raises:
        InputError: what `TurnPrompts` and `turns.converse` refuse.
    """
    blueprint = parameters.blueprint(experiment.model)
    talks = Talks(experiment, blueprint=blueprint, chat=chat, mesh=None)
    found, prompt = talks.begin(params, samples, group=1)
    turns.converse(
        params,
        prompt,
        found.reply,
        end_id=chat.end_id,
        sampling=sampling,
        key=key,
        **talks.settings(found, max_tokens),
    )
    return found.episodes


def told(group: Sequence[Episode], terms: Sequence[Sequence[dict[str, float]]]) -> Told:
    """The conversations about one question, for people; `terms` are what each turn earned.

    Frames are those shown before each answer.
    """
    rows = []
    for one, earned in zip(group, terms, strict=True):
        each = earned or [{}] * len(one.texts)
        rows.append(
            tuple(
                ToldTurn(frames=before.frames, text=text, terms=dict(got))
                for before, text, got in zip(one.turns, one.texts, each, strict=False)
            )
        )
    return Told(
        sample=group[0].sample,
        texts=tuple(" ".join(one.texts) for one in group),
        rewards=tuple(float(sum(sum(t.terms.values()) for t in row)) for row in rows),
        turns=tuple(rows),
    )
