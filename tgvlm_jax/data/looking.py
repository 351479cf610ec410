"""Annotated questions to be looked into turn by turn: the records that Video-MTR trains on (4).

A file is a JSON list of records in the layout of Video-R1, as `tgvlm_jax.data.curation` writes
them: `problem_id`, `problem`, `problem_type`, `options`, `solution` ("<answer>B</answer>"), `path`,
`data_source`, `duration` and `relevant_windows` in seconds. The pool is drawn anew from the shards,
and which of its frames matter follows from the windows: `relevant_sample_frames` of the released
file fits one size of pool only, and is not read.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float64

from tgvlm_jax.data import record_files
from tgvlm_jax.data.annotated import Skipped
from tgvlm_jax.data.augment import fit
from tgvlm_jax.data.frame_pool import frame_pool
from tgvlm_jax.data.manifest import ShardError
from tgvlm_jax.data.shards import FrameShards
from tgvlm_jax.schema import DataConfig
from tgvlm_jax.types import InputError, Sample

KINDS = ("multiple choice", "numerical", "free-form")
_ORDER = 6  # of the streams of random numbers
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """One record.

    Attributes:
        where: file and number of it. video: path below the folder of videos.
        options: begin with their letters. answer: the truth, bare.
        windows: (start, end) seconds that matter; none where nobody said.
    """

    where: str
    video: str
    question: str
    kind: str
    options: tuple[str, ...]
    answer: str
    source: str
    windows: Float64[np.ndarray, "s 2"]


def parse(record: Any, *, where: str) -> Question:
    """Reads one record.

    Raises:
        InputError: what is wrong with it, in words that name the key.
    """
    if not isinstance(record, dict):
        raise InputError(f"{where}: is a {type(record).__name__}, not an object")

    def text(key: str, default: str | None = None) -> str:
        value = record.get(key, default)
        if not isinstance(value, str) or not (value.strip() or default == value):
            raise InputError(f"{where}: {key} is {value!r}, not a text")
        return value.strip()

    kind = text("problem_type")
    if kind not in KINDS:
        raise InputError(f"{where}: problem_type {kind!r} is none of {', '.join(KINDS)}")
    solution = text("solution")
    found = _ANSWER.search(solution)
    answer = found[1].strip() if found else solution
    options = tuple(str(option) for option in record.get("options") or ())
    if kind == "multiple choice" and answer not in [option[:1] for option in options]:
        raise InputError(f"{where}: solution {answer!r} is none of the options' letters")
    return Question(
        where=where,
        video=str(PurePosixPath(text("path"))),
        question=text("problem"),
        kind=kind,
        options=options,
        answer=answer,
        source=text("data_source", ""),
        windows=_windows(record.get("relevant_windows") or [], where),
    )


def _windows(values: Any, where: str) -> Float64[np.ndarray, "s 2"]:
    try:
        found = np.asarray(values, np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: relevant_windows are no pairs of seconds") from error
    if not np.all(np.isfinite(found)) or np.any(found[:, 0] > found[:, 1]):
        raise InputError(f"{where}: relevant_windows hold a pair that ends before it starts")
    return found


class LookedInto:
    """Samples from one file; what is wrong is left out and written down.

    Sample n is record n modulo `len()`; every pass of training has another order.
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

        Raises:
            InputError: the file cannot be read, or too few of its records can be used.
        """
        assert config.turns is not None, "data.sources asks for this only then"
        self.shards, self.config, self.size, self.seed = shards, config, size, seed
        self.training, self.turns = split == "train", config.turns
        key = "annotations" if self.training else "eval_annotations"
        self.path = Path(getattr(config, key))
        self.skipped, self.records = Skipped(), []
        self._ids = set(shards.video_ids)
        for number, record in enumerate(record_files.read(self.path)):
            where = f"{self.path.name}, record {number}"
            try:
                found = parse(record, where=where)
                if self._id(found.video) is None:
                    raise InputError(f"{where}: video {found.video!r} is not in {shards.directory}")
            except InputError as error:
                self.skipped.add(where, str(error))
                continue
            self.records.append(found)
        least = config.batch_size if self.training else 1
        if len(self.records) < least:
            raise InputError(
                f"{self.path}: {len(self.records)} records can be used, {least} are needed; left "
                f"out: {self.skipped.first() or 'none'}"
            )

    @property
    def words(self) -> Sequence[str]:
        """None: no answer is made worse."""
        return ()

    def told(self) -> str:
        """One line for the log."""
        left = f"; {len(self.skipped)} left out" if len(self.skipped) else ""
        return f"{self.path}: {len(self.records)} questions{left}"

    def __len__(self) -> int:
        return len(self.records)

    def _id(self, path: str) -> str | None:
        """A video's id: its path, with its suffix or without, or the name of its file."""
        bare = PurePosixPath(path).with_suffix("")
        names = (path, str(bare), bare.name)
        return next((name for name in names if name in self._ids), None)

    def numbers(self, step: int) -> list[int]:
        """The samples of global batch `step`."""
        size = self.config.batch_size
        turn, place = divmod(step, len(self) // size)
        order = np.random.default_rng([self.seed, _ORDER, turn]).permutation(len(self))
        return [turn * len(self) + int(one) for one in order[place * size : (place + 1) * size]]

    def bucket(self, step: int) -> int:
        """The most candidates that a pool has."""
        return self.turns.pool

    def another(self, number: int, *, attempt: int) -> int:
        """A sample of the same pass to take where one will not do."""
        turn, record = divmod(number, len(self))
        return turn * len(self) + (record + attempt) % len(self)

    def sample(self, index: int, *, frames: int, pixels: bool = True) -> Sample:
        """Sample number `index`, its pool of at most `frames` candidates."""
        one = self.records[index % len(self)]
        video = self._id(one.video)
        assert video is not None, "others were left out"
        entry, seconds = self.shards.video(video), self.shards.seconds(video)
        made = frame_pool(
            len(seconds),
            len(seconds) / max(entry.duration, 1e-3),
            most=frames - frames % 2,
            rate=self.turns.rate,
        )
        chosen, readable = made.frames, True
        pool = np.zeros((len(chosen), 0, 0, 3), np.uint8)
        if pixels:
            try:
                read = [self.shards.frames(video, i, i + 1) for i in chosen.tolist()]
                pool = fit(np.concatenate(read), self.size, config=self.config)
            except (ShardError, OSError) as error:
                self.skipped.add(one.where, str(error))
                size = self.size or (entry.height, entry.width)
                pool, readable = np.zeros((len(chosen), *size, 3), np.uint8), False
        return Sample(
            frames=pool,
            seconds=seconds[chosen],
            duration=entry.duration,
            question=one.question,
            answer=one.answer,
            spans=one.windows,
            video=one.video,
            kind=f"{one.kind}/{one.source}" if one.source else one.kind,
            readable=readable,
            options=one.options,
        )


def enough(duration: float, windows: Float64[np.ndarray, "s 2"]) -> str:
    """Why a question is not worth several turns; "" where it is (Video-MTR 4).

    The paper keeps videos longer than 30 s whose relevant part is less than half of them.
    """
    if not duration > 30.0:
        return "video of 30 s or less"
    covered = windows[np.argsort(windows[:, 0])]
    length, reached = 0.0, -math.inf
    for start, end in covered.tolist():
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    if not 0 < length / duration < 0.5:
        return "relevant part is none, or half of the video or more"
    return ""
