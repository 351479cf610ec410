"""What goes into which shard file, and how one is written: the same for every engine.

A shard file is a function of its list of videos and of the settings. Videos fill files in order, so
that list follows from the sizes alone, whoever decodes the videos and in whatever order they are
done.
"""

import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from array_record.python.array_record_module import ArrayRecordWriter

from tgvlm_jax.data import storage
from tgvlm_jax.data.manifest import (
    FINISHED,
    UNFINISHED,
    VERSION,
    Manifest,
    Settings,
    ShardError,
    ShardFile,
    Skipped,
    VideoEntry,
    load,
    save,
)
from tgvlm_jax.data.shards import FrameShards
from tgvlm_jax.data.storage import Place
from tgvlm_jax.types import InputError

SHARD_BYTES = 64 * 2**20  # of JPEG in a file, unless one video has more
_PATTERN = "frames-*.arrayrecord"


@runtime_checkable
class _Video(Protocol):
    """Whatever knows how many bytes the frames of a video have."""

    @property
    def bytes(self) -> int: ...


_T = TypeVar("_T", bound=_Video)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """The frames of one video on their way into a shard file.

    Attributes:
        entry: the video. If its frames come out of an earlier shard file, `entry` says where.
        bytes: of all its JPEGs.
        spool: the file with its JPEGs, one after the other; None: in the earlier shard file.
        sizes: of each JPEG in the spool.
    """

    entry: VideoEntry
    bytes: int
    spool: Place | None = None
    sizes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """A shard file that is in its place, and the videos in it."""

    shard: ShardFile
    videos: tuple[VideoEntry, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Earlier:
    """What the manifests of a shard folder promise, of runs that were finished or not.

    Attributes:
        videos, shards: by id and by file name; only of runs with the same settings.
        number: the first of a shard file that no manifest names.
    """

    videos: dict[str, VideoEntry]
    shards: dict[str, ShardFile]
    number: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reused:
    """What an earlier run has left for this one.

    Attributes:
        videos, shards: stay as they are: all videos of these files are still wanted.
        copies: videos whose frames are taken out of files of which others are gone, in order.
    """

    videos: dict[str, VideoEntry]
    shards: dict[str, ShardFile]
    copies: tuple[Part, ...]


def name_of(number: int) -> str:
    """The name of a shard file."""
    return f"frames-{number:05d}.arrayrecord"


def fill(parts: Iterable[_T], limit: int) -> Iterator[list[_T]]:
    """Consecutive videos that share a file of `limit` bytes; one that is larger has its own."""
    batch: list[_T] = []
    full = 0
    for part in parts:
        if batch and full + part.bytes > limit:
            yield batch
            batch, full = [], 0
        batch.append(part)
        full += part.bytes
    if batch:
        yield batch


def earlier(out: Place, settings: Settings) -> Earlier:
    """Reads what is promised in a shard folder; no shard file is looked at."""
    videos: dict[str, VideoEntry] = {}
    shards: dict[str, ShardFile] = {}
    names: set[str] = set()
    for name in storage.names(out, FINISHED, UNFINISHED):  # the unfinished one comes last
        try:
            old = load(out / name)
        except ShardError:
            names |= set(storage.names(out, _PATTERN))  # nobody knows which of them are in use
            continue
        names |= {shard.file for shard in old.shards}
        if old.settings == settings:
            videos |= {entry.id: entry for entry in old.videos}
            shards |= {shard.file: shard for shard in old.shards}
    digits = [name.partition("-")[2].partition(".")[0] for name in names]
    number = max((int(text) + 1 for text in digits if text.isdigit()), default=0)
    return Earlier(videos=videos, shards=shards, number=number)


def is_intact(out: Place, shard: ShardFile) -> bool:
    """Whether a shard file has the content that its manifest says."""
    try:
        return storage.sha256(out / shard.file) == shard.sha256
    except OSError:
        return False


def reused(old: Earlier, same: Iterable[str]) -> Reused:
    """What of `same`, the ids of unchanged videos in intact files, stays where it is."""
    entries = [old.videos[key] for key in same]
    frames = dict.fromkeys(old.shards, 0)
    for entry in entries:
        frames[entry.shard] += len(entry.seconds)
    shards = {name: shard for name, shard in old.shards.items() if shard.records == frames[name]}
    return Reused(
        videos={entry.id: entry for entry in entries if entry.shard in shards},
        shards=shards,
        copies=tuple(
            Part(entry=entry, bytes=_share(entry, old.shards[entry.shard]))
            for entry in entries
            if entry.shard not in shards
        ),
    )


def frames_of(out: Place, settings: Settings, old: Earlier) -> FrameShards:
    """The frames that earlier runs have left."""
    found = manifest_of(settings, videos=old.videos.values(), shards=old.shards.values())
    return FrameShards(out, found)


def _share(entry: VideoEntry, shard: ShardFile) -> int:
    """About the bytes of a video in a file: good enough to fill the next one."""
    return shard.bytes * len(entry.seconds) // shard.records


def write_file(
    name: str, parts: Sequence[Part], *, out: Place, scratch: Path, old: FrameShards
) -> Written:
    """Writes one shard file; it has its name in `out` when it is complete.

    Args:
        name: of the file.
        parts: its videos, in order.
        out: the shard folder.
        scratch: a folder of this machine; of the same disk if `out` is of this machine.
        old: where frames without a spool are found; see `frames_of`.

    Raises:
        OSError: the disk or the bucket objects, or a spool is not as it was written.
        ShardError: an earlier shard file cannot be read.
    """
    fresh = scratch / name
    entries: list[VideoEntry] = []
    records = 0
    with _record_errors():
        writer = ArrayRecordWriter(str(fresh), "group_size:1")
        for part in parts:
            for jpeg in _jpegs(part, old):
                writer.write(jpeg)
            entries.append(dataclasses.replace(part.entry, shard=name, first_record=records))
            records += len(part.entry.seconds)
        writer.close()
    shard = ShardFile(
        file=name, records=records, bytes=fresh.stat().st_size, sha256=storage.sha256(fresh)
    )
    storage.publish(fresh, out / name)
    return Written(shard=shard, videos=tuple(entries))


def _jpegs(part: Part, old: FrameShards) -> Iterator[bytes]:
    if part.spool is None:
        yield from old.jpegs(part.entry.id, 0, len(part.entry.seconds))
        return
    with storage.on_disk(part.spool) as path, path.open("rb") as spool:
        for size in part.sizes:
            jpeg = spool.read(size)
            if len(jpeg) != size:
                raise OSError(errno.EIO, "was cut off; remove it and run again", str(part.spool))
            yield jpeg


def manifest_of(
    settings: Settings,
    *,
    videos: Iterable[VideoEntry],
    shards: Iterable[ShardFile],
    skipped: Iterable[Skipped] = (),
) -> Manifest:
    """A manifest of this release."""
    return Manifest(
        version=VERSION,
        settings=settings,
        videos=tuple(videos),
        shards=tuple(shards),
        skipped=tuple(skipped),
    )


def finish(manifest: Manifest, out: Place, *, scratch: Path) -> Manifest:
    """Writes the manifest of a shard folder, then removes the files that it does not name.

    Raises:
        InputError: there is no video in it; the folder stays as it is.
        OSError: what the disk or the bucket objects to.
    """
    if not manifest.videos:
        reason = manifest.skipped[0].reason
        if len(manifest.skipped) > 1:
            reason = f"none of {len(manifest.skipped)} videos can be read; the first: {reason}"
        raise InputError(reason)
    save(manifest, out / FINISHED, scratch)
    storage.forget_listings(out)
    storage.remove(out / UNFINISHED)
    kept = {shard.file for shard in manifest.shards}
    for name in storage.names(out, _PATTERN):
        if name not in kept:
            storage.remove(out / name)
    return manifest


@contextlib.contextmanager
def _record_errors() -> Iterator[None]:
    """ArrayRecord reports a failed write as RuntimeError, with the cause in its text."""
    try:
        yield
    except RuntimeError as error:
        full = os.strerror(errno.ENOSPC) in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error).split(";")[0]) from error
