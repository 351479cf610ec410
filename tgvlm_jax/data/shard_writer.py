"""Making frame shards on this machine: videos decoded side by side, each in a child process.

A decoder that hangs or crashes costs its film only. `beam_shards` makes the same files on a fleet.
"""

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tgvlm_jax.data import shard_files, storage
from tgvlm_jax.data.decode_pool import Decoded, Decoders, Job, digest_of
from tgvlm_jax.data.manifest import (
    UNFINISHED,
    Manifest,
    Settings,
    ShardFile,
    Skipped,
    VideoEntry,
    save,
)
from tgvlm_jax.data.shard_files import SHARD_BYTES, Earlier, Part
from tgvlm_jax.data.shard_progress import Progress
from tgvlm_jax.data.storage import Place
from tgvlm_jax.types import InputError

SCRATCH = ".writing"
Videos = Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]]


def write_shards(
    videos: Videos,
    out: str | os.PathLike[str],
    *,
    fps: float,
    height: int,
    width: int | None = None,
    quality: int = 90,
    workers: int = 1,
    timeout_s: float = 120.0,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = True,
) -> Manifest:
    """Decodes videos into a shard directory, reusing what an earlier run left there.

    A video is reused if its id, the sha256 of its file and all settings are those of the earlier
    run; others are decoded, and videos that are no longer named are dropped. Files get their
    names when they are complete and the manifest comes last, so a reader sees the old set or the
    new one, and a run that is stopped goes on where it was.

    Args:
        videos: files, whose ids are then their names without suffix; or a mapping id -> file.
        out: directory for the shards, made if need be. It and the videos may be gs://BUCKET/....
        fps, height, width: as in `video.decode`.
        quality: of the JPEG, 1 to 100.
        workers: films decoded side by side, each in a process of its own.
        timeout_s: a decoder without a new frame for so many seconds is stopped and its film
            skipped.
        shard_bytes: of JPEG in a shard file; a video is never divided.
        progress: show a bar with the time left (plain lines if stderr is not a terminal).

    Returns:
        The manifest, as written; `skipped` lists the videos that could not be read, and why.

    Raises:
        InputError: no video at all could be read, settings make no sense, `out` cannot be
            written to, is in use by another run, or its disk is full.
    """
    named, place = named_videos(videos), storage.at(out)
    settings = checked_settings(fps=fps, height=height, width=width, quality=quality)
    if not (workers >= 1 and timeout_s > 0):
        raise InputError(f"{workers} workers, {timeout_s} s of patience; give more than 0 of both")
    with writing(place) as scratch, Decoders(workers, timeout_s=timeout_s) as decoders:
        builder = _Builder(place, scratch, settings, shard_bytes)
        builder.reuse(named, decoders)
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
        with Progress({job.id: job.path for job in jobs}, show=progress) as bar:
            builder.add(builder.parts(jobs, decoders, bar))
        return builder.finish(list(named))


def checked_settings(*, fps: float, height: int, width: int | None, quality: int) -> Settings:
    """Settings of a shard folder. Raises InputError where they make no sense."""
    if not (1e-3 <= fps <= 1e4 and height >= 1 and (width is None or width >= 1)):
        raise InputError(f"cannot shard at {fps} fps, {height} x {width} pixels; change these")
    if not 1 <= quality <= 100:
        raise InputError(f"JPEG quality {quality} does not exist; give 1 to 100")
    return Settings(fps=float(fps), height=height, width=width, quality=quality)


def named_videos(videos: Videos) -> dict[str, Place]:
    """Videos by their ids. Raises InputError if there are none, or two with one id."""
    if isinstance(videos, Mapping):
        named = {key: storage.at(path) for key, path in videos.items()}
    else:
        named = {}
        for path in map(storage.at, videos):
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
def writing(out: Place, *, keep: bool = False) -> Iterator[Path]:
    """A scratch directory of this machine for a run that has `out` for itself.

    It is inside `out` where that is of this machine; then both vanish if the run fails. A bucket
    has no locks: that no two runs write to one folder is left to the person.

    Args:
        out: the shard folder, made if need be.
        keep: what a run that failed leaves in the scratch directory is of use to the next one.
    """
    if not isinstance(out, Path):
        with tempfile.TemporaryDirectory(prefix="tgvlm-") as folder:
            try:
                yield Path(folder)
            except OSError as error:
                raise _refused(out, error) from error
        return
    made, handle, scratch = not out.exists(), None, out / SCRATCH
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{out}: another run is writing here; wait for it") from error
        except OSError:
            pass  # a file system without locks
        if not keep:
            storage.remove_folder(scratch)  # of a run that was killed
        scratch.mkdir(exist_ok=True)
        try:
            yield scratch
        finally:
            if not keep:
                storage.remove_folder(scratch)
    except OSError as error:
        raise _refused(out, error) from error
    finally:
        if handle is not None:
            os.close(handle)
        if made:
            with contextlib.suppress(OSError):
                out.rmdir()  # only if nothing is in it


