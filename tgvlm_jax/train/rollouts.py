"""From questions to a policy batch: sample answers, reward them on threads, compare them.

While the device samples one part of the prompts, threads on the host reward the answers of the
part before, and the reference policy's pass runs beside the rewards. Of hosts that have the same
prompts the first rewards their answers.
"""

import collections
import concurrent.futures
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.data import answers
from tgvlm_jax.data.chat import Chat
from tgvlm_jax.models import lora, parameters
from tgvlm_jax.models.parameters import Blueprint, Params
from tgvlm_jax.objectives.grpo import PolicyBatch
from tgvlm_jax.objectives.ppo import TurnBatch
from tgvlm_jax.rewards import functions
from tgvlm_jax.rollout.sampler import Generation, generate
from tgvlm_jax.schema import Experiment, GrpoConfig
from tgvlm_jax.train import distributed, judging, optim, policy_batch, step
from tgvlm_jax.train.phases import Clock
from tgvlm_jax.train.policy_batch import Segmented
from tgvlm_jax.train.process_rewards import Processed, ProcessRewards
from tgvlm_jax.train.state import TrainState
from tgvlm_jax.types import InputError, Prompt, Questions, Sample

_ROLLOUT = 2  # of the streams of random numbers; 0 and 1 are those of parameters and dropout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
    """A prompt and the answers to it, for people.

    Attributes:
        rewards: of each answer; not a number where the reward failed.
        turns: of each answer that took several, what happened in each.
    """

    sample: Sample
    texts: tuple[str, ...]
    rewards: tuple[float, ...]
    turns: tuple[tuple["ToldTurn", ...], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToldTurn:
    """What a model saw (frames of the pool), said after that, and earned with it, by terms."""

    frames: tuple[int, ...]
    text: str
    terms: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rolled:
    """What one batch of questions has become.

    Attributes:
        batch: for the update. metrics: of rewards and answers, to log.
        told: the groups that this host rewarded. failures: what rewards failed with, one line each.
    """

    batch: PolicyBatch | TurnBatch
    metrics: dict[str, float]
    told: tuple[Told, ...]
    failures: tuple[str, ...]


class Rollouts:
    """Samples, rewards and compares the answers to questions."""

    def __init__(
        self,
        experiment: Experiment,
        *,
        blueprint: Blueprint,
        chat: Chat,
        mesh: Mesh | None,
        copy: Params | None = None,
        clock: Clock | None = None,
    ):
        """`copy` are the parameters of the reference where `objective.reference` is "copy".

        `clock` is told while answers wait for their rewards.

        Raises:
            InputError: parts that do not divide the batch, a reference that is not there, or spans
                to be learned from in a model that has none.
        """
        config = experiment.objective
        assert isinstance(config, GrpoConfig)
        check(experiment)
        self.config, self.experiment, self.blueprint = config, experiment, blueprint
        self.chat, self.mesh, self.copy, self.clock = chat, mesh, copy, clock or Clock()
        self.judge, self.process = None, None
        if config.process is None:
            self.reward = functions.FUNCTIONS[config.reward]
        else:
            self.judge = judging.open_judge(config.process.judge)
            self.process = ProcessRewards(config.process, chat=chat, judge=self.judge.judge)
        slots = 2 * experiment.data.max_events
        self.replayed = {"evidence_id": chat.evidence_id, "slots": slots}
        self.pool = concurrent.futures.ThreadPoolExecutor(config.reward_threads)
        trained = optim.trainable(experiment.optim, blueprint.shapes)
        self.sees_once = not parameters.reach_tower(trained)
        self.rows = mesh_lib.own_rows(mesh, experiment.data.batch_size)
        self.leads = mesh_lib.leads(mesh, experiment.data.batch_size)

    def close(self) -> None:
        """Stops the threads and lets go of the judge."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        if self.judge is not None:
            self.judge.close()

    def __call__(self, state: TrainState, questions: Questions) -> Rolled:
        """Answers questions with the parameters of `state`; the key follows from its step.

        Raises:
            InputError: no answer has a finite probability.
        """
        began = time.monotonic()
        key = jax.random.fold_in(jax.random.fold_in(state.key, _ROLLOUT), state.step)
        count = self._parts(len(questions.samples))
        prompts, found = [], []
        for part in range(count):
            rows = jax.tree.map(lambda x, part=part: x[part::count], questions.prompt)
            prompt = mesh_lib.put_batch(rows, self.mesh)
            if self.sees_once:
                prompt = policy_batch.see(state.params, prompt, blueprint=self.blueprint)
            prompts.append(prompt)
            found.append(self._sample(state.params, prompt, jax.random.fold_in(key, part)))
        reference = [
            self._reference(state.params, *pair) for pair in zip(prompts, found, strict=True)
        ]
        asked = questions.samples if self.leads else ()
        jobs = [self._submit(one, asked[p::count]) for p, one in enumerate(found)]
        sampled = time.monotonic()
        with self.clock("reward"):
            scored = self._collect(jobs, rows=len(questions.samples))
        waited = time.monotonic() - sampled
        batch, stats = policy_batch.assemble(
            tuple(prompts),
            tuple(found),
            tuple(reference),
            mesh_lib.put_led((scored.rewards, scored.overlaps), self.mesh),
            mesh_lib.put_led(scored.segmented, self.mesh),
            config=self.config,
            end_id=self.chat.end_id,
            **self.replayed,
        )
        metrics = {name: float(value) for name, value in jax.device_get(stats).items()}
        if metrics["not_finite"] == 1:
            raise InputError(
                "none of the sampled answers has a finite probability: the parameters are no "
                "longer numbers; start again from an earlier checkpoint with a lower optim.lr"
            )
        timing = {"rollout_seconds": sampled - began, "reward_wait": waited}
        everyone = _of_all_hosts(self.rows, scored, asked)
        metrics |= _summary(everyone) | timing
        return Rolled(
            batch=batch,
            metrics=metrics,
            told=_told(scored, asked) if self.leads else (),
            failures=tuple(failure for one in everyone for failure in one["failures"]),
        )

    def _parts(self, rows: int) -> int:
        size, whole = self.config.rollout_size, self.experiment.data.batch_size
        return max(1, rows * whole // len(self.rows) // size) if size else 1

    def _sample(self, params: Params, prompt: Prompt, key: jax.Array) -> Generation:
        return generate(
            params,
            prompt,
            blueprint=self.blueprint,
            max_tokens=self.config.max_tokens,
            evidence_id=self.chat.evidence_id,
            end_id=self.chat.end_id,
            pad_id=self.chat.pad_id,
            sampling=self.config.sampling,
            key=key,
            samples=self.config.num_generations,
            sample_spans=bool(self.config.spans),
        )

    def _reference(self, params: Params, prompt: Prompt, found: Generation) -> jax.Array | None:
        if not self.config.policy.kl:
            return None
        if self.config.reference == "base":
            blueprint, params = step.base(self.experiment), lora.without(params)
        else:
            assert self.copy is not None
            blueprint, params = self.blueprint, self.copy
        return policy_batch.log_probs(
            params,
            prompt,
            found,
            blueprint=blueprint,
            config=self.config,
            **self.replayed,
        )

    def _submit(
        self, found: Generation, samples: Sequence[Sample]
    ) -> list[concurrent.futures.Future]:
        """Starts the rewards of one part, whose tokens it waits for; a job for each prompt."""
        tokens = mesh_lib.local(found.tokens)
        frames = None if found.grounding is None else mesh_lib.local(found.grounding.spans)
        group, jobs = self.config.num_generations, []
        for row, sample in enumerate(samples):
            own = slice(row * group, (row + 1) * group)
            shown = None if frames is None else frames[own]
            jobs.append(self.pool.submit(self._rewards, tokens[own], shown, sample))
        return jobs

    def _rewards(
        self, tokens: np.ndarray, frames: np.ndarray | None, sample: Sample
    ) -> "list[_Rewarded]":
        """Of the answers to one prompt."""
        data, where = self.experiment.data, f"{sample.kind}, {sample.video}"
        said = [
            answers.read(
                row,
                None if frames is None else frames[number],
                sample=sample,
                chat=self.chat,
                config=data,
            )
            for number, row in enumerate(tokens)
        ]
        if self.process is None:
            return [_reward(self.reward, one, sample) for one in said]
        found: list[Processed | None] = [None] * len(said)
        failure = "" if sample.readable else "the video could not be read"
        if not failure:
            try:
                found = [*self.process(tokens, [one.raw for one in said], sample)]
            except InputError as error:
                failure = str(error)
            except Exception as error:  # of whatever judges
                failure = f"{type(error).__name__}: {error}"
        return [
            _Rewarded(
                value=float("nan") if made is None else float(made.rewards.sum()),
                overlap=0.0,
                text=one.text,
                failure=f"{where}: {problem}" if problem else "",
                process=made,
            )
            for one, made in zip(said, found, strict=True)
            for problem in [made.failure if made else failure]
        ]

    def _collect(
        self, jobs: Sequence[Sequence[concurrent.futures.Future]], *, rows: int
    ) -> "_Scored":
        """All rewards, in the order of the questions; of rows that have no jobs anything."""
        group, count = self.config.num_generations, len(jobs)
        rewards, overlaps = np.zeros((2, rows, group), np.float32)
        texts = [[""] * group for _ in range(rows)]
        processed: list[list[Processed | None]] = [[None] * group for _ in range(rows)]
        failures: list[str] = []
        for part, futures in enumerate(jobs):
            for number, future in enumerate(futures):
                row = part + number * count
                for answer, done in enumerate(future.result()):
                    rewards[row, answer], overlaps[row, answer] = done.value, done.overlap
                    texts[row][answer], processed[row][answer] = done.text, done.process
                    failures += [done.failure] if done.failure else []
        return _Scored(
            rewards=rewards,
            overlaps=overlaps,
            texts=texts,
            failures=tuple(failures),
            segmented=None if self.process is None else self._segmented(processed),
            processed=tuple(one for row in processed for one in row if one is not None),
        )

    def _segmented(self, processed: Sequence[Sequence[Processed | None]]) -> Segmented:
        """Absent where an answer has no rewards."""
        shape = (len(processed), self.config.num_generations)
        found = Segmented(
            rewards=np.full((*shape, policy_batch.SEGMENTS), np.nan, np.float32),
            segments=np.zeros((*shape, self.config.max_tokens), np.int32),
        )
        for row, group in enumerate(processed):
            for answer, one in enumerate(group):
                if one is not None:
                    found.rewards[row, answer] = one.rewards
                    found.segments[row, answer] = one.segments
        return found


def check(experiment: Experiment) -> None:
    """Raises InputError where the objective does not fit the rest of an experiment."""
    config, batch = experiment.objective, experiment.data.batch_size
    assert isinstance(config, GrpoConfig)
    if config.rollout_size and batch % config.rollout_size:
        raise InputError(
            f"objective.rollout_size={config.rollout_size} does not divide data.batch_size={batch}"
        )
    if batch % (config.updates * experiment.train.accumulate):
        raise InputError(
            f"objective.updates={config.updates} x train.accumulate={experiment.train.accumulate} "
            f"does not divide data.batch_size={batch}"
        )
    if config.reference == "base" and not experiment.model.lora:
        raise InputError("objective.reference='base' needs adapters: give model.lora a table")
    if config.reference == "copy" and not experiment.train.init_from:
        raise InputError("objective.reference='copy' needs train.init_from: what is copied")
    evidence = experiment.model.evidence is not None
    if (config.spans or "grounding" in config.reward) and not evidence:
        raise InputError("the objective is about spans, but the model has no evidence heads")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rewarded:
    """`overlap` is that of the evidence with the truth, 0 where there is none."""

    value: float
    overlap: float
    text: str
    failure: str = ""
    process: Processed | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scored:
    rewards: Float[np.ndarray, "b g"]
    overlaps: Float[np.ndarray, "b g"]
    texts: list[list[str]]
    failures: tuple[str, ...]
    segmented: Segmented | None = None
    processed: tuple[Processed, ...] = ()


def _reward(function: functions.Reward, said: answers.Said, sample: Sample) -> _Rewarded:
    """The reward of one answer; a reward that raises, or is no number, is absent."""
    overlap = functions.grounding(said.raw, said.spans, sample) if len(sample.spans) else 0.0
    told = {"text": said.text, "overlap": overlap}
    if not sample.readable:
        failure = f"{sample.kind}, {sample.video}: the video could not be read"
        return _Rewarded(value=float("nan"), **told, failure=failure)
    try:
        value = float(function(said.raw, said.spans, sample))
    except Exception as error:  # of whatever function the user has given
        failure = f"{sample.kind}, {sample.video}: {type(error).__name__}: {error}"
        return _Rewarded(value=float("nan"), **told, failure=failure)
    failure = "" if np.isfinite(value) else f"{sample.kind}, {sample.video}: the reward is {value}"
    return _Rewarded(value=value, **told, failure=failure)


def _of_all_hosts(
    rows: Sequence[int], scored: _Scored, samples: Sequence[Sample]
) -> list[dict[str, Any]]:
    """What hosts say about prompts that they rewarded, in the order of rows."""
    said = {
        "rows": rows,
        "tasks": [functions.task(sample) for sample in samples],
        "rewards": scored.rewards.tolist(),
        "processed": [
            {"terms": one.terms, "failed": bool(one.failure)} for one in scored.processed
        ],
        "failures": scored.failures,
    }
    found = distributed.gather(said if samples else None)
    return sorted(filter(None, found), key=lambda one: one["rows"])


def _summary(everyone: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean rewards of all hosts' answers, over all and by task, and how many failed."""
    by_task = collections.defaultdict(list)
    rewards = np.concatenate([np.asarray(one["rewards"], np.float32) for one in everyone])
    tasks = [task for one in everyone for task in one["tasks"]]
    for task, row in zip(tasks, rewards, strict=True):
        by_task[task].append(row)
    found = {
        f"reward_{name.replace(' ', '_')}": _mean(np.stack(rows)) for name, rows in by_task.items()
    }
    failed = float(np.mean(~np.isfinite(rewards)))
    told = {"reward": _mean(rewards), "failed_rewards": failed, **found}
    processed = [answer for one in everyone for answer in one["processed"]]
    if processed:
        for name in processed[0]["terms"]:
            told[name] = _mean(np.array([one["terms"][name] for one in processed]))
        told["judge_failures"] = float(np.mean([one["failed"] for one in processed]))
    return told


def _mean(values: np.ndarray) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else 0.0


def _told(scored: _Scored, samples: Sequence[Sample]) -> tuple[Told, ...]:
    rows = zip(samples, scored.texts, scored.rewards.tolist(), strict=True)
    return tuple(
        Told(sample=sample, texts=tuple(texts), rewards=tuple(rewards))
        for sample, texts, rewards in rows
    )
