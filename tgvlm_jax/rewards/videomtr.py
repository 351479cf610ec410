"""Rewards of Video-MTR: every turn earns terms with names, and a batch is shaped as a whole.

    format     the turn holds one valid action in the right form
    frame      a retrieval brought frames that are more to the point than those before
    answer     the final answer is right
    final      the last frames are more to the point than the first (off by default)
    gate       takes terms back where the answer was not right
    bootstrap  is added to retrievals while the policy hardly retrieves

Two rule books, `PRESETS`. "paper" gates everything that came before a wrong answer. "released" is
the code, leaks included: its gate looks at the last turn with a positive reward, so that a
trajectory that retrieves well and then never answers keeps what it got, and its bootstrap pays
trajectories with wrong answers too.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32

from tgvlm_jax.rewards import answers

Rewards = Float32[np.ndarray, "b turn"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardRule:
    """What a turn earns and how a batch is shaped (Video-MTR 2 and 3).

    Attributes:
        format, frame: rewards of a valid action, and of a retrieval that improves.
        reference: what a retrieval has to improve on, the "best" frames so far or the "last".
        margin: by how much. drop: penalty for falling below, times how far.
        turn_decay: a right choice loses this with every turn taken before it.
        final: reward, or penalty, of last frames that are better, or worse, than the first.
        gate: "answer" takes all terms of earlier turns where the answer is not right;
            "last_positive" takes `gated` off rewards above it where the last positive one is
            below it; or "none".
        bootstrap: bonus by the rate of "retrievals" among turns; by that of "trajectories" with
            more than one positive turn; or "none".
        low, high: rates below which the bonus is doubled, and given at all.
        patience: batches in a row above `high` after which there is no bonus for good; 0 never.
    """

    format: float = 0.1
    frame: float = 0.5
    reference: Literal["best", "last"] = "best"
    margin: float = 0.0
    drop: float = 0.5
    turn_decay: float = 0.0
    final: float = 0.0
    gate: Literal["answer", "last_positive", "none"] = "answer"
    gated: float = 0.5
    bootstrap: Literal["retrievals", "trajectories", "none"] = "retrievals"
    bonus: float = 0.5
    low: float = 0.1
    high: float = 0.5
    patience: int = 5


PRESETS = {
    # The paper gives neither the penalty's constant nor the number of batches.
    "paper": RewardRule(),
    "released": RewardRule(
        reference="last",
        margin=1e-3,
        drop=0.0,
        turn_decay=0.1,
        gate="last_positive",
        bootstrap="trajectories",
        patience=0,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turns:
    """What happened in every turn of a batch of trajectories.

    Attributes:
        taken: the turn was taken; the last one of a row ends its trajectory.
        retrieved, answered: it held a valid retrieval, or a valid answer.
        iou: overlap of the retrieved frames with the relevant ones, NaN where there are none.
        start_iou: of the frames shown first.
        answer: reward of the answer (`answer_reward`), 0 without one.
    """

    taken: Bool[np.ndarray, "b turn"]
    retrieved: Bool[np.ndarray, "b turn"]
    answered: Bool[np.ndarray, "b turn"]
    iou: Float[np.ndarray, "b turn"]
    start_iou: Float[np.ndarray, "b"]
    answer: Float[np.ndarray, "b turn"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BootstrapState:
    """How many batches in a row the policy retrieved often, and whether the bonus is over."""

    above: int = 0
    over: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shaped:
    """Terms of every turn by name, the retrieval rate, and the state for the next batch."""

    terms: dict[str, Rewards]
    rate: float
    state: BootstrapState

    @property
    def total(self) -> Rewards:
        """The reward of every turn."""
        return sum(self.terms.values(), np.zeros((), np.float32))


def answer_reward(
    answer: str, solution: str, *, kind: str, turn: int | None = None, decay: float = 0.0
) -> float:
    """Reward of a final answer; types other than multiple choice and numerical earn nothing.

    Args:
        solution: the truth, inside answer tags or bare.
        turn: in which it was given, from 1; choices lose `decay` for every turn before it.
    """
    truth = answers.answer_text(solution, default=solution)
    if kind == "multiple choice":
        right = answers.multiple_choice(answer, truth)
        return right - decay * (turn - 1) if right and turn is not None else right
    return answers.numerical(answer.strip(), truth) if kind == "numerical" else 0.0


def turn_terms(turns: Turns, rule: RewardRule) -> dict[str, Rewards]:
    """What the turns earn by themselves, before the batch is looked at."""
    valid = turns.retrieved | turns.answered
    frame = np.zeros(turns.taken.shape)
    last, best = turns.start_iou.astype(np.float64), turns.start_iou.astype(np.float64)
    for turn in range(turns.taken.shape[1]):
        found = turns.iou[:, turn]
        before = last if rule.reference == "last" else best
        measured = turns.retrieved[:, turn] & ~np.isnan(found - before)
        better = found > before + rule.margin
        worse = rule.drop * np.maximum(before - found, 0)
        frame[:, turn] = np.where(measured, np.where(better, rule.frame, -worse), 0)
        last = np.where(measured, found, last)
        best = np.where(measured, np.fmax(best, found), best)
    right = turns.answered & (turns.answer > 0)
    gain = last - turns.start_iou
    moved = np.where(gain > rule.margin, 1.0, np.where(gain < -rule.margin, -1.0, 0.0))
    found = {
        "format": rule.format * valid,
        "frame": frame,
        "answer": turns.answer * turns.answered,
        "final": rule.final * moved[:, None] * right,
    }
    return {name: value.astype(np.float32) for name, value in found.items()}


def shape(turns: Turns, rule: RewardRule, *, state: BootstrapState) -> Shaped:
    """Terms of a batch with its gate and its bootstrap; the bonus comes after the gate."""
    terms = turn_terms(turns, rule)
    earned = sum(terms.values(), np.zeros((), np.float32))
    gated = earned
    if rule.gate == "last_positive":
        gated = gate_by_last_positive(earned, above=rule.gated)
    elif rule.gate == "answer":
        gated = np.where(_before_a_wrong_answer(turns), np.float32(0), earned)
    rate, paid = _retrieval_rate(turns, gated, rule)
    bonus = 0.0 if state.over else _bonus(rate, rule)
    if rule.patience and rate >= 0:
        above = state.above + 1 if rate > rule.high else 0
        state = BootstrapState(above=above, over=state.over or above >= rule.patience)
    terms |= {"gate": gated - earned, "bootstrap": (bonus * paid).astype(np.float32)}
    return Shaped(terms=terms, rate=max(rate, 0.0), state=state)


def gate_by_last_positive(rewards: Rewards, *, above: float = 0.5) -> Rewards:
    """The released gate, for a last positive reward below `above`: that much off those over it."""
    earlier = _before_the_last_positive(rewards)
    last = np.where((rewards > 0) & ~earlier, rewards, 0).max(axis=1, keepdims=True, initial=0)
    taken = earlier & (rewards > above) & (last < above)
    return np.where(taken, rewards - np.float32(above), rewards)


def _before_the_last_positive(rewards: Rewards) -> Bool[np.ndarray, "b turn"]:
    """Positive rewards that another one of the row follows."""
    positive = rewards > 0
    following = np.cumsum(positive[:, ::-1], axis=1)[:, ::-1]
    return positive & (following > 1)


def _before_a_wrong_answer(turns: Turns) -> Bool[np.ndarray, "b turn"]:
    right = np.any(turns.answered & (turns.answer > 0), axis=1, keepdims=True)
    following = np.cumsum(turns.taken[:, ::-1], axis=1)[:, ::-1]
    return ~right & (following > 1)


def _retrieval_rate(
    turns: Turns, rewards: Rewards, rule: RewardRule
) -> tuple[float, Bool[np.ndarray, "b turn"]]:
    """How often the policy retrieves, -1 where nothing was done; and the turns a bonus goes to."""
    if rule.bootstrap == "trajectories":
        count = np.sum(rewards > 0, axis=1)
        several, some = np.sum(count > 1), np.sum(count > 0)
        paid = _before_the_last_positive(rewards)
    else:
        several, some = np.sum(turns.retrieved), np.sum(turns.taken)
        paid = turns.retrieved
    return (float(several / some) if some else -1.0), paid


def _bonus(rate: float, rule: RewardRule) -> float:
    if rule.bootstrap == "none" or not 0 <= rate < rule.high:
        return 0.0
    return 2 * rule.bonus if rate < rule.low else rule.bonus
