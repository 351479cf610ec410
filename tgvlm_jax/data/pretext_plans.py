"""What a VideoSSR question is about, drawn from a seed before any pixel is seen (VideoSSR 1).

A clip is `frames` frames of one video. A plan says which of them are changed or moved, and so what
the right answer is; how hard it is, is data. Draws follow the released generators one by one, from
Python's `random`, so a seed gives the sample that theirs gives.

Shown time is not real time: the k-th frame is shown at k / fps with fps = frames / duration,
whichever part of the video the clip was taken from.
"""

import dataclasses
import random
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from tgvlm_jax.types import InputError

RELEASED_KINDS = (
    "grayscale", "invert", "channel_swap", "rotate90", "rotate180", "rotate270", "noise", "zoom_in",
    "zoom_out", "mirror", "blur", "saturation", "shuffle", "stutter", "swap",
)  # fmt: skip
"""Of the released generator. "swap" takes the stretch from another video."""
PAPER_KINDS = (
    "saturation", "noise", "blur", "grayscale", "invert", "channel_swap", "zoom_in", "rotate180",
    "zoom_out", "mirror", "slow", "fast", "stutter", "shuffle",
)  # fmt: skip
"""Of the paper; "slow" and "fast" change how densely the stretch is sampled."""
TRAINED_KINDS = ("channel_swap", "mirror", "zoom_out", "rotate180")
"""Those in the released training set."""
SHAPES = ("circle", "square", "triangle")
"""In the order in which an answer counts them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnomalyLevel:
    """How long the changed stretch is, in frames; slow and fast are frame steps in the video."""

    frames: int = 48
    shortest: int = 8
    longest: int = 16
    slow: float = 0.5
    fast: float = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountingLevel:
    """A shape appears on 1 to `appearances` frames, 1 to `instances` times on each.

    Frames of the same shape are more than `apart` frames from each other.
    """

    frames: int = 48
    appearances: int = 3
    instances: int = 3
    apart: int = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class JigsawLevel:
    """Into how many clips of equal length the frames are cut."""

    frames: int = 48
    clips: int = 6


COUNTING = {"easy": CountingLevel(), "hard": CountingLevel(appearances=4, instances=4)}
JIGSAW = {"easy": JigsawLevel(), "hard": JigsawLevel(clips=8)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnomalyPlan:
    """A stretch of `length` frames from `start` in which something is wrong.

    Attributes:
        order: which of the clip's frames is shown at each place.
        other: the video that the stretch is taken from instead, for "swap".
        speed: frame steps in the video per shown frame of the stretch, for "slow" and "fast".
    """

    kind: str
    start: int
    length: int
    order: tuple[int, ...]
    other: str | None = None
    speed: float = 1.0

    def answer(self, fps: float) -> str:
        """When, in seconds of shown time."""
        return f"{self.start / fps:.1f}-{(self.start + self.length) / fps:.1f}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """`count` instances of one shape on one frame."""

    frame: int
    shape: str
    count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountingPlan:
    """What is drawn on which frames; no frame has two kinds of shape."""

    marks: tuple[Mark, ...]

    def answer(self) -> str:
        """How often each shape is seen, frames added up."""
        counts = [sum(m.count for m in self.marks if m.shape == shape) for shape in SHAPES]
        return ",".join(map(str, counts))


@dataclasses.dataclass(frozen=True, kw_only=True)
class JigsawPlan:
    """Clips out of order: `order[i]` is the true place, from 0, of the i-th clip shown."""

    order: tuple[int, ...]
    length: int

    def frames(self, shown: int) -> range:
        """The frames of the clip at one place."""
        first = self.order[shown] * self.length
        return range(first, first + self.length)

    def answer(self) -> str:
        """The shown numbers, from 1, in their true order."""
        return "".join(str(self.order.index(place) + 1) for place in range(len(self.order)))


def plan_anomaly(
    kind: str, rng: random.Random, *, level: AnomalyLevel | None = None, others: Sequence[str] = ()
) -> AnomalyPlan:
    """Where something goes wrong, and for "shuffle", "stutter" and "swap" how.

    A shuffled stretch may keep its order, as the released ones may.

    Args:
        others: ids of other videos, for "swap".

    Raises:
        InputError: an unknown kind, or a swap with no other video.
    """
    if kind not in RELEASED_KINDS and kind not in PAPER_KINDS:
        known = ", ".join(dict.fromkeys(RELEASED_KINDS + PAPER_KINDS))
        raise InputError(f"anomaly {kind!r} is not one of {known}")
    level = level or AnomalyLevel()
    length = rng.randint(level.shortest, level.longest)
    start = rng.randint(0, level.frames - length)
    order = list(range(level.frames))
    other, speed = None, 1.0
    match kind:
        case "shuffle":
            stretch = order[start : start + length]
            rng.shuffle(stretch)
            order[start : start + length] = stretch
        case "stutter":
            held = rng.choice((2, 3, 4, 5))
            keys = start + np.linspace(0, length - 1, held).astype(int)
            repeats = length // held + (np.arange(held) < length % held)
            order[start : start + length] = np.repeat(keys, repeats).tolist()
        case "swap":
            if not others:
                raise InputError("a stretch is swapped with another video; give at least two")
            other = rng.choice(list(others))
        case "slow":
            speed = level.slow
        case "fast":
            speed = level.fast
    return AnomalyPlan(
        kind=kind, start=start, length=length, order=tuple(order), other=other, speed=speed
    )


def plan_counting(rng: random.Random, *, level: CountingLevel | None = None) -> CountingPlan:
    """On which frames shapes appear, and how many."""
    level = level or CountingLevel()
    free = list(range(level.frames))
    marks = []
    for shape in SHAPES:
        wanted = rng.randint(1, level.appearances)
        drawn = list(free)
        rng.shuffle(drawn)
        taken: list[int] = []
        for frame in drawn:
            if all(abs(frame - one) > level.apart for one in taken):
                taken.append(frame)
            if len(taken) == wanted:
                break
        free = [frame for frame in free if frame not in taken]
        marks += [
            Mark(frame=frame, shape=shape, count=rng.randint(1, level.instances)) for frame in taken
        ]
    return CountingPlan(marks=tuple(marks))


def plan_jigsaw(rng: random.Random, *, level: JigsawLevel | None = None) -> JigsawPlan:
    """A random order of clips; it may be the true one.

    Raises:
        InputError: more than 9 clips, which a digit each cannot name, or frames left over.
    """
    level = level or JigsawLevel()
    if not 1 <= level.clips <= 9 or level.frames % level.clips:
        raise InputError(
            f"{level.frames} frames in {level.clips} clips: give 1 to 9 that divide the frames"
        )
    order = list(range(level.clips))
    rng.shuffle(order)
    return JigsawPlan(order=tuple(order), length=level.frames // level.clips)


def sample_frames(count: int, *, frames: int = 48) -> Int64[np.ndarray, "f"]:
    """Which frames of a video of `count` the released sampler takes: evenly from its middle 90 %.

    Steps are whole frames, so up to a step's worth at the end goes unused.

    Raises:
        InputError: the video is too short.
    """
    first, behind = int(0.05 * count), int(0.95 * count)
    if behind - first < frames:
        raise InputError(
            f"a video of {count} frames has fewer than {frames} in its middle 90 %; take a longer "
            "one, or fewer frames"
        )
    return first + np.arange(frames) * ((behind - first) // frames)


def source_seconds(plan: AnomalyPlan, *, start: float, end: float) -> Float64[np.ndarray, "f"]:
    """The second of the video that each shown frame is taken from.

    Frames are spread evenly over [start, end) seconds of the video. A slow or fast stretch is
    sampled more densely or sparsely, and all else so that the whole is still covered; shown times
    stay even (VideoSSR 1.1; the paper names the task and gives no numbers).
    """
    steps = np.ones(len(plan.order))
    steps[plan.start : plan.start + plan.length] = plan.speed
    places = np.concatenate([[0.0], np.cumsum(steps)])
    return start + (end - start) * places[list(plan.order)] / places[-1]
