"""tgvlm shard: decode videos once, into frame shards that training reads.

    $ tgvlm shard --videos films/ --out shards/
    $ tgvlm shard --videos film.mp4 --out shards/ --fps 4 --height 48 --width 64

Frames are taken at their real time stamps and stored as JPEG, beside a manifest with hashes and
the second of every frame. A video that cannot be read is skipped and listed. Run it again after
adding films: what has not changed is reused. `tgvlm inspect --shards shards/` shows the result.
"""

import functools
import os
import time
from collections import Counter
from collections.abc import Sized
from pathlib import Path

from absl import flags as absl_flags

from tgvlm_jax.data.manifest import Manifest
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.types import InputError

_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)
_LISTED = 20  # skipped videos that are printed; the manifest has all of them


def flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of the verb."""
    string = functools.partial(absl_flags.DEFINE_string, flag_values=flag_values)
    integer = functools.partial(absl_flags.DEFINE_integer, flag_values=flag_values, lower_bound=1)
    string("videos", None, "<PATH>: a video, or a folder searched to its depths", required=True)
    string("out", None, "<DIR>: for the shards; made if need be", required=True)
    absl_flags.DEFINE_float("fps", 2.0, "frames to keep of each second", flag_values=flag_values)
    integer("height", 224, "pixels; frames are scaled to it")
    integer("width", None, "pixels; without it each video keeps its shape")
    integer("quality", 90, "of the JPEG, 1 to 100", upper_bound=100)
    integer("workers", os.cpu_count() or 1, "videos decoded side by side")


def main(flags: absl_flags.FlagValues) -> None:
    """Runs the verb."""
    run(
        Path(flags.videos),
        Path(flags.out),
        fps=flags.fps,
        height=flags.height,
        width=flags.width,
        quality=flags.quality,
        workers=flags.workers,
    )


def run(
    videos: Path,
    out: Path,
    *,
    fps: float,
    height: int,
    width: int | None,
    quality: int,
    workers: int,
) -> None:
    """Shards a video file, or all those below a directory, and prints what came of it.

    Raises:
        InputError: no video there, none that can be read, or `out` cannot be written to.
    """
    began = time.monotonic()
    manifest = write_shards(
        find_videos(videos),
        out,
        fps=fps,
        height=height,
        width=width,
        quality=quality,
        workers=workers,
    )
    print(summary(manifest, out))
    print(f"{time.monotonic() - began:.1f} s in all; the next run reuses what has not changed")


def find_videos(videos: Path) -> dict[str, Path]:
    """Video files by id: the path below the directory, without suffix where that is unique.

    Raises:
        InputError: nothing there.
    """
    if not videos.is_dir():
        return {videos.stem: videos}
    found = sorted(
        path
        for path in videos.rglob("*")
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise InputError(f"{videos}: no video files there ({', '.join(_SUFFIXES)}); name another")
    bare = [path.relative_to(videos).with_suffix("").as_posix() for path in found]
    uses = Counter(bare)
    return {
        name if uses[name] == 1 else path.relative_to(videos).as_posix(): path
        for path, name in zip(found, bare, strict=True)
    }


def summary(manifest: Manifest, out: Path) -> str:
    """What a manifest holds, in a few lines for a person."""
    settings, skipped = manifest.settings, manifest.skipped
    frames = sum(len(entry.seconds) for entry in manifest.videos)
    seconds = sum(entry.duration for entry in manifest.videos)
    size = sum(shard.bytes for shard in manifest.shards)
    shape = f"{settings.width or 'any'} x {settings.height}"
    lines = [
        f"{out}: {_count(manifest.videos, 'video')}, {seconds:.1f} s of film",
        f"  {frames} frames at {settings.fps:g} a second, {shape} pixels,"
        f" JPEG quality {settings.quality}",
        f"  {_count(manifest.shards, 'shard file')}, {size / 1e6:.1f} MB"
        f" ({size / max(1, frames) / 1e3:.1f} kB a frame)",
    ]
    if skipped:
        lines.append(f"  {len(skipped)} skipped:")
        lines += [f"    {one.id}: {one.reason}" for one in skipped[:_LISTED]]
    if len(skipped) > _LISTED:
        lines.append(f"    and {len(skipped) - _LISTED} more, listed in {out / 'manifest.json'}")
    return "\n".join(lines)


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
