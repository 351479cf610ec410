"""Annotated videos: questions of an E.T. Instruct file about videos that lie in frame shards.

Training passes over the records again and again, each pass in another order that follows from
(seed, pass). Records are batched with others of the same frame bucket; what is left over in a
bucket fills up the next larger one, so a pass has as many batches as the records allow. What is in
batch `step` is found without the batches before it, which is what exact resuming needs.

Nothing that is wrong with a record or a video ends a run: it is left out and written down.
"""

import collections
import functools
import json
import threading
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from tgvlm_jax import files
from tgvlm_jax.data import annotations, preference
from tgvlm_jax.data.annotations import Annotation, Filters, Rejected
from tgvlm_jax.data.augment import fit
from tgvlm_jax.data.manifest import ShardError, VideoEntry
from tgvlm_jax.data.shards import FrameShards
from tgvlm_jax.schema import DataConfig
from tgvlm_jax.types import InputError, Sample

SKIPPED = "skipped.jsonl"
"""Name of the file in a run's folder that lists what was left out."""
_ORDER, _PLACE = 4, 5  # of random numbers; those before are the pretext task's and the pairs'


class Skipped:
    """What is left out, each once, from any thread."""

    def __init__(self, first: Sequence[Rejected] = ()):
        self._lock = threading.Lock()
        self._found = {one.where: one.reason for one in first}

    def add(self, where: str, reason: str) -> None:
        """Notes one record; a second reason for it is not kept."""
        with self._lock:
            self._found.setdefault(where, reason)

    def __len__(self) -> int:
        return len(self._found)

    def first(self) -> str:
        """The first of them with its reason; "" without any."""
        return next((f"{where}: {reason}" for where, reason in self._found.items()), "")

    def write(self, path: Path) -> None:
        """Writes one JSON object a line; what an earlier part of the run wrote there stays.

        Raises:
            InputError: it cannot be written.
        """
        earlier = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in earlier:
            record = json.loads(line)
            self.add(record["where"], record["reason"])
        with self._lock:
            lines = [json.dumps({"where": w, "reason": r}) for w, r in self._found.items()]
        if len(lines) > len(earlier):
            files.write_text(path, "\n".join(lines) + "\n")


