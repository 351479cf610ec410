"""Looking again at videos: the host's side of conversations about pools of frames (Video-MTR 1).

Rules are those of `rollout/retrieval.py`, texts of `rollout/retrieval_prompts.py`, arrays of
`data/turn_prompts.py`. What comes out is what happened, for rewards, metrics and people.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from tgvlm_jax.data.frame_pool import relevant
from tgvlm_jax.data.turn_prompts import TurnPrompts
from tgvlm_jax.rewards import videomtr
from tgvlm_jax.rollout import retrieval, retrieval_prompts
from tgvlm_jax.rollout.retrieval import Budget, Task, Turn
from tgvlm_jax.rollout.retrieval_prompts import Asked
from tgvlm_jax.schema import TurnsConfig
from tgvlm_jax.types import Prompt, Sample


def budget(config: TurnsConfig) -> Budget:
    """The frames and turns that a config allows."""
    return Budget(first=config.first, each=config.each, turns=config.turns)


def task(sample: Sample) -> Task:
    """What a sample asks; its kind is that of the answer, up to a stroke."""
    matters = relevant(sample.spans, sample.seconds) if len(sample.spans) else None
    return Task(
        pool=len(sample.frames),
        kind=sample.kind.partition("/")[0],
        options=sample.options,
        relevant=matters,
    )


@dataclasses.dataclass
class Episode:
    """One conversation: what it began with, what was said, and what that led to."""

    sample: Sample
    asked: Asked
    turns: list[Turn]
    texts: list[str]

    @property
    def answer(self) -> str | None:
        """The answer, None where there is no valid one."""
        action = self.turns[-1].action
        if action is None or not action.valid or action.kind != "answer":
            return None
        return action.content.strip()

    @property
    def right(self) -> bool:
        """Whether the answer is that of the sample."""
        said = self.answer
        if said is None:
            return False
        kind = self.asked.task.kind
        return videomtr.answer_reward(said, self.sample.answer, kind=kind) > 0

    @property
    def looks(self) -> list[bool]:
        """For each retrieval, whether it showed a frame that matters."""
        matters = self.asked.task.relevant or frozenset()
        return [bool(matters & set(turn.frames)) for turn in self.turns[1:] if turn.frames]


class Episodes:
    """The conversations of a batch, `group` to each question one after another."""

    def __init__(
        self, samples: Sequence[Sample], *, group: int, prompts: TurnPrompts, config: TurnsConfig
    ):
        self.prompts, self.config, self.budget = prompts, config, budget(config)
        self.samples = samples
        self.episodes: list[Episode] = []
        for sample in samples:
            asked = Asked(question=sample.question, task=task(sample))
            begun = retrieval.begin(asked.task, self.budget)
            for _ in range(group):
                self.episodes.append(Episode(sample, asked, [begun], []))

    def first(self) -> Prompt:
        """What every question begins with, one row each."""
        group = len(self.episodes) // len(self.samples)
        system = retrieval_prompts.system(self.budget) if self.config.prompts == "full" else ""
        rows = [
            self.prompts.first(self._parts(one), one.sample.frames, system=system)
            for one in self.episodes[::group]
        ]
        return jax.tree.map(lambda *values: np.stack(values), *rows)

    def blank(self) -> Prompt:
        """An observation of nothing."""
        return self.prompts.blank(self.samples[0].frames)

    def reply(self, turn: int, said: Sequence[np.ndarray | None]) -> list[Prompt | None]:
        """Carries out what was said (`rollout.turns.Reply`)."""
        return [
            None if ids is None else self._step(episode, ids)
            for episode, ids in zip(self.episodes, said, strict=True)
        ]

    def _step(self, episode: Episode, ids: np.ndarray) -> Prompt | None:
        chat = self.prompts.chat
        text, ended = chat.decode(ids.tolist()), bool(len(ids)) and ids[-1] == chat.end_id
        led = retrieval.step(
            episode.asked.task, self.budget, before=episode.turns[-1], response=text
        )
        episode.turns.append(led)
        episode.texts.append(text)
        if led.done:
            return None
        return self.prompts.later(self._parts(episode), episode.sample.frames, ended=bool(ended))

    def _parts(self, episode: Episode) -> tuple[retrieval_prompts.Part, ...]:
        return retrieval_prompts.observation(
            episode.asked, episode.turns[-1], self.budget, style=self.config.prompts
        )

    def outcome(self, *, decay: float = 0.0) -> videomtr.Turns:
        """What happened, as rewards want it; `decay` is that of `answer_reward`."""
        shape = len(self.episodes), self.config.turns
        taken, retrieved, answered = np.zeros((3, *shape), bool)
        iou, answer = np.full(shape, np.nan), np.zeros(shape)
        start = np.array([_overlap(one.turns[0]) for one in self.episodes])
        for row, one in enumerate(self.episodes):
            for number, led in enumerate(one.turns[1:]):
                action = led.action
                assert action is not None
                taken[row, number] = True
                retrieved[row, number] = action.valid and action.kind == "retrieve"
                answered[row, number] = action.valid and action.kind == "answer"
                iou[row, number] = _overlap(led)
                if answered[row, number]:
                    answer[row, number] = videomtr.answer_reward(
                        action.content.strip(),
                        one.sample.answer,
                        kind=one.asked.task.kind,
                        turn=led.number,
                        decay=decay,
                    )
        return videomtr.Turns(
            taken=taken,
            retrieved=retrieved,
            answered=answered,
            iou=iou,
            start_iou=start,
            answer=answer,
        )


def _overlap(turn: Turn) -> float:
    return float("nan") if turn.iou is None else turn.iou


def summary(episodes: Sequence[Episode]) -> dict[str, float]:
    """Figures of finished conversations (Video-MTR 8).

    accuracy, answered: shares with a right answer, with any. turns: taken, on average. looks: of
    all turns, those that retrieve; right_looks: of all turns, those that retrieve a frame that
    matters. evidence: of right answers, those given after such a frame was seen. frames: shown, on
    average.
    """
    count = max(len(episodes), 1)
    turns = max(sum(len(one.texts) for one in episodes), 1)
    right = [one for one in episodes if one.right]
    shown = [sum(len(turn.frames) for turn in one.turns) for one in episodes]
    seen = [bool(one.turns[-1].seen & (one.asked.task.relevant or frozenset())) for one in right]
    return {
        "accuracy": len(right) / count,
        "answered": sum(one.answer is not None for one in episodes) / count,
        "turns": turns / count,
        "looks": sum(len(one.looks) for one in episodes) / turns,
        "right_looks": sum(sum(one.looks) for one in episodes) / turns,
        "evidence": sum(seen) / max(len(seen), 1),
        "frames": sum(shown) / count,
    }
