"""Anomaly grounding: grounded questions made from any video, no annotation needed (VideoSSR 3.1.1).

A stretch of a clip is changed, and the model is asked when. Sample i is a pure function of the
seed and i, so any sample can be made again, by any worker, in any order.
"""

from collections.abc import Sequence

import numpy as np

from tgvlm_jax.data.anomalies import perturb
from tgvlm_jax.data.augment import draw_look, resize
from tgvlm_jax.data.chat import EVIDENCE, EVIDENCE_END
from tgvlm_jax.data.preference import key_words
from tgvlm_jax.data.windows import ClipSource
from tgvlm_jax.grounding import spans
from tgvlm_jax.types import InputError, Sample

# A stretch takes this share of the clip: 8 to 16 of 48 frames (VideoSSR 3.1.1).
SHARE = (1 / 6, 1 / 3)
_LEAST = 4  # frames of a clip, so that two that changed leave as many that did not

# What is the case, and the same asked.
_PHRASES = {
    "grayscale": ("the picture has no colour", "has the picture no colour"),
    "invert": ("the colours are inverted", "are the colours inverted"),
    "channel_swap": ("red and blue are swapped", "are red and blue swapped"),
    "rotate180": ("the picture is upside down", "is the picture upside down"),
    "mirror": ("the picture is mirrored", "is the picture mirrored"),
    "noise": ("the picture is full of noise", "is the picture full of noise"),
    "blur": ("the picture is blurred", "is the picture blurred"),
    "saturation": ("the colours are too strong", "are the colours too strong"),
    "zoom_in": ("the camera has zoomed in", "has the camera zoomed in"),
    "zoom_out": ("the picture has a black frame", "has the picture a black frame"),
    "shuffle": ("the frames are out of order", "are the frames out of order"),
    "stutter": ("the video stutters", "does the video stutter"),
}
_QUESTIONS = (
    "When {asked}?",
    "In which part of the video {asked}?",
    "Find the moment when {stated}.",
    "For a while {stated}. When does that happen?",
)
_ANSWER = f"{EVIDENCE}{EVIDENCE_END} From {EVIDENCE} {{stated}}."


def question(kind: str, *, form: int = 0) -> str:
    """One of the ways to ask for a kind of anomaly."""
    stated, asked = _PHRASES[kind]
    return _QUESTIONS[form % len(_QUESTIONS)].format(stated=stated, asked=asked)


def answer(kind: str) -> str:
    """The answer that goes with it, times left to the evidence."""
    return _ANSWER.format(stated=_PHRASES[kind][0])


def sentences() -> list[str]:
    """Everything that can be asked or answered."""
    asked = [question(kind, form=i) for kind in _PHRASES for i in range(len(_QUESTIONS))]
    return asked + [answer(kind) for kind in _PHRASES]


_WORDS = tuple(key_words([answer(kind) for kind in _PHRASES]))


class AnomalyGrounding(ClipSource):
    """Samples from one part of a shard folder.

    Training clips are cropped, flipped and recoloured as a whole, so that a film of ten minutes
    does not run out; evaluation clips are left as they are, and their kinds take turns. The
    frames used last stay decoded, so that such a film is decoded about once.
    """

    def check(self) -> None:
        """Raises InputError: a bucket is too short to have something wrong in a part of it."""
        frames = self.config.frames
        if min(frames) < _LEAST:
            raise InputError(f"data.frames={frames}: a clip needs at least {_LEAST} frames")

    @property
    def words(self) -> Sequence[str]:
        """Key words of all answers."""
        return _WORDS

    def sample(self, index: int, *, frames: int, pixels: bool = True) -> Sample:
        """Sample number `index`, with a clip of `frames` frames.

        Without `pixels` the frames are of 0 x 0 pixels and all else is the same, at little cost.
        """
        rng = np.random.default_rng([self.seed, int(self.training), index])
        kinds = self.config.kinds
        kind = kinds[int(rng.integers(len(kinds)))] if self.training else kinds[index % len(kinds)]
        window = self.windows.draw(frames, rng)

        fewest = max(2, round(frames * SHARE[0]))
        length = int(rng.integers(fewest, max(fewest, round(frames * SHARE[1])) + 1))
        first = int(rng.integers(0, frames - length + 1))
        form = int(rng.integers(len(_QUESTIONS)))
        look = draw_look(self.config, rng) if self.training else None

        clip = np.zeros((frames, 0, 0, 3), np.uint8)
        if pixels:
            stored = self.windows.stored(window.video, window.numbers)
            changed = slice(first, first + length)
            stored[changed] = perturb(stored[changed], kind, rng=rng)
            clip = resize(stored, self.size, look=look)

        bounds = np.asarray([[first, first + length - 1]])
        return Sample(
            frames=clip,
            seconds=window.seconds,
            duration=window.end,
            question=question(kind, form=form),
            answer=answer(kind),
            spans=spans.frames_to_seconds(bounds, window.seconds, duration=window.end),
            video=window.video,
            kind=kind,
        )
