"""`tgvlm shard`: decode videos once, into frame shards that training reads."""

import time
from collections import Counter
from pathlib import Path

from tgvlm_jax.data.manifest import Manifest
from tgvlm_jax.data.shards import write_shards
from tgvlm_jax.types import InputError

_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)
_LISTED = 20  # skipped videos that are printed; the manifest has all of them


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
        f"{out}: {len(manifest.videos)} videos, {seconds:.1f} s of film",
        f"  {frames} frames at {settings.fps:g} a second, {shape} pixels,"
        f" JPEG quality {settings.quality}",
        f"  {len(manifest.shards)} shard files, {size / 1e6:.1f} MB"
        f" ({size / max(1, frames) / 1e3:.1f} kB a frame)",
    ]
    if skipped:
        lines.append(f"  {len(skipped)} skipped:")
        lines += [f"    {one.id}: {one.reason}" for one in skipped[:_LISTED]]
    if len(skipped) > _LISTED:
        lines.append(f"    and {len(skipped) - _LISTED} more, listed in {out / 'manifest.json'}")
    return "\n".join(lines)
