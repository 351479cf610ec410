"""Frame shards: a video set decoded once into JPEG records, with a manifest of real time stamps.

A shard directory holds `manifest.json` and `frames-00000.arrayrecord`, ... : ArrayRecord files
with one JPEG frame a record, the frames of a video next to each other and several videos a file.
This is how they are read; `shard_writer` and `beam_shards` write them. Shards in a bucket (gs://)
are read where they are, a request a clip.
"""

import contextlib
import os
import threading
from collections import OrderedDict
from fnmatch import fnmatch
from typing import Literal, TypeAlias

import numpy as np
import simplejpeg
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import Float64, UInt8

from tgvlm_jax.data import storage
from tgvlm_jax.data.manifest import (
    FINISHED,
    UNFINISHED,
    Manifest,
    ShardError,
    VideoEntry,
    damaged,
    load,
)
from tgvlm_jax.data.storage import Place

_Lock: TypeAlias = contextlib.AbstractContextManager[object]
_OPEN_READERS = 64  # files kept open for random reads
# Without read-ahead the library asks a bucket for every record by itself.
_LOCAL = "readahead_buffer_size:0,max_parallelism:0"
_REMOTE = "readahead_buffer_size:1M,max_parallelism:1"


class FrameShards:
    """Random access to the frames of a shard directory; made by `open_shards`.

    Reads are safe from several threads. A pickled copy opens its files anew, when first used.
    """

    def __init__(self, directory: Place, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self._videos = {entry.id: entry for entry in manifest.videos}
        self._records = {shard.file: shard.records for shard in manifest.shards}
        self._lock = threading.Lock()
        # A reader has a position, so each has a lock; seek-and-read is twice as quick as ranges.
        self._readers: OrderedDict[str, tuple[ArrayRecordReader, _Lock]] = OrderedDict()

    def __reduce__(self) -> tuple[type, tuple[Place, Manifest]]:
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
                return self._read(reader, entry.first_record + start, stop - start)
        except (RuntimeError, ValueError, IndexError) as error:
            with self._lock:
                self._readers.pop(entry.shard, None)  # a reader that failed once fails forever
            raise _unreadable(self.directory / entry.shard, "cannot be read", error) from error

    def _read(self, reader: ArrayRecordReader, first: int, count: int) -> list[bytes]:
        if storage.is_remote(self.directory):  # one request, and Python goes on meanwhile
            return reader.read(first, first + count) if count else []
        reader.seek(first)
        return [reader.read() for _ in range(count)]

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

    def _reader(self, name: str) -> tuple[ArrayRecordReader, _Lock]:
        with self._lock:
            if name in self._readers:
                self._readers.move_to_end(name)
                return self._readers[name]
        path = self.directory / name
        try:
            options = _REMOTE if storage.is_remote(path) else _LOCAL
            reader = ArrayRecordReader(str(path), options)
            found = reader.num_records()
            if found != self._records[name] and storage.is_remote(path):
                reader.read()  # only now a bucket says what is wrong
        except (RuntimeError, ValueError) as error:
            raise _unreadable(path, "cannot be opened", error) from error
        if found != self._records[name]:
            raise damaged(path, f"has {found} records, not the {self._records[name]} promised")
        with self._lock:
            self._readers.setdefault(name, (reader, threading.Lock()))
            while len(self._readers) > _OPEN_READERS:
                self._readers.popitem(last=False)  # closes when its last user is done
            return self._readers[name]


def _unreadable(path: Place, what: str, error: Exception) -> ShardError:
    if not storage.is_remote(path):
        return damaged(path, what)
    cause = " ".join(str(error).split())[:200]
    return ShardError(
        f"{path}: {what} ({cause}); check the network and your credentials, and with "
        "`tgvlm inspect --shards ... --verify` its content"
    )


def open_shards(
    directory: str | os.PathLike[str], *, verify: Literal["size", "hash"] = "size"
) -> FrameShards:
    """Opens what `write_shards` wrote.

    Args:
        directory: the one with manifest.json, of this machine or gs://BUCKET/....
        verify: "size" compares the sizes of the files, "hash" their whole content.

    Raises:
        ShardError: the manifest is missing, unreadable, of another version or at odds with the
            files; or a shard file is missing, cut off or (with "hash") changed.
        InputError: a bucket without the `gcs` extra.
    """
    if directory == "":
        raise ShardError("data.shards names no folder; set it to what `tgvlm shard` wrote")
    directory = storage.at(directory)
    try:
        sizes = storage.sizes(directory)
    except OSError as error:
        raise ShardError(f"{directory}: cannot be read ({error.strerror or error})") from error
    manifests = {name for name in sizes if fnmatch(name, "manifest*.json")}
    if not manifests and not any(name.startswith("frames-") for name in sizes):
        raise ShardError(
            f"{directory}: no frame shards there; make them: tgvlm shard --videos FILMS --out "
            f"{directory}"
        )
    if manifests == {UNFINISHED}:
        raise ShardError(f"{directory}: was not finished; re-run `tgvlm shard`, it continues there")
    manifest = load(directory / FINISHED)
    for shard in manifest.shards:
        path = directory / shard.file
        size = sizes.get(shard.file)
        if size is None:
            raise damaged(path, "is missing")
        if size != shard.bytes:
            raise damaged(path, f"has {size} bytes, not the {shard.bytes} of the manifest")
        if verify == "hash" and storage.sha256(path) != shard.sha256:
            raise damaged(path, "has another content than the manifest says")
    return FrameShards(directory, manifest)
