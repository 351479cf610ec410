"""Takes as samples: a short clip of every view, or what an encoder has made of it (ProfVLM 3.3).

A clip is a few frames, evenly spread over a window of about a second that lies at the same place
in all views. Training draws the place, evaluation takes the middle. Where `tgvlm features` has run
the encoder ahead, training draws one of the windows that were kept, and no frame is read.

What is in batch `step` follows from (seed, step) alone. Nothing that is wrong with a take ends a
run: it is left out and written down.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from tgvlm_jax.data import takes
from tgvlm_jax.data.annotated import SKIPPED, Skipped, Stored
from tgvlm_jax.data.augment import fit
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.data.manifest import ShardError
from tgvlm_jax.data.shards import FrameShards
from tgvlm_jax.data.takes import Take
from tgvlm_jax.data.view_features import FeatureShards, open_features
from tgvlm_jax.schema import DataConfig
from tgvlm_jax.types import InputError, Sample, ViewFeatures, Views

_ORDER, _WINDOW = 4, 6  # of random numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A take to be asked about; `commentary` may be empty."""

    take: Take
    commentary: str


def window_starts(length: float, window: float, count: int) -> Float64[np.ndarray, "_w"]:
    """Where the windows of a take begin that are kept: the middle one, then `count` in order."""
    room = max(0.0, length - window)
    return np.concatenate([[room / 2], np.linspace(0.0, room, count)])


def frame_numbers(
    seconds: Float64[np.ndarray, "n"], start: float, window: float, *, frames: int
) -> Int64[np.ndarray, "f"]:
    """Stored frames that are on screen at `frames` times from `start`, the window's end included.

    `seconds` are when the stored frames come on screen.
    """
    times = start + np.linspace(0.0, window, frames)
    times[-1] -= 1e-6  # the frame before the end, not the one behind it
    return np.maximum(np.searchsorted(seconds, times, side="right") - 1, 0)


