"""Anomaly grounding: grounded questions made from any video, no annotation needed (VideoSSR 3.1.1).

A stretch of a clip is changed, and the model is asked when. Sample i is a pure function of the
seed and i, so any sample can be made again, by any worker, in any order.
"""

import dataclasses

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from tgvlm_jax.data.anomalies import perturb
from tgvlm_jax.data.chat import EVIDENCE, EVIDENCE_END
from tgvlm_jax.data.shards import FrameShards
from tgvlm_jax.grounding import spans
from tgvlm_jax.schema import DataConfig
from tgvlm_jax.types import InputError, Sample

# A stretch takes this share of the clip: 8 to 16 of 48 frames (VideoSSR 3.1.1).
SHARE = (1 / 6, 1 / 3)

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Windows:
    """Every place a clip of one length may start: parallel arrays of video number and frame."""

    video: Int64[np.ndarray, "w"]
    start: Int64[np.ndarray, "w"]


class AnomalyGrounding:
    """Samples from one part of a shard folder.

    Training clips are cropped, flipped and recoloured as a whole, so that a film of ten minutes
    does not run out; evaluation clips are left as they are, and their kinds take turns.
    """

    def __init__(
        self,
        shards: FrameShards,
        config: DataConfig,
        *,
        size: tuple[int, int],
        split: str,
        seed: int,
    ):
        """`size` is (height, width) in pixels of the frames given out.

        Raises:
            InputError: no video has room for a clip of the longest bucket.
        """
        self.shards, self.config, self.size, self.seed = shards, config, size, seed
        self.training = split == "train"
        self.span = config.train_span if self.training else config.eval_span
        strides = config.strides if self.training else config.strides[:1]
        self._windows = {
            (frames, stride): self._find(frames, stride)
            for frames in config.frames
            for stride in strides
        }
        for frames in config.frames:
            if not any(len(w.start) for (f, _), w in self._windows.items() if f == frames):
                raise InputError(
                    f"no video has room for a {split} clip of {frames} frames: take fewer "
                    "(data.frames), a wider part (data.train_span, data.eval_span), or shard at "
                    "a higher fps"
                )

    def sample(self, index: int, *, frames: int) -> Sample:
        """Sample number `index`, with a clip of `frames` frames."""
        rng = np.random.default_rng([self.seed, int(self.training), index])
        kinds = self.config.kinds
        kind = kinds[int(rng.integers(len(kinds)))] if self.training else kinds[index % len(kinds)]
        options = [s for (f, s), w in self._windows.items() if f == frames and len(w.start)]
        stride = int(rng.choice(options))
        windows = self._windows[frames, stride]
        place = int(rng.integers(len(windows.start)))
        video = self.shards.video_ids[windows.video[place]]
        start = int(windows.start[place])
        stop = start + (frames - 1) * stride + 1
        clip = self.shards.frames(video, start, stop, step=stride)
        seconds = self.shards.seconds(video)

        length = int(rng.integers(max(1, round(frames * SHARE[0])), round(frames * SHARE[1]) + 1))
        first = int(rng.integers(0, frames - length + 1))
        changed = perturb(clip[first : first + length], kind, rng=rng)
        clip = np.concatenate([clip[:first], changed, clip[first + length :]])
        clip = self._augment(clip, rng) if self.training else resize(clip, self.size)

        times = seconds[start:stop:stride]
        follows = start + frames * stride
        entry = self.shards.video(video)
        end = float(seconds[follows]) if follows < len(seconds) else float(entry.duration)
        bounds = np.asarray([[first, first + length - 1]])
        return Sample(
            frames=clip,
            seconds=times,
            duration=end,
            question=question(kind, form=int(rng.integers(len(_QUESTIONS)))),
            answer=answer(kind),
            spans=spans.frames_to_seconds(bounds, times, duration=end),
            video=video,
            kind=kind,
        )

    def _find(self, frames: int, stride: int) -> _Windows:
        videos, starts = [], []
        for number, video in enumerate(self.shards.video_ids):
            seconds, duration = self.shards.seconds(video), self.shards.video(video).duration
            low, high = (share * duration for share in self.span)
            usable = (seconds >= low) & (seconds < high)
            for skip_start, skip_end in self.config.skip_seconds:
                usable &= ~((seconds >= skip_start) & (seconds < skip_end))
            # A window is usable when no frame between its ends is not.
            blocked = np.concatenate([[0], np.cumsum(~usable)])
            reach = (frames - 1) * stride + 1
            start = np.arange(max(0, len(seconds) - reach + 1))
            start = start[blocked[start + reach] == blocked[start]]
            videos.append(np.full(len(start), number))
            starts.append(start)
        return _Windows(video=np.concatenate(videos), start=np.concatenate(starts))

    def _augment(self, clip: UInt8[np.ndarray, "f y x 3"], rng: np.random.Generator):
        """One random crop, flip and colour change for the whole clip."""
        _, height, width, _ = clip.shape
        wide = rng.uniform(self.config.crop, 1.0)
        tall = wide * rng.uniform(0.9, 1.0)
        left, top = rng.uniform(0, 1 - wide) * width, rng.uniform(0, 1 - tall) * height
        clip = resize(clip, self.size, box=(left, top, left + wide * width, top + tall * height))
        if rng.random() < 0.5:
            clip = clip[:, :, ::-1]
        strength = np.float32(self.config.jitter)
        mix = np.eye(3, dtype=np.float32)
        mix += 0.15 * strength * rng.standard_normal((3, 3), dtype=np.float32)
        shift = 20 * strength * rng.standard_normal(3, dtype=np.float32)
        changed = (clip.astype(np.float32) - 128) @ mix + (128 + shift)
        return np.clip(changed, 0, 255).astype(np.uint8)


def resize(
    clip: UInt8[np.ndarray, "f y x 3"],
    size: tuple[int, int],
    *,
    box: tuple[float, float, float, float] | None = None,
) -> UInt8[np.ndarray, "f Y X 3"]:
    """Scales (a box of) every frame to (height, width), antialiased."""
    height, width = size
    return np.stack(
        [
            np.asarray(
                Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR, box=box)
            )
            for frame in np.ascontiguousarray(clip)
        ]
    )
