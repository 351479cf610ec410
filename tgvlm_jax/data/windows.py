"""Where clips come from: every place in a shard folder at which one of a given length may start.

Sources that make questions out of the videos themselves own one `Windows`. `ClipSource`, what they
share, says which samples a batch has, so that a batch is a pure function of (seed, step).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from tgvlm_jax.data.shards import FrameShards
from tgvlm_jax.schema import DataConfig
from tgvlm_jax.types import InputError

_KEPT_BYTES = 64 * 2**20  # of decoded frames
_BUCKET_STREAM = 2  # of random numbers; 0 and 1 are those of the samples
_FAR = 1 << 32  # samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """Frames `numbers` of a video.

    Attributes:
        seconds: when each is shown. end: when the frame behind the last one is, or the video ends.
    """

    video: str
    numbers: range
    seconds: Float64[np.ndarray, "f"]
    end: float


def window(shards: FrameShards, video: str, numbers: range) -> Window:
    """Frames of a video with their times; raises ShardError where there is no such video."""
    seconds = shards.seconds(video)
    more = numbers.stop < len(seconds)
    return Window(
        video=video,
        numbers=numbers,
        seconds=seconds[numbers.start : numbers.stop : numbers.step],
        end=float(seconds[numbers.stop]) if more else shards.video(video).duration,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Starts:
    """Parallel arrays of video number and first frame."""

    video: Int64[np.ndarray, "w"]
    start: Int64[np.ndarray, "w"]


class Windows:
    """Clips of one part of every video.

    The frames used last stay decoded, so that a film of ten minutes is decoded about once.
    """

    def __init__(self, shards: FrameShards, config: DataConfig, *, split: str, seed: int):
        """`split` is "train" or "eval"; evaluation clips take the first of `data.strides`.

        Raises:
            InputError: the shards have another frame rate than the config says, no video has
                room for a clip of some bucket, or the seed is negative.
        """
        self._shards, self._config = shards, config
        training = split == "train"
        self._span = config.train_span if training else config.eval_span
        fps = shards.manifest.settings.fps
        if fps != config.fps:
            raise InputError(
                f"{shards.directory}: has {fps:g} frames a second, but data.fps={config.fps:g}; "
                f"set data.fps={fps:g}, or shard again"
            )
        if seed < 0:
            raise InputError(f"seed={seed}: give 0 or more")
        self._videos = shards.video_ids
        self._seconds = {video: shards.seconds(video) for video in self._videos}
        largest = max(3 * entry.height * entry.width for entry in shards.manifest.videos)
        self._frame = functools.lru_cache(_KEPT_BYTES // largest)(
            functools.partial(_decode, shards)
        )
        strides = config.strides if training else config.strides[:1]
        self._starts = {
            frames: {stride: found for stride in strides if (found := self._find(frames, stride))}
            for frames in config.frames
        }
        for frames, found in self._starts.items():
            if not found:
                kind = "a training" if training else "an evaluation"
                raise InputError(
                    f"no video has room for {kind} clip of {frames} frames: take fewer "
                    "(data.frames), a wider part (data.train_span, data.eval_span), or shard at "
                    "another fps"
                )

    def draw(self, frames: int, rng: np.random.Generator) -> Window:
        """A clip of `frames` frames, one of the buckets: first its stride, then its place."""
        stride = int(rng.choice(list(self._starts[frames])))
        starts = self._starts[frames][stride]
        place = int(rng.integers(len(starts.start)))
        video, start = self._videos[starts.video[place]], int(starts.start[place])
        return window(self._shards, video, range(start, start + frames * stride, stride))

    def stored(self, video: str, numbers: Sequence[int]) -> UInt8[np.ndarray, "f y x 3"]:
        """Frames of a video as they are stored; the caller may write into them."""
        return np.stack([self._frame(video, number) for number in numbers])

    def _find(self, frames: int, stride: int) -> _Starts | None:
        videos, starts = [], []
        for number, video in enumerate(self._videos):
            seconds, duration = self._seconds[video], self._shards.video(video).duration
            ends = np.append(seconds[1:], duration)
            low, high = (share * duration for share in self._span)
            # Sampled faster than it was filmed, a video repeats frames, which last for no time.
            usable = (seconds >= low) & (seconds < high) & (ends > seconds)
            for skip_start, skip_end in self._config.skip_seconds:
                usable &= (ends <= skip_start) | (seconds >= skip_end)
            # A window is usable when no frame between its ends is not.
            blocked = np.concatenate([[0], np.cumsum(~usable)])
            reach = (frames - 1) * stride + 1
            start = np.arange(max(0, len(seconds) - reach + 1))
            start = start[blocked[start + reach] == blocked[start]]
            videos.append(np.full(len(start), number))
            starts.append(start)
        found = _Starts(video=np.concatenate(videos), start=np.concatenate(starts))
        return found if len(found.start) else None


class ClipSource:
    """What sources of samples made out of clips share; which samples there are, and in what order.

    Sample i is a pure function of the seed and i.
    """

    def __init__(
        self,
        shards: FrameShards,
        config: DataConfig,
        *,
        size: tuple[int, int] | None,
        split: str,
        seed: int,
    ):
        """`split` is "train" or "eval".

        `size` is (height, width) in pixels of the frames given out, None as they are stored.

        Raises:
            InputError: what `check` or `Windows` refuses.
        """
        self.shards, self.config, self.size, self.seed = shards, config, size, seed
        self.split, self.training = split, split == "train"
        self.check()
        self.windows = Windows(shards, config, split=split, seed=seed)

    def check(self) -> None:
        """Raises InputError where nothing can be asked with this config, whatever the videos."""

    def __reduce__(self) -> tuple[Any, ...]:
        keywords = {"size": self.size, "split": self.split, "seed": self.seed}
        return functools.partial(type(self), **keywords), (self.shards, self.config)

    def numbers(self, step: int) -> range:
        """The samples of global batch `step`."""
        size = self.config.samples
        return range(step * size, (step + 1) * size)

    def bucket(self, step: int) -> int:
        """Frames that the clips of a batch have."""
        rng = np.random.default_rng([self.seed, _BUCKET_STREAM, step])
        return int(rng.choice(self.config.frames))

    def stored_size(self, video: str) -> tuple[int, int]:
        """Height and width of a video's frames, which samples have where `size` is None."""
        entry = self.shards.video(video)
        return entry.height, entry.width

    def another(self, number: int, *, attempt: int) -> int:
        """A sample to take where one will not do; far from those of any run."""
        return number + attempt * _FAR


def _decode(shards: FrameShards, video: str, number: int) -> UInt8[np.ndarray, "y x 3"]:
    return shards.frames(video, number, number + 1)[0]
