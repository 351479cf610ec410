"""Renders the films of `tgvlm games`, and writes their questions."""

import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from tgvlm_jax import files
from tgvlm_jax.data import games, games_questions, tokenizer

_SPLITS = ("train", "val")
_LINE_SECONDS = 10.0  # between lines of progress where there is no terminal


def run(out: Path, *, episodes: int, validation: int, seed: int, kinds: Sequence[str]) -> None:
    """Makes the set in a new folder, which appears when it is complete.

    Raises:
        InputError: MiniGrid is missing, a kind unknown, or `out` exists or cannot be written to.
    """
    began = time.monotonic()
    games.check_installed()
    games_questions.check_kinds(kinds)
    with files.new_folder(out) as scratch:
        (scratch / "videos").mkdir()
        found: dict[str, list[dict[str, Any]]] = {split: [] for split in _SPLITS}
        told: list[dict[str, Any]] = []
        rng = np.random.default_rng(seed)
        for name, episode in _episodes({"train": episodes, "val": validation}, seed=seed):
            video = f"{name}.mp4"
            write_film(scratch / "videos" / video, episode.frames)
            asked = games_questions.records(episode, video=video, kinds=kinds)
            if name.startswith("val"):
                found["val"] += games_questions.once(asked)
            else:
                found["train"] += games_questions.few(asked, rng=rng)
            told.append(_told(episode, video))
        for split, records in found.items():
            _write_list(scratch / f"{split}.json", records)
        _write_list(scratch / "episodes.json", told)
        words = tokenizer.train_tokenizer(games_questions.sentences())
        tokenizer.save(words, scratch / "tokenizer")
    print(_summary(found, told))
    print(f"{time.monotonic() - began:.0f} s in all\n")
    where = shlex.quote(str(out))
    print(
        f"next:  tgvlm shard --videos {where}/videos --out {where}/shards"
        " --fps 2 --height 48 --width 64"
    )
    print(f"then:  tgvlm train --config configs/games.py:data={where} --workdir {where}/sft")


def _episodes(counts: dict[str, int], *, seed: int) -> Iterator[tuple[str, games.Episode]]:
    """Episodes by name; no two of them have the same first state."""
    total, layouts = sum(counts.values()), set()
    with _Progress(total) as bar:
        for number, (split, count) in enumerate(counts.items()):
            made = draw = 0
            while made < count:
                episode = games.episode([seed, number, draw])
                draw += 1
                if episode.layout in layouts:
                    continue
                layouts.add(episode.layout)
                yield f"{split}-{made:05d}", episode
                made += 1
                bar.advance()


class _Progress:
    """Films done, with the time left: a bar on a terminal, else a line now and then."""

    def __init__(self, total: int):
        self._total, self._done = total, 0
        self._began = self._said = time.monotonic()
        self._bar = tqdm(total=total, desc="games", unit="film", disable=None)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def advance(self) -> None:
        """Notes that one more is done."""
        self._bar.update()
        self._done += 1
        now = time.monotonic()
        if sys.stderr.isatty() or now - self._said < _LINE_SECONDS:
            return
        self._said = now
        left = (now - self._began) * (self._total / self._done - 1)
        line = f"games: {self._done} of {self._total} films, {left:.0f} s left"
        print(line, file=sys.stderr, flush=True)


def write_film(path: Path, frames: UInt8[np.ndarray, "f y x 3"]) -> None:
    """Writes frames as H.264, one after another at `games.FPS`, the same bytes every time."""
    with files.replacing(path) as scratch, av.open(str(scratch), "w", format="mp4") as container:
        options = {"crf": "12", "threads": "1"}
        stream = container.add_stream("libx264", rate=games.FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _told(episode: games.Episode, video: str) -> dict[str, Any]:
    """Everything that is known about a film."""
    return {
        "video": video,
        "duration": episode.duration,
        "layout": episode.layout,
        "missions": episode.missions,
        "events": [dataclasses.asdict(event) for event in episode.events],
    }


def _write_list(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """A JSON list, one record a line."""
    lines = ",\n".join(json.dumps(one) for one in records)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def _summary(found: dict[str, list[dict[str, Any]]], told: Sequence[dict[str, Any]]) -> str:
    lengths = [one["duration"] for one in told]
    lines = [f"{len(told)} films of {min(lengths):.1f} to {max(lengths):.1f} s"]
    for split, records in found.items():
        tasks = [one["task"] for one in records]
        parts = [f"{tasks.count(task)} {task}" for task in ("tvg", "dvc", "rar")]
        lines.append(f"  {split}: {', '.join(parts)}")
    if not any(one["task"] == "tvg" for one in found["val"]):
        return "\n".join([*lines, "too few films for blind baselines"])
    blind = games_questions.blind(found["val"])
    lines += [
        "answers that never look, on val, each the best there is with the truth at hand:",
        f"  tvg  one interval for all: mIoU {blind.mean_iou:.3f}, R@0.5 {blind.recall:.3f};"
        f" one for each verb: mIoU {blind.by_kind:.3f}",
        f"  dvc  equal parts: F1@0.5 {blind.captions:.3f}",
        f"  rar  the most frequent answer: {blind.referring:.3f}",
    ]
    return "\n".join(lines)