def _refused(out: Place, error: OSError) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "disk full; free some space and run again, finished shards are reused"
    else:
        what = f"cannot be written to ({error.strerror or error}); choose another directory"
    return InputError(f"{out}: {what}")


class _Builder:
    """The shard files and manifest of one run; a file counts once it is complete."""

    def __init__(self, out: Place, scratch: Path, settings: Settings, shard_bytes: int) -> None:
        self.videos: dict[str, VideoEntry] = {}
        self._out, self._scratch, self._settings = out, scratch, settings
        self._shard_bytes = shard_bytes
        self._shards: dict[str, ShardFile] = {}
        self._skipped: list[Skipped] = []
        self._old: Earlier = shard_files.earlier(out, settings)
        self._number = self._old.number

    def reuse(self, named: Mapping[str, Place], decoders: Decoders) -> None:
        """Takes over the videos of an earlier run whose files are the same.

        Shard files all of whose videos stay are kept as they are; from others the JPEGs of the
        videos that stay are copied.
        """
        old, out, pool = self._old, self._out, decoders.pool
        sound = pool.map(lambda shard: shard_files.is_intact(out, shard), old.shards.values())
        intact = {name for name, good in zip(old.shards, sound, strict=True) if good}
        asked = [
            key
            for key, path in named.items()
            if (entry := old.videos.get(key)) and entry.source == path.name
            if entry.shard in intact
        ]
        digests = pool.map(digest_of, [named[key] for key in asked])
        found = zip(asked, digests, strict=True)
        left = shard_files.reused(old, [key for key, it in found if it == old.videos[key].sha256])
        self._shards, self.videos = dict(left.shards), dict(left.videos)
        self.add(left.copies)

    def parts(self, jobs: Sequence[Job], decoders: Decoders, bar: Progress) -> Iterator[Part]:
        """Decodes videos, in their order; notes those that cannot be read."""
        results = decoders.map(jobs, lambda job, part: bar.advance(job.id, part))
        for job, result in zip(jobs, results, strict=True):
            bar.advance(job.id, 1.0)
            if isinstance(result, Decoded):
                size = sum(result.sizes)
                yield Part(entry=result.entry, bytes=size, spool=job.spool, sizes=result.sizes)
            else:
                self._skipped.append(Skipped(id=job.id, source=job.path.name, reason=result))

    def add(self, parts: Iterable[Part]) -> None:
        """Writes videos into shard files; each is noted, so that a later run can go on from it."""
        frames = shard_files.frames_of(self._out, self._settings, self._old)
        for batch in shard_files.fill(parts, self._shard_bytes):
            written = shard_files.write_file(
                shard_files.name_of(self._number),
                batch,
                out=self._out,
                scratch=self._scratch,
                old=frames,
            )
            self._number += 1
            self._shards[written.shard.file] = written.shard
            self.videos |= {entry.id: entry for entry in written.videos}
            for part in batch:
                if part.spool is not None:
                    storage.remove(part.spool)
            try:
                save(self._manifest(self.videos), self._out / UNFINISHED, self._scratch)
            except OSError:
                storage.remove(self._out / written.shard.file)
                raise

    def _manifest(self, order: Iterable[str]) -> Manifest:
        return shard_files.manifest_of(
            self._settings,
            videos=[self.videos[key] for key in order if key in self.videos],
            shards=[self._shards[name] for name in sorted(self._shards)],
            skipped=self._skipped,
        )

    def finish(self, order: Sequence[str]) -> Manifest:
        """Writes the manifest and removes the files that it does not name."""
        return shard_files.finish(self._manifest(order), self._out, scratch=self._scratch)
