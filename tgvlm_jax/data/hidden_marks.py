"""Questions that the first look at a video cannot answer, made out of any video.

A clip is a pool of frames, of which `data.turns.first` are shown at first. Somewhere between two of
these (or of `data.turns.hidden`) a coloured disc is on screen for a moment; the frames around that
moment, those two among them, have a white bar on the left. The question is the disc's colour. So
the bar says where to look, and only looking there gives the answer; nobody has to annotate anything
(Video-MTR 8).

Sample i is a pure function of the seed and i.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from tgvlm_jax.data import pretext_shapes
from tgvlm_jax.data.augment import draw_look, resize
from tgvlm_jax.data.pretext_shapes import Drawing
from tgvlm_jax.data.windows import ClipSource, Window
from tgvlm_jax.types import InputError, Sample

COLOURS = {
    "red": (230, 20, 20),
    "green": (20, 200, 20),
    "blue": (20, 40, 240),
    "pink": (250, 20, 230),
}
OPTIONS = tuple(f"{letter}. {name}" for letter, name in zip("ABCD", COLOURS, strict=True))
QUESTION = "Which colour has the disc that is on screen near the white bars?"
KIND = "multiple choice/hidden"
_SHOWN = 2  # frames that have the disc
_BAR = 0.12  # of the width
_SIZES = (0.45, 0.65)  # of the shorter side


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is drawn on a pool.

    Attributes:
        disc: frames with the disc. bar: frames with the bar.
        colour: its place in `COLOURS`. size, x, y: of the disc, as fractions.
    """

    disc: range
    bar: range
    colour: int
    size: float
    x: float
    y: float


def plan(pool: int, first: int, rng: np.random.Generator) -> Plan:
    """Draws where the disc is, never in one of the `first` frames that are spread over the pool.

    Raises:
        InputError: fewer than two frames lie between those.
    """
    shown = np.linspace(0, pool - 1, first).astype(np.int64)
    gaps = np.flatnonzero(np.diff(shown) > _SHOWN)
    if not len(gaps):
        raise InputError(
            f"{pool} frames, {first} of them shown at first, hide nothing: raise data.frames or "
            "lower data.turns.first"
        )
    gap = int(rng.choice(gaps))
    low, high = int(shown[gap]), int(shown[gap + 1])
    start = int(rng.integers(low + 1, high - _SHOWN + 1))
    return Plan(
        disc=range(start, start + _SHOWN),
        bar=range(low, high + 1),
        colour=int(rng.integers(len(COLOURS))),
        size=float(rng.uniform(*_SIZES)),
        x=float(rng.uniform(0.4, 0.75)),
        y=float(rng.uniform(0.35, 0.65)),
    )


def draw(pool: UInt8[np.ndarray, "f y x 3"], made: Plan) -> UInt8[np.ndarray, "f y x 3"]:
    """The pool with bar and disc on it."""
    pool = pool.copy()
    height, width = pool.shape[1:3]
    pool[made.bar.start : made.bar.stop, :, : max(1, round(_BAR * width))] = 255
    disc = Drawing(
        shape="circle",
        size=round(made.size * min(height, width)),
        centre=(round(made.x * width), round(made.y * height)),
        angle=0.0,
        colour=list(COLOURS.values())[made.colour],
    )
    for frame in made.disc:
        pool[frame] = pretext_shapes.draw(pool[frame], disc)
    return pool


class HiddenMarks(ClipSource):
    """Samples from one part of a shard folder; `Sample.frames` are the pool."""

    def check(self) -> None:
        """Raises InputError: pools too small to hide anything."""
        for frames in self.config.frames:
            plan(frames, self.between, np.random.default_rng(0))

    @property
    def between(self) -> int:
        """How many frames, evenly spread over the pool, marks lie between two of."""
        turns = self.config.turns
        assert turns is not None, "data.sources asks for this only then"
        return turns.hidden or turns.first

    @property
    def words(self) -> Sequence[str]:
        """None: answers are letters."""
        return ()

    def sample(self, index: int, *, frames: int, pixels: bool = True) -> Sample:
        """Sample number `index` with a pool of `frames`; without `pixels`, of 0 x 0 pixels."""
        rng = np.random.default_rng([self.seed, int(self.training), index])
        window = self.windows.draw(frames, rng)
        made = plan(frames, self.between, rng)
        pool = np.zeros((frames, 0, 0, 3), np.uint8)
        if pixels:
            look = draw_look(self.config, rng) if self.training else None
            stored = self.windows.stored(window.video, window.numbers)
            pool = draw(resize(stored, self.size, look=look), made)
        return _sample(window, made, pool)


def _sample(window: Window, made: Plan, pool: UInt8[np.ndarray, "f y x 3"]) -> Sample:
    seconds = window.seconds - window.seconds[0]
    return Sample(
        frames=pool,
        seconds=seconds,
        duration=float(window.end - window.seconds[0]),
        question=QUESTION,
        answer=OPTIONS[made.colour][0],
        spans=seconds[[made.disc.start, made.disc.stop - 1]][None],
        video=window.video,
        kind=KIND,
        options=OPTIONS,
    )
