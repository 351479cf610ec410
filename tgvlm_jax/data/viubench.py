"""VIUBench: nine subsets of questions that are made of any videos (VideoSSR 3.2, A.3).

A benchmark is one file, questions.json. It has questions and answers as text, and of each clip the
video, the frames and a seed; pixels are made again from the frame shards, bit for bit. The file
knows the content of its shards, and others are refused.

Its frames are spread over the middle 90 % of a video, as the released sampler takes them, or are
the held-out clips of an experiment. Times are those of the video, counted from the first frame; the
released code stretches them by a ninth.
"""

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from tgvlm_jax import files
from tgvlm_jax.data import pretext_plans, pretext_source, windows
from tgvlm_jax.data.augment import fit
from tgvlm_jax.data.shards import FrameShards
from tgvlm_jax.schema import DataConfig
from tgvlm_jax.types import InputError, Sample

FRAMES = 48
EACH = 300
"""Questions of a subset: 2700 in all."""
VARIANTS = {
    "counting_easy": ("counting", "easy"),
    "counting_hard": ("counting", "hard"),
    "channel_swap": ("grounding", "channel_swap"),
    "rotate180": ("grounding", "rotate180"),
    "zoom_out": ("grounding", "zoom_out"),
    "mirror": ("grounding", "mirror"),
    "shuffle": ("grounding", "shuffle"),
    "jigsaw_6": ("jigsaw", "6"),
    "jigsaw_8": ("jigsaw", "8"),
}
"""Task and variant of each subset."""
_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a clip is made: every `step`-th frame of a video from `first`, changed by `seed`."""

    id: str
    subset: str
    video: str
    first: int
    step: int
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """All recipes, and the shards that they are about.

    Attributes:
        frames: of every clip. each: questions of a subset. seed: what all of it follows from.
    """

    shards: FrameShards
    recipes: tuple[Recipe, ...]
    frames: int
    each: int
    seed: int

    def sample(
        self,
        number: int,
        *,
        size: tuple[int, int] | None = None,
        config: DataConfig | None = None,
        pixels: bool = True,
    ) -> Sample:
        """Question `number` with its answer.

        Args:
            size: (height, width) of the frames in pixels, None as they are stored.
            config: whose `fit` says how frames get their size.
            pixels: whether frames are made; all else costs little.

        Raises:
            ShardError: the frames cannot be read.
        """
        recipe = self.recipes[number]
        numbers = range(recipe.first, recipe.first + self.frames * recipe.step, recipe.step)
        window = windows.window(self.shards, recipe.video, numbers)
        task, variant = VARIANTS[recipe.subset]

        def read(_: Sequence[int]) -> UInt8[np.ndarray, "f y x 3"]:
            last = numbers[-1] + 1
            stored = self.shards.frames(recipe.video, recipe.first, last, step=recipe.step)
            return fit(stored, size, config=config or DataConfig())

        return pretext_source.ask(
            window,
            task,
            variant,
            plans=random.Random(recipe.seed),
            noise=recipe.seed,
            read=read if pixels else None,
        )

    def to_json(self) -> dict[str, Any]:
        """What questions.json holds."""
        return {
            "version": _VERSION,
            "frames": self.frames,
            "each": self.each,
            "seed": self.seed,
            "shards": content(self.shards),
            "questions": [self._record(number) for number in range(len(self.recipes))],
        }

    def _record(self, number: int) -> dict[str, Any]:
        recipe, sample = self.recipes[number], self.sample(number, pixels=False)
        return dataclasses.asdict(recipe) | {
            "task": VARIANTS[recipe.subset][0],
            "question": sample.question,
            "answer": sample.answer,
            "duration": sample.duration,
            "clips": list(sample.clips),
        }

    def save(self, path: Path) -> None:
        """Writes questions.json."""
        files.write_text(path, json.dumps(self.to_json(), indent=1) + "\n")


def content(shards: FrameShards) -> str:
    """The sha256 of all that the shards hold: which frames, when they are shown, their bytes."""
    manifest = dataclasses.asdict(shards.manifest)
    kept = {name: manifest[name] for name in ("settings", "videos", "shards")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def make(
    shards: FrameShards,
    *,
    each: int = EACH,
    seed: int = 0,
    frames: int = FRAMES,
    clips: DataConfig | None = None,
) -> Benchmark:
    """Draws the questions; as many videos take part as there are questions or videos.

    Args:
        each: questions of a subset. frames: of a clip.
        clips: takes the evaluation clips of these settings: the first of `strides`, `eval_span`
            and `skip_seconds`. None takes frames from all over each video.

    Raises:
        InputError: the frames do not divide into 6 and 8 clips; no video is long enough.
    """
    if frames % 24 or frames < 24:
        raise InputError(f"{frames} frames do not divide into 6 and into 8 clips: give 24, 48, ...")
    if each < 1 or seed < 0:
        raise InputError(f"{each} questions a subset, seed {seed}: give at least 1, and 0 or more")
    rng = np.random.default_rng(seed)
    ids = [f"{subset}/{number}" for number in range(each) for subset in VARIANTS]
    places = _held_out(shards, clips, frames, rng) if clips else _whole(shards, frames, rng)
    recipes = []
    for name, (video, numbers) in zip(ids, places, strict=False):
        recipes.append(
            Recipe(
                id=name,
                subset=name.partition("/")[0],
                video=video,
                first=numbers.start,
                step=numbers.step,
                seed=int(rng.integers(1 << 32)),
            )
        )
    # Of a subset all questions in a row, as its tables are; neighbours had different videos.
    order = {subset: place for place, subset in enumerate(VARIANTS)}
    recipes.sort(key=lambda recipe: order[recipe.subset])
    return Benchmark(shards=shards, recipes=tuple(recipes), frames=frames, each=each, seed=seed)


def _whole(
    shards: FrameShards, frames: int, rng: np.random.Generator
) -> Iterator[tuple[str, range]]:
    """Videos in a random order, again and again, each time the same frames of each."""
    found = []
    for video in shards.video_ids:
        seconds = shards.seconds(video)
        try:
            numbers = pretext_plans.sample_frames(len(seconds), frames=frames)
        except InputError:
            continue
        # Sampled faster than it was filmed, a video repeats frames.
        if np.all(np.diff(seconds[numbers]) > 0):
            step = int(numbers[1] - numbers[0])
            found.append((video, range(int(numbers[0]), int(numbers[-1]) + step, step)))
    if not found:
        raise InputError(
            f"{shards.directory}: no video has {frames} frames in its middle 90 %; shard longer "
            "ones, or at a higher --fps"
        )
    while True:
        for place in rng.permutation(len(found)):
            yield found[place]


def _held_out(
    shards: FrameShards, clips: DataConfig, frames: int, rng: np.random.Generator
) -> Iterator[tuple[str, range]]:
    settings = dataclasses.replace(clips, frames=(frames,))
    source = windows.Windows(shards, settings, split="eval", seed=0)
    while True:
        drawn = source.draw(frames, rng)
        yield drawn.video, drawn.numbers


def load(path: Path, shards: FrameShards) -> Benchmark:
    """Reads questions.json about these shards.

    Raises:
        InputError: the file cannot be read, is not one of this format, is about other shards, or
            has a question that this release would ask in another way.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); make it: tgvlm viubench") from error
    if not isinstance(raw, dict) or raw.get("version") != _VERSION:
        raise InputError(f"{path}: is no VIUBench of version {_VERSION}; make it: tgvlm viubench")
    if raw.get("shards") != content(shards):
        raise InputError(
            f"{path}: was made from other frame shards than {shards.directory}; give those, or "
            "make another one: tgvlm viubench --out DIR"
        )
    names = [field.name for field in dataclasses.fields(Recipe)]
    try:
        recipes = tuple(Recipe(**{name: row[name] for name in names}) for row in raw["questions"])
        settings = {name: raw[name] for name in ("frames", "each", "seed")}
        found = Benchmark(shards=shards, recipes=recipes, **settings)
        made = found.to_json()
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be understood ({error!r}); make it again: tgvlm viubench"
        ) from error
    for row, record in zip(raw["questions"], made["questions"], strict=True):
        if row != record:
            raise InputError(
                f"{path}: {row['id']} is not what its recipe makes; make it again: tgvlm viubench"
            )
    return found