class TakeViews:
    """Samples from one annotation file and its shards.

    Sample number n is record n modulo `len()`, in pass n // `len()`.
    """

    words: Sequence[str] = ()
    """Key words to make worse answers of: none."""

    def __init__(
        self,
        shards: FrameShards,
        config: DataConfig,
        *,
        size: tuple[int, int] | None,
        split: str,
        seed: int,
    ):
        """`size` is (height, width) in pixels of the frames given out; `split` "train" or "eval".

        Raises:
            InputError: a file cannot be read, no take of it can be used, or too few for one batch;
                frames are stored too rarely for a window; or cached features are of other windows.
        """
        assert config.takes is not None
        self.shards, self.config, self.takes = shards, config, config.takes
        self.size, self.seed, self.training = size, seed, split == "train"
        self._stored = Stored(shards)
        self.frames = max(config.frames)
        self._check_rate()
        key = "annotations" if self.training else "eval_annotations"
        self.path = Path(getattr(config, key))
        if not self.path.is_file():
            raise InputError(f"data.{key}={str(self.path)!r}: no such file")
        said = self.takes.commentary if self.training else self.takes.eval_commentary
        found = takes.load(self.path, Path(said) if said else None, levels=self.takes.levels)
        self.skipped = Skipped(found.rejected)
        self.filtered: Counter[str] = Counter()
        usable = []
        for take in found.kept:
            if self.there(take).any():
                usable.append(take)
            else:
                self.skipped.add(take.where, self._missing(take))
        self.records = [one for take in usable for one in self._records(take, said=bool(said))]
        least = config.batch_size if self.training else 1
        if len(self.records) < least:
            raise InputError(
                f"{self.path}: {len(self.records)} records can be used, {least} are needed; "
                f"left out: {self.skipped.first() or dict(self.filtered)}"
            )
        self.features = self._open_features()
        self._plan = functools.lru_cache(maxsize=2)(self._order)

    def _check_rate(self) -> None:
        stored, window = self.shards.manifest.settings.fps, self.takes.window
        if stored * window < 0.99 * self.frames:
            raise InputError(
                f"{self.shards.directory}: has {stored:g} frames a second, too few for "
                f"{self.frames} in {window:.4g} s; shard with --fps {self.frames / window:.3g}"
            )

    def _open_features(self) -> FeatureShards | None:
        if not self.takes.features:
            return None
        found = open_features(Path(self.takes.features))
        found.check(self.takes, frames=self.frames)
        for record in self.records:
            views = [self._video(record.take, view) for view in self.takes.views]
            if absent := [video for video in views if video and video not in found.videos]:
                raise InputError(f"{found.folder}: nothing of {absent[0]!r}; run `tgvlm features`")
        return found

    def _records(self, take: Take, *, said: bool) -> list[Record]:
        """What a take is asked as, and with which commentary."""
        rule = self.takes.records if self.training else self.takes.protocol
        texts = tuple(map(self._cut, take.commentaries))
        if not said or rule in ("takes", "official"):
            return [Record(take=take, commentary=texts[0] if texts else "")]
        if not texts:
            self.filtered["without a commentary"] += 1
        return [Record(take=take, commentary=text) for text in texts]

    def _cut(self, text: str) -> str:
        """What is learned, or compared with, of a long commentary."""
        most = self.takes.commentary_tokens
        found = open_chat(self.config).tokenizer.encode(text, add_special_tokens=False)
        return text if len(found) <= most else takes.cut(text, found.offsets[most - 1][1])

    def told(self) -> str:
        """One line for the log."""
        count = len({one.take.uid for one in self.records})
        left = [f"{len(self.skipped)} left out, see {SKIPPED}"] if len(self.skipped) else []
        filtered = [f"{reason}: {number}" for reason, number in self.filtered.items()]
        views = ", ".join(self.takes.views)
        about = f"{self.path}: {len(self.records)} records about {count} takes, views {views}"
        return "; ".join([about, *left, *filtered])

    def __len__(self) -> int:
        return len(self.records)

    # ------------------------------------------------------------------------- views

    def _video(self, take: Take, view: str) -> str | None:
        """Id of the stored video of a view; None where it was not filmed or not stored."""
        path = take.paths.get(view)
        found = None if path is None else self._stored.find(path)
        return found.id if found is not None and len(found.seconds) else None

    def there(self, take: Take) -> np.ndarray:
        """Which of the configured views can be shown."""
        return np.asarray([self._video(take, view) is not None for view in self.takes.views])

    def _missing(self, take: Take) -> str:
        reasons = [self._stored.missing(take.paths[v]) for v in self.takes.views if v in take.paths]
        return reasons[0] if reasons else f"filmed by none of {', '.join(self.takes.views)}"

    def videos(self, take: Take) -> dict[str, str]:
        """Ids of all stored videos of a take, whether a model is shown them or not, by view."""
        found = {view: self._video(take, view) for view in take.paths}
        return {view: video for view, video in found.items() if video is not None}

    def length(self, take: Take) -> float:
        """Seconds that all videos of a take have."""
        return min(self.shards.video(video).duration for video in self.videos(take).values())

    def clip(self, video: str, start: float, window: float) -> UInt8[np.ndarray, "f y x 3"]:
        """Frames of one view, as the encoder takes them.

        Raises:
            ShardError: they cannot be read.
        """
        numbers = frame_numbers(self.shards.seconds(video), start, window, frames=self.frames)
        read = {i: self.shards.frames(video, i, i + 1) for i in np.unique(numbers).tolist()}
        pixels = np.concatenate([read[i] for i in numbers.tolist()])
        return fit(pixels, self.size, config=self.config)

    # ------------------------------------------------------------------------- batches

    def numbers(self, step: int) -> list[int]:
        """The samples of global batch `step`."""
        turn, place = divmod(step, len(self) // self.config.batch_size)
        return [turn * len(self) + int(record) for record in self._plan(turn)[place]]

    def bucket(self, step: int) -> int:
        """Frames of a clip."""
        return self.frames

    def another(self, number: int, *, attempt: int) -> int:
        """A sample of the same pass to take where one will not do."""
        turn, record = divmod(number, len(self))
        return turn * len(self) + (record + attempt) % len(self)

    def _order(self, turn: int) -> Int64[np.ndarray, "batches b"]:
        rng, size = np.random.default_rng([self.seed, _ORDER, turn]), self.config.batch_size
        order = rng.permutation(len(self))
        return order[: len(self) // size * size].reshape(-1, size)

    def sample(self, number: int, *, frames: int, pixels: bool = True) -> Sample:
        """Sample `number`; without `pixels` its views are empty and all else is the same."""
        record = self.records[number % len(self)]
        take, mask = record.take, self.there(record.take)
        length = self.length(take)
        window, choice = self._window(number, length)
        views, readable = self._blank(mask), True
        if pixels or self.features is not None:
            try:
                views = self._views(take, mask, window, choice)
            except (ShardError, OSError) as error:
                self.skipped.add(take.where, str(error))
                readable = False
        start, span = float(window[0].min()), float(window[1])
        by_word = not self.training and self.takes.protocol == "authors"
        return Sample(
            frames=np.zeros((self.frames, 0, 0, 3), np.uint8),
            seconds=start + np.linspace(0.0, span, self.frames, endpoint=False),
            duration=start + span,
            question=self.takes.question,
            answer=takes.answer(take.level, record.commentary, label=self.takes.label),
            spans=np.zeros((0, 2)),
            video=take.uid,
            kind=take.keyword() if by_word else take.scenario,
            video_first=False,
            readable=readable,
            views=views,
        )

    def _window(
        self, number: int, length: float
    ) -> tuple[tuple[Float64[np.ndarray, "v"], float], int]:
        """Where each view's window starts and how long it is, and which kept one it is."""
        config, count = self.takes, len(self.takes.views)
        window = min(config.window, length)
        starts = window_starts(length, window, config.windows)
        if not self.training:
            uniform = config.eval_window == "uniform"
            at = (np.zeros(count), length) if uniform else (np.full(count, starts[0]), window)
            return at, 0
        rng = np.random.default_rng([self.seed, _WINDOW, number])
        if self.features is not None:
            choice = int(rng.integers(1, len(starts)))
            return (np.full(count, starts[choice]), window), choice
        drawn = rng.uniform(0.0, length - window, count if config.independent_windows else 1)
        return (np.broadcast_to(drawn, count), window), 0

    def _blank(self, mask: np.ndarray) -> Views | ViewFeatures:
        if self.features is not None:
            shape = (len(mask), self.features.width)
            return ViewFeatures(vectors=np.zeros(shape, np.float32), mask=mask)
        size = self.size or (0, 0)
        return Views(clips=np.zeros((len(mask), self.frames, *size, 3), np.uint8), mask=mask)

    def _views(
        self,
        take: Take,
        mask: np.ndarray,
        window: tuple[Float64[np.ndarray, "v"], float],
        choice: int,
    ) -> Views | ViewFeatures:
        blank, (starts, span) = self._blank(mask), window
        values = blank.vectors if isinstance(blank, ViewFeatures) else blank.clips
        for place, view in enumerate(self.takes.views):
            video = self._video(take, view)
            if video is None:
                continue
            if self.features is not None:
                values[place] = self.features.vectors(video)[choice]
            else:
                values[place] = self.clip(video, float(starts[place]), span)
        return blank
