"""The three pretext tasks of VideoSSR, from a clip and a seed to a question with its answer.

Frames are changed in memory and never compressed again, so nothing but the change itself tells a
changed frame from the others. (The released generator writes changed frames as JPEG of quality 75
beside others of 95, which gives the answer away.)
"""

import dataclasses
import random
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from tgvlm_jax.data import anomalies, pretext, pretext_plans, pretext_shapes
from tgvlm_jax.data.pretext_plans import (
    AnomalyLevel,
    AnomalyPlan,
    CountingLevel,
    CountingPlan,
    JigsawLevel,
)
from tgvlm_jax.types import InputError

Clip = UInt8[np.ndarray, "f y x 3"]
Frame = UInt8[np.ndarray, "y x 3"]

# Kinds that change pixels, each frame with a strength of its own where it has one.
_STRENGTHS = {
    "noise": anomalies.NOISE_SIGMA,
    "zoom_in": anomalies.ZOOM_IN,
    "zoom_out": anomalies.ZOOM_OUT,
}
_MOVED = ("shuffle", "stutter", "swap", "slow", "fast")  # kinds that leave pixels as they are
# What is the case where the demo's questions do not know a kind.
_STATED = {
    "rotate90": "the picture lies on its right side",
    "rotate270": "the picture lies on its left side",
    "swap": "another video is shown",
    "slow": "the video runs too slowly",
    "fast": "the video runs too fast",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretextSample:
    """A question whose answer is known by construction.

    Attributes:
        task: "grounding", "counting" or "jigsaw", as in `tgvlm_jax.rewards.videossr.TASKS`.
        kind: the anomaly, or how hard it is.
        clips: one, or the clips to be put in order.
        seconds: when each frame of each clip is shown; every clip starts at 0.
        answer: in exactly the form that the question asks for.
    """

    task: str
    kind: str
    clips: tuple[Clip, ...]
    seconds: tuple[Float64[np.ndarray, "f"], ...]
    question: str
    answer: str


def generators(seed: int, index: int) -> tuple[random.Random, np.random.RandomState]:
    """The two sources of chance of sample `index`: for plans, and for the pixels of noise."""
    words = np.random.SeedSequence([seed, index]).generate_state(2)
    return random.Random(int(words[0])), np.random.RandomState(words[1])


def grounding(
    clip: Clip,
    kind: str,
    *,
    fps: float,
    rng: random.Random,
    noise: np.random.RandomState,
    level: AnomalyLevel | None = None,
    other: Clip | None = None,
) -> PretextSample:
    """When is something wrong? One of the kinds that act on the frames of a clip.

    Args:
        fps: shown frames a second. other: a clip of another video, for "swap".

    Raises:
        InputError: "slow" and "fast" need frames that the clip does not have (draw a plan, and
            take the frames at `pretext_plans.source_seconds`); a clip too short for the level.
    """
    level = level or AnomalyLevel(frames=len(clip))
    if kind in ("slow", "fast"):
        raise InputError(f"{kind} wants frames of the video that a clip does not have")
    _has(clip, level.frames)
    plan = pretext_plans.plan_anomaly(
        kind, rng, level=level, others=("other",) if other is not None else ()
    )
    return of_plan(clip, plan, fps=fps, rng=rng, noise=noise, other=other)


def of_plan(
    clip: Clip,
    plan: AnomalyPlan,
    *,
    fps: float,
    rng: random.Random,
    noise: np.random.RandomState,
    other: Clip | None = None,
) -> PretextSample:
    """The sample of a plan. For "slow" and "fast" the clip was taken at its `source_seconds`."""
    shown = clip[list(plan.order)]
    stretch = slice(plan.start, plan.start + plan.length)
    if plan.kind == "swap":
        assert other is not None, "a swap wants the other clip"
        shown[stretch] = other[stretch]
    elif plan.kind not in _MOVED:
        shown[stretch] = np.stack(
            [
                fit(
                    change(frame, plan.kind, strength=_strength(plan.kind, rng), noise=noise), frame
                )
                for frame in shown[stretch]
            ]
        )
    return PretextSample(
        task="grounding",
        kind=plan.kind,
        clips=(shown,),
        seconds=(np.arange(len(shown)) / fps,),
        question=anomaly_question(plan.kind),
        answer=plan.answer(fps),
    )


def counting(
    clip: Clip, *, fps: float, rng: random.Random, level: CountingLevel | None = None
) -> PretextSample:
    """How many circles, squares and triangles were drawn on the frames?"""
    level = level or CountingLevel(frames=len(clip))
    _has(clip, level.frames)
    plan = pretext_plans.plan_counting(rng, level=level)
    return PretextSample(
        task="counting",
        kind=f"{level.appearances}x{level.instances}",
        clips=(draw_marks(clip, plan, rng=rng),),
        seconds=(np.arange(len(clip)) / fps,),
        question=counting_question(),
        answer=plan.answer(),
    )


def jigsaw(
    clip: Clip, *, fps: float, rng: random.Random, level: JigsawLevel | None = None
) -> PretextSample:
    """In which order were these clips filmed?"""
    level = level or JigsawLevel(frames=len(clip))
    _has(clip, level.frames)
    plan = pretext_plans.plan_jigsaw(rng, level=level)
    shown = range(len(plan.order))
    return PretextSample(
        task="jigsaw",
        kind=str(level.clips),
        clips=tuple(clip[list(plan.frames(i))] for i in shown),
        seconds=tuple(np.arange(plan.length) / fps for _ in shown),
        question=jigsaw_question(level.clips),
        answer=plan.answer(),
    )


def _has(clip: Clip, frames: int) -> None:
    if len(clip) != frames:
        raise InputError(f"a clip of {len(clip)} frames where the level has {frames}")


def _strength(kind: str, rng: random.Random) -> float:
    return rng.uniform(*_STRENGTHS[kind]) if kind in _STRENGTHS else 0.0


def change(
    frame: Frame, kind: str, *, strength: float, noise: np.random.RandomState
) -> UInt8[np.ndarray, "Y X 3"]:
    """One frame of a kind that acts on pixels, as the released generator makes it.

    Args:
        strength: standard deviation of "noise", factor of "zoom_in" and "zoom_out".
        noise: draws the noise.

    Returns:
        A frame of the same size; width and height change places for quarter turns.
    """
    match kind:
        case "noise":
            drawn = noise.normal(0, strength, frame.shape)
            return np.clip(frame + drawn, 0, 255).astype(np.uint8)
        case "zoom_in":
            return _enlarge(frame, strength)
        case "zoom_out":
            return anomalies.shrink(frame, strength)
        case "rotate90":
            return np.rot90(frame, -1)
        case "rotate270":
            return np.rot90(frame)
    # None of the rest draws anything.
    return anomalies.perturb(frame[None], kind, rng=np.random.default_rng(0))[0]


def _enlarge(frame: Frame, factor: float) -> Frame:
    """The middle of the frame, cut at whole pixels, at the size of all of it."""
    height, width, _ = frame.shape
    across, down = width / factor, height / factor
    left, top = round((width - across) / 2), round((height - down) / 2)
    right, bottom = round((width + across) / 2), round((height + down) / 2)
    middle = Image.fromarray(frame).crop((left, top, right, bottom))
    return np.asarray(middle.resize((width, height), Image.Resampling.LANCZOS))


def fit(changed: UInt8[np.ndarray, "Y X 3"], frame: Frame) -> Frame:
    """A frame of another shape inside a black one of the clip's, which has one shape only."""
    if changed.shape == frame.shape:
        return changed
    height, width, _ = frame.shape
    scale = min(height / changed.shape[0], width / changed.shape[1])
    size = (max(1, round(changed.shape[1] * scale)), max(1, round(changed.shape[0] * scale)))
    canvas = Image.new("RGB", (width, height))
    small = Image.fromarray(changed).resize(size, Image.Resampling.LANCZOS)
    canvas.paste(small, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(canvas)


def draw_marks(clip: Clip, plan: CountingPlan, *, rng: random.Random) -> Clip:
    """The clip with the shapes of a plan on it, at places drawn from `rng`."""
    drawn = clip.copy()
    _, height, width, _ = clip.shape
    for mark in plan.marks:
        shapes = pretext_shapes.place(mark.shape, mark.count, rng, height=height, width=width)
        for shape in shapes:
            drawn[mark.frame] = pretext_shapes.draw(drawn[mark.frame], shape)
    return drawn


def anomaly_question(kind: str) -> str:
    """Asks when, in the form that `rewards.videossr.grounding` reads."""
    asked = f"For a while {_STATED[kind]}. When?" if kind in _STATED else pretext.question(kind)
    if kind in ("slow", "fast"):
        asked += " Go by what moves, not by the times of the frames, which are evenly spaced."
    return f"{asked} Answer with its start and end in seconds and nothing else, as in 14.5-26.2."


def counting_question() -> str:
    """Asks how many, in the form that `rewards.videossr.counting` reads."""
    return (
        "Circles, squares and triangles are drawn on some frames of this video, in any colour and "
        "turned in any direction, sometimes several on one frame. How many of each are there in "
        "all? Answer with the three numbers in this order and nothing else, as in 3,1,4."
    )


def jigsaw_question(clips: int) -> str:
    """Asks for the order, in the form that `rewards.videossr.jigsaw` reads."""
    example = "".join(map(str, [*range(2, clips + 1), 1]))
    return (
        f"These {clips} clips of one video are out of order. Which is their right order? Answer "
        f"with their {clips} numbers in that order and nothing else; {example} would mean that "
        "Clip 1 comes last."
    )


def prompt_lines(sample: PretextSample, *, video: str) -> Sequence[str]:
    """The lines of the user's message, `video` standing for each clip."""
    if len(sample.clips) == 1:
        return (video, sample.question)
    shown = [f"Clip {i}: {video}" for i in range(1, len(sample.clips) + 1)]
    return (*shown, sample.question)
