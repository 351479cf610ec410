"""Frame shards: a video set decoded once into JPEG records, with a manifest of real time stamps.

A shard directory holds `manifest.json` and `frames-00000.arrayrecord`, ... : ArrayRecord files
with one JPEG frame a record, the frames of a video next to each other and several videos a file.
Every film is decoded in a child process, so a decoder that hangs or crashes costs that film only.
"""

import contextlib
import dataclasses
import errno
import fcntl
import os
import shutil
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import simplejpeg
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Float64, UInt8
from tqdm import tqdm

from tgvlm_jax import files
from tgvlm_jax.data.decode_pool import Decoded, Decoders, Job, digest_of
from tgvlm_jax.data.manifest import (
    VERSION,
    Manifest,
    Settings,
    ShardError,
    ShardFile,
    Skipped,
    VideoEntry,
    damaged,
    file_sha256,
    load,
    save,
)
from tgvlm_jax.types import InputError

_MANIFEST = "manifest.json"
_UNFINISHED = "manifest.partial.json"  # what a stopped run had finished
_SCRATCH = ".writing"
_SHARD_BYTES = 64 * 2**20
_OPEN_READERS = 64  # files kept open for random reads
_LINE_SECONDS = 10.0  # between lines of progress where there is no terminal


class FrameShards:
    """Random access to the frames of a shard directory; made by `open_shards`.

    Reads are safe from several threads. A pickled copy opens its files anew, when first used.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self._videos = {entry.id: entry for entry in manifest.videos}
        self._records = {shard.file: shard.records for shard in manifest.shards}
        self._lock = threading.Lock()
        # A reader has a position, so each has a lock; seek-and-read is twice as quick as ranges.
        self._readers: OrderedDict[str, tuple[ArrayRecordReader, threading.Lock]] = OrderedDict()

    def __reduce__(self) -> tuple[type, tuple[Path, Manifest]]:
        return FrameShards, (self.directory, self.manifest)

    @property
    def video_ids(self) -> tuple[str, ...]:
        """The videos, in the order in which they were given to the writer."""
        return tuple(self._videos)

    def video(self, video_id: str) -> VideoEntry:
        """What the manifest says about one video.

        Raises:
            ShardError: there is no such video.
        """
        if video_id not in self._videos:
            raise ShardError(
                f"{self.directory}: holds no video {video_id!r} (it has {len(self._videos)});"
                " check the id, or shard that video too"
            )
        return self._videos[video_id]

    def seconds(self, video_id: str) -> Float64[np.ndarray, "f"]:
        """When each frame of a video comes on screen, in seconds."""
        return np.array(self.video(video_id).seconds, dtype=np.float64)

    def jpegs(self, video_id: str, start: int, stop: int) -> list[bytes]:
        """Frames [start, stop) of a video as they are stored.

        Raises:
            ShardError: no such video, or its shard file is missing or damaged.
            IndexError: the video has no such frames.
        """
        entry = self.video(video_id)
        if not 0 <= start <= stop <= len(entry.seconds):
            raise IndexError(f"{video_id}: no frames {start}:{stop} in {len(entry.seconds)}")
        reader, lock = self._reader(entry.shard)
        try:
            with lock:
                reader.seek(entry.first_record + start)
                return [reader.read() for _ in range(stop - start)]
        except (RuntimeError, ValueError, IndexError) as error:
            with self._lock:
                self._readers.pop(entry.shard, None)  # a reader that failed once fails forever
            raise damaged(self.directory / entry.shard, "cannot be read") from error

    def frames(
        self, video_id: str, start: int, stop: int, *, step: int = 1
    ) -> UInt8[np.ndarray, "f y x 3"]:
        """Every `step`-th of frames [start, stop) as RGB pixels. Raises what `jpegs` raises."""
        entry = self.video(video_id)
        jpegs = self.jpegs(video_id, start, stop)[::step]
        pixels = np.empty((len(jpegs), entry.height, entry.width, 3), dtype=np.uint8)
        for jpeg, frame in zip(jpegs, pixels, strict=True):
            try:
                simplejpeg.decode_jpeg(jpeg, buffer=frame)
            except ValueError as error:
                path = self.directory / entry.shard
                raise damaged(path, f"holds a broken frame of {video_id}") from error
        return pixels

    def _reader(self, name: str) -> tuple[ArrayRecordReader, threading.Lock]:
        with self._lock:
            if name in self._readers:
                self._readers.move_to_end(name)
                return self._readers[name]
        path = self.directory / name
        try:
            reader = ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
            found = reader.num_records()
        except (RuntimeError, ValueError) as error:
            raise damaged(path, "cannot be opened") from error
        if found != self._records[name]:
            raise damaged(path, f"has {found} records, not the {self._records[name]} promised")
        with self._lock:
            self._readers.setdefault(name, (reader, threading.Lock()))
            while len(self._readers) > _OPEN_READERS:
                self._readers.popitem(last=False)  # closes when its last user is done
            return self._readers[name]


def open_shards(directory: str | Path, *, verify: Literal["size", "hash"] = "size") -> FrameShards:
    """Opens what `write_shards` wrote.

    Args:
        directory: the one with manifest.json.
        verify: "size" compares the sizes of the files, "hash" their whole content.

    Raises:
        ShardError: the manifest is missing, unreadable, of another version or at odds with the
            files; or a shard file is missing, cut off or (with "hash") changed.
    """
    if directory == "":
        raise ShardError("data.shards names no folder; set it to what `tgvlm shard` wrote")
    directory = Path(directory)
    if not any((*directory.glob("manifest*.json"), *directory.glob("frames-*"))):
        raise ShardError(
            f"{directory}: no frame shards there; make them: tgvlm shard --videos FILMS --out "
            f"{directory}"
        )
    if not (directory / _MANIFEST).is_file() and (directory / _UNFINISHED).is_file():
        raise ShardError(f"{directory}: was not finished; re-run `tgvlm shard`, it continues there")
    manifest = load(directory / _MANIFEST)
    for shard in manifest.shards:
        path = directory / shard.file
        try:
            size = path.stat().st_size
        except OSError as error:
            raise damaged(path, f"is missing or unreadable ({error.strerror})") from error
        if size != shard.bytes:
            raise damaged(path, f"has {size} bytes, not the {shard.bytes} of the manifest")
        if verify == "hash" and file_sha256(path) != shard.sha256:
            raise damaged(path, "has another content than the manifest says")
    return FrameShards(directory, manifest)


def write_shards(
    videos: Sequence[str | Path] | Mapping[str, str | Path],
    out: str | Path,
    *,
    fps: float,
    height: int,
    width: int | None = None,
    quality: int = 90,
    workers: int = 1,
    timeout_s: float = 120.0,
    progress: bool = True,
) -> Manifest:
    """Decodes videos into a shard directory, reusing what an earlier run left there.

    A video is reused if its id, the sha256 of its file and all settings are those of the earlier
    run; others are decoded, and videos that are no longer named are dropped. Files get their
    names when they are complete and the manifest comes last, so a reader sees the old set or the
    new one, and a run that is stopped goes on where it was.

    Args:
        videos: files, whose ids are then their names without suffix; or a mapping id -> file.
        out: directory for the shards, made if need be.
        fps, height, width: as in `video.decode`.
        quality: of the JPEG, 1 to 100.
        workers: films decoded side by side, each in a process of its own.
        timeout_s: a decoder without a new frame for so many seconds is stopped and its film
            skipped.
        progress: show a bar with the time left (plain lines if stderr is not a terminal).

    Returns:
        The manifest, as written; `skipped` lists the videos that could not be read, and why.

    Raises:
        InputError: no video at all could be read, settings make no sense, `out` cannot be
            written to, is in use by another run, or its disk is full.
    """
    named = _named(videos)
    settings = Settings(fps=float(fps), height=height, width=width, quality=quality)
    _check(settings)
    if not (workers >= 1 and timeout_s > 0):
        raise InputError(f"{workers} workers, {timeout_s} s of patience; give more than 0 of both")
    with _writing(Path(out)) as scratch, Decoders(workers, timeout_s=timeout_s) as decoders:
        builder = _Builder(Path(out), scratch, settings)
        builder.reuse(named, decoders.pool)
        jobs = [
            Job(
                id=key,
                path=path,
                spool=scratch / f"{index}.jpegs",
                settings=settings,
                threads=0 if workers == 1 else 1,
            )
            for index, (key, path) in enumerate(named.items())
            if key not in builder.videos
        ]
        with _Progress(jobs, show=progress) as bar:
            for job, result in zip(jobs, decoders.map(jobs, bar.advance), strict=True):
                builder.add(job, result)
                bar.advance(job, 1.0)
        return builder.finish(list(named))


def _check(settings: Settings) -> None:
    fps, height, width = settings.fps, settings.height, settings.width
    if not (1e-3 <= fps <= 1e4 and height >= 1 and (width is None or width >= 1)):
        raise InputError(f"cannot shard at {fps} fps, {height} x {width} pixels; change these")
    if not 1 <= settings.quality <= 100:
        raise InputError(f"JPEG quality {settings.quality} does not exist; give 1 to 100")


def _named(videos: Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, Path]:
    if isinstance(videos, Mapping):
        named = {key: Path(path) for key, path in videos.items()}
    else:
        named = {}
        for path in map(Path, videos):
            if path.stem in named:
                raise InputError(
                    f"{named[path.stem]} and {path} would both get the id {path.stem!r};"
                    " give a mapping from ids to files"
                )
            named[path.stem] = path
    if not named:
        raise InputError("no videos were given; name at least one file")
    return named


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[Path]:
    """A scratch directory inside `out`, which is this run's alone; both vanish if it fails."""
    made, handle, scratch = not out.exists(), None, out / _SCRATCH
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{out}: another run is writing here; wait for it") from error
        except OSError:
            pass  # a file system without locks
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "disk full; free some space and run again, finished shards are reused"
        else:
            what = f"cannot be written to ({error.strerror or error}); choose another directory"
        raise InputError(f"{out}: {what}") from error
    finally:
        if handle is not None:
            os.close(handle)
        if made:
            with contextlib.suppress(OSError):
                out.rmdir()  # only if nothing is in it