class AnnotatedVideos:
    """Samples from one file.

    Sample number n is record n modulo `len()`, in pass n // `len()`; the first pass of an
    evaluation set is the file in its order.
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
        """`size` is (height, width) in pixels of the frames given out, None as they are stored.

        `split` is "train" or "eval".

        Raises:
            InputError: the file cannot be read, none of its records can be used, or too few for
                one batch; the frame rate is not that of the shards; the seed is negative.
        """
        self.shards, self.config, self.size, self.seed = shards, config, size, seed
        self.training = split == "train"
        key = "annotations" if self.training else "eval_annotations"
        self.path = Path(getattr(config, key))
        if "*" not in self.path.name and not self.path.is_file():
            raise InputError(f"data.{key}={str(self.path)!r}: no such file")
        if seed < 0:
            raise InputError(f"seed={seed}: give 0 or more")
        self._videos = Videos(shards, config)
        limits = Filters(
            words=config.max_words, shortest=config.min_seconds, longest=config.max_seconds
        )
        limits = limits if self.training else annotations.KEEP_ALL
        found = annotations.load(self.path, filters=limits)
        self.skipped = Skipped(found.rejected)
        self.filtered = collections.Counter(found.filtered)
        self.records: list[Annotation] = []
        for one in found.kept:
            if reason := self._videos.unusable(one):
                self.skipped.add(one.where, reason)
            elif reason := annotations.wrong_length(self._videos.duration(one.video), limits):
                self.filtered[reason] += 1
            else:
                self.records.append(one)
        least = config.samples if self.training else 1
        if len(self.records) < least:
            raise InputError(
                f"{self.path}: {len(self.records)} records can be used, {least} are needed; "
                f"left out: {self.skipped.first() or dict(self.filtered)}"
            )
        counts = np.asarray([len(self._videos.frames(one.video)) for one in self.records])
        self._buckets = np.searchsorted(sorted(config.frames), counts)
        self._plan = functools.lru_cache(maxsize=2)(self._order)

    def told(self) -> str:
        """One line for the log."""
        videos = len({one.video for one in self.records})
        left = [f"{len(self.skipped)} left out, see {SKIPPED}"] if len(self.skipped) else []
        filtered = [f"{reason}: {count}" for reason, count in self.filtered.items()]
        about = f"{self.path}: {len(self.records)} records about {videos} videos"
        return "; ".join([about, *left, *filtered])

    @functools.cached_property
    def words(self) -> list[str]:
        """Key words of all answers."""
        return preference.key_words([one.answer for one in self.records])

    def __len__(self) -> int:
        return len(self.records)

    # ------------------------------------------------------------------------- batches

    def numbers(self, step: int) -> list[int]:
        """The samples of global batch `step`."""
        turn, place = divmod(step, len(self) // self.config.samples)
        return [turn * len(self) + int(record) for record in self._plan(turn)[place]]

    def bucket(self, step: int) -> int:
        """Frames that the longest sample of a batch may have."""
        records = np.asarray(self.numbers(step)) % len(self)
        bucket = min(int(self._buckets[records].max()), len(self.config.frames) - 1)
        return sorted(self.config.frames)[bucket]

    def stored_size(self, video: str) -> tuple[int, int]:
        """Height and width of a video's frames, which samples have where `size` is None."""
        return self._videos.size(video)

    def another(self, number: int, *, attempt: int) -> int:
        """A sample of the same pass to take where one will not do."""
        turn, record = divmod(number, len(self))
        return turn * len(self) + (record + attempt) % len(self)

    def _order(self, turn: int) -> Int64[np.ndarray, "batches b"]:
        """Which records make up each batch of a pass."""
        rng = np.random.default_rng([self.seed, _ORDER, turn])
        size, left, batches = self.config.samples, np.zeros(0, np.int64), []
        for bucket in range(len(self.config.frames) + 1):
            here = rng.permutation(np.flatnonzero(self._buckets == bucket))
            here = np.concatenate([left, here])
            whole = len(here) // size * size
            batches.append(here[:whole].reshape(-1, size))
            left = here[whole:]
        return rng.permutation(np.concatenate(batches), axis=0)

    # ------------------------------------------------------------------------- samples

    def sample(self, number: int, *, frames: int, pixels: bool = True) -> Sample:
        """Sample `number`, of at most `frames` frames, evenly spread where the video has more.

        Without `pixels` the frames are of 0 x 0 pixels and all else is the same, at little cost.
        """
        one = self.records[number % len(self)]
        chosen = self._videos.frames(one.video)
        if len(chosen) > frames:
            chosen = chosen[np.linspace(0, len(chosen) - 1, frames).round().astype(np.int64)]
        clip, readable = np.zeros((len(chosen), 0, 0, 3), np.uint8), True
        if pixels:
            try:
                clip = fit(self._videos.read(one.video, chosen), self.size, config=self.config)
            except (ShardError, OSError) as error:
                self.skipped.add(one.where, str(error))
                size = self.size or self._videos.size(one.video)
                clip, readable = np.zeros((len(chosen), *size, 3), np.uint8), False
        return Sample(
            frames=clip,
            seconds=self._videos.seconds(one.video)[chosen],
            duration=self._videos.duration(one.video),
            question=one.question,
            answer=one.answer,
            spans=one.spans,
            video=one.video,
            kind=one.task,
            sources=one.sources,
            video_first=self._video_first(one, number),
            readable=readable,
            truth=one.truth,
        )

    def _video_first(self, one: Annotation, number: int) -> bool:
        """Where a record does not say, training draws it anew in every pass (D2VLM 1.4).

        A question that points into the video comes after it.
        """
        if one.video_first is not None:
            return one.video_first
        if not self.training or len(one.sources):
            return True
        return bool(np.random.default_rng([self.seed, _PLACE, number]).random() < 0.5)


