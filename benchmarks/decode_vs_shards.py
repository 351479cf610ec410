"""Frames per second from shards against decoding the film again, measured in one run.

    python benchmarks/decode_vs_shards.py            # the shipped film, 128 x 72, 2 frames a second

Prints a table and writes benchmarks/results/decode_vs_shards.json and .md. Every way returns the
same frames: RGB arrays of the same size, chosen by the same times.
"""

import argparse
import dataclasses
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from published import publish

import tgvlm_jax
from tgvlm_jax.data import video
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.data.shards import FrameShards, open_shards

FILM = Path(tgvlm_jax.__file__).resolve().parent / "assets" / "big_buck_bunny.mp4"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """One way to get frames: how many a second, by the clock and by the processor's own count."""

    name: str
    frames_per_second: float
    frames_per_cpu_second: float
    frames: int


def measure(name: str, calls: list[Callable[[], int]], repeats: int) -> Way:
    """Runs all calls, several times; keeps the median run."""
    wall, cpu, frames = [], [], 0
    for _ in range(repeats):
        began, spent = time.perf_counter(), time.process_time()
        frames = sum(call() for call in calls)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
    return Way(
        name=name,
        frames_per_second=frames / statistics.median(wall),
        frames_per_cpu_second=frames / statistics.median(cpu),
        frames=frames,
    )


class BareWindows:
    """The least that PyAV needs for a window: no checks, and the file stays open."""

    def __init__(self, film: Path, options: argparse.Namespace) -> None:
        self.options = options
        self.container = av.open(str(film))
        self.stream = self.container.streams.video[0]
        self.stream.codec_context.thread_count = 1
        self.reformatter = VideoReformatter()

    def read(self, start: int) -> np.ndarray:
        """The frames on screen from grid time `start` on, as RGB [f y x 3]."""
        options, begin = self.options, start / self.options.fps
        self.container.seek(int(begin / self.stream.time_base), stream=self.stream)
        frames, last = [], None
        for frame in self.container.decode(self.stream):
            time_due = begin + len(frames) / options.fps
            if last is not None and frame.time > time_due + 1e-6:
                small = self.reformatter.reformat(
                    last, options.width, options.height, format="rgb24", interpolation="AREA"
                )
                frames.append(small.to_ndarray())
            if len(frames) == options.window:
                break
            last = frame
        return np.stack(frames)


def ways(shards: FrameShards, film: Path, options: argparse.Namespace) -> list[Way]:
    (video_id,) = shards.video_ids
    seconds = shards.seconds(video_id)
    size = {"fps": options.fps, "height": options.height, "width": options.width}
    rng = np.random.default_rng(0)
    starts = rng.integers(0, len(seconds) - options.window, options.windows).tolist()

    def read(start: int) -> Callable[[], int]:
        return lambda: len(shards.frames(video_id, start, start + options.window))

    def decode(start: int) -> Callable[[], int]:
        begin, end = start / options.fps, (start + options.window) / options.fps
        return lambda: len(video.decode(film, **size, start=begin, end=end, threads=1).pixels)

    bare = BareWindows(film, options)

    def seek(start: int) -> Callable[[], int]:
        return lambda: len(bare.read(start))

    def whole(threads: int) -> Callable[[], int]:
        return lambda: sum(1 for _ in video.stream(film, **size, threads=threads).frames)

    return [
        measure("shards, random windows", [read(start) for start in starts], 5),
        measure("PyAV kept open, the same windows by seek", [seek(start) for start in starts], 3),
        measure("video.decode, the same windows", [decode(start) for start in starts], 3),
        measure("video.decode, the whole film, 1 thread", [whole(1)], 3),
        measure("video.decode, the whole film, all cores", [whole(0)], 3),
    ]


def check(shards: FrameShards, film: Path, options: argparse.Namespace) -> None:
    """A window means the same frames each way."""
    (video_id,) = shards.video_ids
    size = {"fps": options.fps, "height": options.height, "width": options.width}
    window = video.decode(film, **size, start=100.0, end=110.0)
    first = round(100.0 * options.fps)
    stored = shards.frames(video_id, first, first + len(window.seconds))
    times = shards.seconds(video_id)[first : first + len(window.seconds)]
    assert np.allclose(times, window.seconds, atol=1e-6)
    assert np.abs(stored.astype(int) - window.pixels).mean() < 5
    bare = BareWindows(film, options).read(first)[: len(window.seconds)]
    assert np.abs(bare.astype(int) - window.pixels).mean() < 5


def table(rows: list[Way], facts: dict[str, object]) -> str:
    best = rows[0]
    lines = [
        "# Reading frame shards against decoding video",
        "",
        *(f"- {key}: {value}" for key, value in facts.items()),
        "",
        "| way | frames | frames / s | frames / CPU s | shards are quicker by |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ratio = best.frames_per_second / row.frames_per_second
        lines.append(
            f"| {row.name} | {row.frames} | {row.frames_per_second:.0f}"
            f" | {row.frames_per_cpu_second:.0f} | {ratio:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--film", type=Path, default=FILM)
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--height", type=int, default=72)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--window", type=int, default=48, help="frames in a window")
    parser.add_argument("--windows", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "shards"
        size = {"fps": options.fps, "height": options.height, "width": options.width}
        began = time.perf_counter()
        manifest = write_shards([options.film], out, **size)
        writing = time.perf_counter() - began
        shards = open_shards(out)
        check(shards, options.film, options)
        rows = ways(shards, options.film, options)
    info = video.probe(options.film)
    stored = sum(shard.bytes for shard in manifest.shards)
    facts = {
        "film": f"{options.film.name}, {info.codec} {info.width} x {info.height},"
        f" {info.fps:g} frames a second, {info.duration:.1f} s",
        "frames": f"{options.width} x {options.height}, {options.fps:g} a second,"
        f" windows of {options.window}",
        "shards": f"{stored / 1e6:.1f} MB, written once in {writing:.1f} s",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores,"
        f" load {os.getloadavg()[0]:.1f} at the end",
    }
    text = table(rows, facts)
    publish(
        "decode_vs_shards",
        text,
        {"facts": facts, "ways": [dataclasses.asdict(row) for row in rows]},
    )


if __name__ == "__main__":
    main()