class _Builder:
    """The shard files and manifest of one run; a file counts once it is complete."""

    def __init__(self, out: Path, scratch: Path, settings: Settings) -> None:
        self.videos: dict[str, VideoEntry] = {}
        self._out, self._scratch, self._settings = out, scratch, settings
        self._shards: dict[str, ShardFile] = {}
        self._skipped: list[Skipped] = []
        self._writer: ArrayRecordWriter | None = None
        self._pending: list[VideoEntry] = []  # the videos of the open file
        self._records = self._bytes = 0  # of the open file
        taken = [path.stem.partition("-")[2] for path in out.glob("frames-*.arrayrecord")]
        self._number = max((int(digits) + 1 for digits in taken if digits.isdigit()), default=0)

    def reuse(self, named: Mapping[str, Path], pool: ThreadPoolExecutor) -> None:
        """Takes over the videos of an earlier run whose files are the same.

        Shard files all of whose videos stay are kept as they are; from others the JPEGs of the
        videos that stay are copied.
        """
        old = self._earlier(pool)
        known = {entry.id: entry for entry in old.videos}
        asked = [key for key in named if key in known and known[key].source == named[key].name]
        digests = pool.map(digest_of, [named[key] for key in asked])
        same = [
            known[key]
            for key, digest in zip(asked, digests, strict=True)
            if digest == known[key].sha256
        ]
        frames = dict.fromkeys((shard.file for shard in old.shards), 0)
        for entry in same:
            frames[entry.shard] += len(entry.seconds)
        self._shards = {s.file: s for s in old.shards if s.records == frames[s.file]}
        self.videos = {entry.id: entry for entry in same if entry.shard in self._shards}
        source = FrameShards(self._out, old)
        for entry in same:
            if entry.shard not in self._shards:
                with contextlib.suppress(ShardError):  # then it is decoded again
                    jpegs = source.jpegs(entry.id, 0, len(entry.seconds))
                    self._append(entry, iter(jpegs), sum(map(len, jpegs)))
        self._close()

    def _earlier(self, pool: ThreadPoolExecutor) -> Manifest:
        """What earlier runs with these settings left, finished or not, and is still intact."""
        videos: dict[str, VideoEntry] = {}
        shards: dict[str, ShardFile] = {}
        for name in (_MANIFEST, _UNFINISHED):
            try:
                old = load(self._out / name)
            except ShardError:
                continue
            if old.settings == self._settings:
                digests = pool.map(digest_of, [self._out / s.file for s in old.shards])
                found = zip(old.shards, digests, strict=True)
                intact = {shard.file: shard for shard, digest in found if digest == shard.sha256}
                videos |= {entry.id: entry for entry in old.videos if entry.shard in intact}
                shards |= intact
        return self._manifest(videos.values(), shards.values())

    def _manifest(self, videos: Iterable[VideoEntry], shards: Iterable[ShardFile]) -> Manifest:
        return Manifest(
            version=VERSION,
            settings=self._settings,
            videos=tuple(videos),
            shards=tuple(shards),
            skipped=tuple(self._skipped),
        )

    def add(self, job: Job, result: "Decoded | str") -> None:
        """Stores the frames of a decoded video, or the reason why there are none."""
        if isinstance(result, str):
            self._skipped.append(Skipped(id=job.id, source=job.path.name, reason=result))
            return
        with job.spool.open("rb") as spool:
            jpegs = (spool.read(size) for size in result.sizes)
            self._append(result.entry, jpegs, sum(result.sizes))
        job.spool.unlink()

    def _append(self, entry: VideoEntry, jpegs: Iterator[bytes], size: int) -> None:
        if self._bytes + size > _SHARD_BYTES:
            self._close()
        with _record_errors():
            writer = self._writer or ArrayRecordWriter(
                str(self._scratch / self._name), "group_size:1"
            )
            self._writer = writer
            for jpeg in jpegs:
                writer.write(jpeg)
        self._pending.append(
            dataclasses.replace(entry, shard=self._name, first_record=self._records)
        )
        self._records += len(entry.seconds)
        self._bytes += size

    @property
    def _name(self) -> str:
        return f"frames-{self._number:05d}.arrayrecord"

    def _close(self) -> None:
        """Completes the open shard file and notes it, so that a later run can go on from it."""
        if self._writer is None:
            return
        with _record_errors():
            self._writer.close()
        fresh, path = self._scratch / self._name, self._out / self._name
        shard = ShardFile(
            file=self._name,
            records=self._records,
            bytes=fresh.stat().st_size,
            sha256=file_sha256(fresh),
        )
        files.publish(fresh, path)
        self._shards[shard.file] = shard
        self.videos |= {entry.id: entry for entry in self._pending}
        try:
            so_far = self._manifest(self.videos.values(), self._shards.values())
            save(so_far, self._out / _UNFINISHED, self._scratch)
        except OSError:
            path.unlink()
            raise
        self._writer, self._pending, self._records, self._bytes = None, [], 0, 0
        self._number += 1

    def finish(self, order: Sequence[str]) -> Manifest:
        """Writes the manifest and removes the files that it does not name."""
        self._close()
        if not self.videos:
            reason = self._skipped[0].reason
            if len(self._skipped) > 1:
                reason = f"none of {len(self._skipped)} videos can be read; the first: {reason}"
            raise InputError(reason)
        videos = [self.videos[key] for key in order if key in self.videos]
        manifest = self._manifest(videos, [self._shards[name] for name in sorted(self._shards)])
        save(manifest, self._out / _MANIFEST, self._scratch)
        (self._out / _UNFINISHED).unlink(missing_ok=True)
        for path in self._out.glob("frames-*.arrayrecord"):
            if path.name not in self._shards:
                path.unlink()
        return manifest