def reasons(
    shards: FrameShards, config: DataConfig, records: Sequence[Annotation]
) -> dict[str, str]:
    """Which of some good records cannot be used with these shards and settings, and why."""
    videos = Videos(shards, config)
    found = {one.where: videos.unusable(one) for one in records}
    return {where: reason for where, reason in found.items() if reason}


class Stored:
    """The videos of a shard folder by the paths that annotations name them with."""

    def __init__(self, shards: FrameShards):
        """Looks nothing up yet."""
        self.shards = shards
        self._ids = set(shards.video_ids)

    def find(self, path: str) -> VideoEntry | None:
        """What is known about a video: named by its path, with its suffix or without."""
        bare = str(PurePosixPath(path).with_suffix(""))
        name = next((name for name in (path, bare) if name in self._ids), None)
        return None if name is None else self.shards.video(name)

    def missing(self, path: str) -> str:
        """Why a video is not there."""
        bare = str(PurePosixPath(path).with_suffix(""))
        for one in self.shards.manifest.skipped:
            if one.id in (path, bare):
                return f"video {path!r} could not be sharded: {one.reason}"
        return f"video {path!r} is not in {self.shards.directory}"


class Videos:
    """The stored videos with their frames at the rate of a config."""

    def __init__(self, shards: FrameShards, config: DataConfig):
        """Raises InputError unless every so-many-th stored frame makes `data.fps`."""
        self.shards, self.config = shards, config
        by_path = Stored(shards)
        self.find, self.missing = by_path.find, by_path.missing
        stored = shards.manifest.settings.fps
        self._stride = max(1, round(stored / config.fps)) if config.fps > 0 else 1
        if abs(config.fps * self._stride - stored) > 1e-6:
            raise InputError(
                f"{shards.directory}: has {stored:g} frames a second, of which data.fps="
                f"{config.fps:g} cannot be taken evenly; set data.fps={stored:g}, or shard again"
            )

    def unusable(self, one: Annotation) -> str:
        """Why a good record cannot be used; "" where it can."""
        if self.find(one.video) is None:
            return self.missing(one.video)
        if not len(self.frames(one.video)):
            return f"video {one.video!r} has no frame that lasts"
        duration = self.duration(one.video)
        latest = max(np.concatenate([one.spans[:, 0], one.sources[:, 0]]), default=0.0)
        if latest > duration:
            return f"an interval starts at {latest:g} s, the video has {duration:g} s"
        for key, spans in (("max_events", one.spans), ("max_sources", one.sources)):
            if len(spans) > (most := getattr(self.config, key)):
                return f"{len(spans)} intervals, but data.{key}={most}"
        return ""

    def _entry(self, path: str) -> VideoEntry:
        found = self.find(path)
        if found is None:
            raise ShardError(self.missing(path))
        return found

    def duration(self, path: str) -> float:
        """Seconds, as the file has them and not as the annotation says."""
        return self._entry(path).duration

    def size(self, path: str) -> tuple[int, int]:
        """Height and width of the stored frames."""
        entry = self._entry(path)
        return entry.height, entry.width

    def seconds(self, path: str) -> Float64[np.ndarray, "f"]:
        """When each stored frame is shown."""
        return np.asarray(self._entry(path).seconds, np.float64)

    def frames(self, path: str) -> Int64[np.ndarray, "f"]:
        """Numbers of the stored frames at the wanted rate.

        Sampled faster than it was filmed, a video repeats frames, which last for no time: they
        are left out.
        """
        seconds = self.seconds(path)
        chosen = np.arange(0, len(seconds), self._stride)
        ends = np.append(seconds[chosen][1:], self.duration(path))
        return chosen[ends > seconds[chosen]]

    def read(self, path: str, chosen: Int64[np.ndarray, "f"]) -> UInt8[np.ndarray, "f y x 3"]:
        """Pixels of some frames."""
        video, steps = self._entry(path).id, np.unique(np.diff(chosen))
        if len(steps) < 2:
            step = int(steps[0]) if len(steps) else 1
            return self.shards.frames(video, int(chosen[0]), int(chosen[-1]) + 1, step=step)
        return np.concatenate([self.shards.frames(video, i, i + 1) for i in chosen.tolist()])
