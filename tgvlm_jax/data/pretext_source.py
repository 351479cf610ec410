"""The pretext tasks of VideoSSR as a source of samples, answered in plain text (VideoSSR 3.1).

A clip out of the shards becomes a question that a program can check: when something is wrong,
how many shapes were drawn on it, in which order its parts were filmed. Sample i is a pure function
of the seed and i. `Sample.kind` is the task and what is asked of it: "grounding/mirror",
"counting/easy", "jigsaw/6"; the reward is that of the part before the stroke.

Levels grow with the clip, so that one of 48 frames is VideoSSR's. Training clips are cropped,
flipped and recoloured as a whole first, and then changed.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

from tgvlm_jax.data import pretext_plans, pretext_tasks
from tgvlm_jax.data.augment import draw_look, resize
from tgvlm_jax.data.pretext_plans import AnomalyLevel, AnomalyPlan, CountingLevel, JigsawLevel
from tgvlm_jax.data.windows import ClipSource, Window
from tgvlm_jax.schema import DataConfig
from tgvlm_jax.types import InputError, Sample

Clip = UInt8[np.ndarray, "f y x 3"]

_LEAST = 4  # frames of a clip, so that two that changed leave as many that did not


def anomaly_level(frames: int) -> AnomalyLevel:
    """A sixth to a third of the clip is changed, two frames at least (VideoSSR 3.1.1)."""
    shortest = max(2, round(frames / 6))
    return AnomalyLevel(frames=frames, shortest=shortest, longest=max(shortest, round(frames / 3)))


def counting_level(name: str, frames: int) -> CountingLevel:
    """ "easy" or "hard"; frames of one shape are more than a sixth of the clip apart."""
    level = pretext_plans.COUNTING[name]
    return dataclasses.replace(level, frames=frames, apart=round(frames / 6))


class PretextTasks(ClipSource):
    """Samples from one part of a shard folder.

    Training draws a task of `data.tasks` and then a variant of it; evaluation takes them in turn.
    """

    def check(self) -> None:
        """Raises InputError: there are no tasks; a bucket of frames is too short for one, or does
        not divide into the clips of a jigsaw.
        """
        if not self.config.tasks:
            raise InputError("data.tasks=(): name at least one pretext task")
        for frames in self.config.frames:
            _check(self.config, frames)

    @property
    def words(self) -> Sequence[str]:
        """None: answers are numbers."""
        return ()

    def sample(self, index: int, *, frames: int, pixels: bool = True) -> Sample:
        """Sample number `index`, with `frames` frames in all.

        Shown time starts at 0. It runs on through the clips of a jigsaw, as if they were in order,
        so that it does not give the order away.

        Without `pixels` the frames are of 0 x 0 pixels and all else is the same, at little cost.
        """
        rng = np.random.default_rng([self.seed, int(self.training), index])
        task, variant = self._draw(index, rng)
        window = self.windows.draw(frames, rng)
        look = draw_look(self.config, rng) if self.training else None
        plans, noise = rng.integers(1 << 32, size=2).tolist()

        def read(numbers: Sequence[int]) -> Clip:
            return resize(self.windows.stored(window.video, numbers), self.size, look=look)

        return ask(
            window,
            task,
            variant,
            plans=random.Random(plans),
            noise=noise,
            read=read if pixels else None,
        )

    def _draw(self, index: int, rng: np.random.Generator) -> tuple[str, str]:
        """Task and variant."""
        tasks = self.config.tasks
        if self.training:
            task = tasks[int(rng.integers(len(tasks)))]
            turn = int(rng.integers(len(self._variants(task))))
        else:
            turn, place = divmod(index, len(tasks))
            task = tasks[place]
        variants = self._variants(task)
        return task, variants[turn % len(variants)]

    def _variants(self, task: str) -> tuple[str, ...]:
        return {
            "grounding": self.config.kinds,
            "counting": (self.config.counting,),
            "jigsaw": tuple(map(str, self.config.jigsaw_clips)),
        }[task]


def _check(config: DataConfig, frames: int) -> None:
    """Raises InputError where a task of the config is not to be had from that many frames."""
    least = _LEAST
    if "counting" in config.tasks:
        # What two shapes take leaves a frame for the third.
        least = 2 * counting_level(config.counting, frames).appearances + 1
    if frames < least:
        raise InputError(f"data.frames={config.frames}: data.tasks want {least} frames at least")
    wrong = [clips for clips in config.jigsaw_clips if frames % clips]
    if "jigsaw" in config.tasks and wrong:
        raise InputError(
            f"data.jigsaw_clips={config.jigsaw_clips}: {frames} frames do not divide into "
            f"{wrong[0]} clips; change one of them"
        )


def ask(
    window: Window,
    task: str,
    variant: str,
    *,
    plans: random.Random,
    noise: int,
    read: Callable[[Sequence[int]], Clip] | None,
) -> Sample:
    """The sample that one of the tasks makes of a clip.

    Args:
        variant: of "grounding" one of `PRETEXT_KINDS`, of "counting" "easy" or "hard", of
            "jigsaw" the number of clips.
        plans: draws what is asked, and pixels other than noise, whose seed is `noise`.
        read: frames of the window's video by their numbers, which are the window's but for "slow"
            and "fast"; None makes all but the pixels.
    """
    count, numbers, plan = len(window.seconds), window.numbers, None
    if task == "grounding":
        plan = _anomaly(variant, plans, level=anomaly_level(count))
        numbers = _sampled(plan, window) if plan.speed != 1 else numbers
    plain = Sample(
        frames=read(numbers) if read else np.zeros((count, 0, 0, 3), np.uint8),
        seconds=window.seconds - window.seconds[0],
        duration=float(window.end - window.seconds[0]),
        question="",
        answer="",
        spans=np.zeros((0, 2)),
        video=window.video,
        kind=f"{task}/{variant}",
    )
    if plan:
        return _grounding(plain, plan, plans, np.random.RandomState(noise))
    if task == "counting":
        return _counting(plain, counting_level(variant, count), plans)
    return _jigsaw(plain, JigsawLevel(frames=count, clips=int(variant)), plans)


def _sampled(plan: AnomalyPlan, window: Window) -> list[int]:
    """Frames for a stretch that is slow or fast, all else spread over the rest of the window."""
    numbers = window.numbers
    behind = numbers.start + len(window.seconds) * numbers.step
    places = pretext_plans.source_seconds(plan, start=numbers.start, end=behind)
    # Rounded down, but for the error of a division; a frame behind the last one may be unusable.
    return np.minimum((places + 1e-6).astype(int), numbers[-1]).tolist()


def _grounding(
    sample: Sample, plan: AnomalyPlan, rng: random.Random, noise: np.random.RandomState
) -> Sample:
    shown = sample.frames
    if shown.size:
        made = pretext_tasks.of_plan(shown, plan, fps=1.0, rng=rng, noise=noise)
        (shown,) = made.clips
    bounds = np.append(sample.seconds, sample.duration)
    return dataclasses.replace(
        sample,
        frames=shown,
        question=pretext_tasks.anomaly_question(plan.kind),
        answer=f"{bounds[plan.start]:.1f}-{bounds[plan.start + plan.length]:.1f}",
    )


def _anomaly(kind: str, rng: random.Random, *, level: AnomalyLevel) -> AnomalyPlan:
    """A plan that changes something: a released shuffle of few frames may move none of them."""
    while True:
        plan = pretext_plans.plan_anomaly(kind, rng, level=level)
        moved = plan.order != tuple(range(level.frames))
        if moved or kind not in ("shuffle", "stutter"):
            return plan


def _counting(sample: Sample, level: CountingLevel, rng: random.Random) -> Sample:
    plan = pretext_plans.plan_counting(rng, level=level)
    shown = sample.frames
    return dataclasses.replace(
        sample,
        frames=pretext_tasks.draw_marks(shown, plan, rng=rng) if shown.size else shown,
        question=pretext_tasks.counting_question(),
        answer=plan.answer(),
    )


def _jigsaw(sample: Sample, level: JigsawLevel, rng: random.Random) -> Sample:
    plan = pretext_plans.plan_jigsaw(rng, level=level)
    parts = [list(plan.frames(shown)) for shown in range(level.clips)]
    return dataclasses.replace(
        sample,
        frames=sample.frames[np.concatenate(parts)],
        question=pretext_tasks.jigsaw_question(level.clips),
        answer=plan.answer(),
        clips=(plan.length,) * level.clips,
    )
