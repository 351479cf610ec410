"""tgvlm shard: decode videos once, into frame shards that training reads.

    $ tgvlm shard --videos films/ --out shards/
    $ tgvlm shard --videos film.mp4 --out shards/ --fps 4 --height 48 --width 64

Frames are taken at their real time stamps and stored as JPEG, beside a manifest with hashes and
the second of every frame. A video that cannot be read is skipped and listed. Run it again after
adding films, or after it was stopped: what has not changed is reused. `tgvlm inspect --shards
shards/` shows the result.

Both places may be in a bucket (pip install 'tgvlm_jax[gcs]'), and many machines may share the work
through Apache Beam (pip install 'tgvlm_jax[beam]', in an environment of its own). The files are the
same, byte for byte, whatever the runner and the number of its workers.

    $ tgvlm shard --videos films/ --out shards/ --runner direct --workers 8      # Beam, here
    $ tgvlm shard --videos gs://my-bucket/films --out gs://my-bucket/shards --runner dataflow \\
          --beam project=my-project --beam region=us-central1 --beam max_num_workers=100 \\
          --beam temp_location=gs://my-bucket/tmp --beam sdk_container_image=IMAGE
    $ tgvlm shard --videos /nfs/films --out /nfs/shards --runner flink \\
          --beam flink_master=host:8081 --beam parallelism=64 --beam environment_type=EXTERNAL \\
          --beam environment_config=localhost:50000

Workers must have tgvlm_jax installed; IMAGE is a Beam SDK container with it (docs/data_format.md).
"""

import functools
import os
import time
from collections import Counter
from collections.abc import Sequence, Sized

from absl import flags as absl_flags

from tgvlm_jax.data import storage
from tgvlm_jax.data.beam_shards import RUNNERS, write_shards_beam
from tgvlm_jax.data.manifest import Manifest
from tgvlm_jax.data.shard_files import SHARD_BYTES
from tgvlm_jax.data.shard_writer import write_shards
from tgvlm_jax.data.storage import Place
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
    integer("workers", os.cpu_count() or 1, "videos decoded side by side, on this machine")
    integer("shard_mb", SHARD_BYTES // 2**20, "MiB of JPEG in a shard file")
    about = "local: processes of this machine; direct and the others: Apache Beam"
    absl_flags.DEFINE_enum("runner", "local", ["local", *RUNNERS], about, flag_values=flag_values)
    about = "<KEY=VALUE>: one option of Beam's"
    absl_flags.DEFINE_multi_string("beam", [], about, flag_values=flag_values)


def main(flags: absl_flags.FlagValues) -> None:
    """Runs the verb."""
    run(
        storage.at(flags.videos),
        storage.at(flags.out),
        fps=flags.fps,
        height=flags.height,
        width=flags.width,
        quality=flags.quality,
        workers=flags.workers,
        shard_bytes=flags.shard_mb * 2**20,
        runner=flags.runner,
        beam=flags.beam,
    )


def run(
    videos: Place,
    out: Place,
    *,
    fps: float,
    height: int,
    width: int | None,
    quality: int,
    workers: int,
    shard_bytes: int = SHARD_BYTES,
    runner: str = "local",
    beam: Sequence[str] = (),
) -> None:
    """Shards a video file, or all those below a directory, and prints what came of it.

    Raises:
        InputError: no video there, none that can be read, `out` cannot be written to, or the
            runner cannot be used.
    """
    if beam and runner == "local":
        raise InputError(
            f"--beam {beam[0]}: is for Beam; add --runner, one of {', '.join(RUNNERS)}"
        )
    began = time.monotonic()
    write = write_shards
    if runner != "local":
        write = functools.partial(write_shards_beam, runner=runner, options=beam)
    manifest = write(
        find_videos(videos),
        out,
        fps=fps,
        height=height,
        width=width,
        quality=quality,
        workers=workers,
        shard_bytes=shard_bytes,
    )
    print(summary(manifest, out))
    print(f"{time.monotonic() - began:.1f} s in all; the next run reuses what has not changed")


def find_videos(videos: Place) -> dict[str, Place]:
    """Video files by id: the path below the directory, without suffix where that is unique.

    Raises:
        InputError: nothing there.
    """
    if not storage.is_folder(videos):
        return {videos.stem: videos}
    found = [
        path
        for path in storage.files_below(videos)
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
    ]
    if not found:
        raise InputError(f"{videos}: no video files there ({', '.join(_SUFFIXES)}); name another")
    bare = [path.relative_to(videos).with_suffix("").as_posix() for path in found]
    uses = Counter(bare)
    return {
        name if uses[name] == 1 else path.relative_to(videos).as_posix(): path
        for path, name in zip(found, bare, strict=True)
    }


def summary(manifest: Manifest, out: Place) -> str:
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