@contextlib.contextmanager
def _record_errors() -> Iterator[None]:
    """ArrayRecord reports a failed write as RuntimeError, with the cause in its text."""
    try:
        yield
    except RuntimeError as error:
        full = os.strerror(errno.ENOSPC) in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error).split(";")[0]) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _Progress:
    """Bytes of video done, with the time left: a bar on a terminal, else a line now and then."""

    def __init__(self, jobs: Sequence[Job], *, show: bool) -> None:
        self._sizes = {job.id: _size(job.path) for job in jobs}
        self._done = dict.fromkeys(self._sizes, 0.0)
        self._lock = threading.Lock()
        terminal = sys.stderr.isatty()
        self._lines = show and not terminal
        self._began = self._said = time.monotonic()
        self._bar = tqdm(
            total=sum(self._sizes.values()),
            desc="shard",
            unit="B",
            unit_scale=True,
            disable=not (show and terminal and jobs),
        )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def advance(self, job: Job, fraction: float) -> None:
        """Notes that this part of a video is decoded; called from several threads."""
        with self._lock:
            self._bar.update((fraction - self._done[job.id]) * self._sizes[job.id])
            self._done[job.id] = fraction
            now = time.monotonic()
            if not self._lines or now - self._said < _LINE_SECONDS:
                return
            self._said = now
            done = sum(part * self._sizes[key] for key, part in self._done.items())
            share = done / max(1, sum(self._sizes.values()))
            left = (now - self._began) * (1 / max(share, 1e-6) - 1)
            whole = sum(part == 1 for part in self._done.values())
            print(
                f"shard: {whole} of {len(self._done)} videos, {share:.0%}, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
