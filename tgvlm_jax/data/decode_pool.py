"""Decoding in child processes: a decoder that hangs or crashes costs one film, not the run."""

import dataclasses
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import av
import simplejpeg

from tgvlm_jax.data import storage, video
from tgvlm_jax.data.manifest import Settings, VideoEntry
from tgvlm_jax.data.storage import Place
from tgvlm_jax.errors import InputError

_START_SECONDS = 120.0  # for a child process to import what it needs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One video to decode; its JPEGs go one after the other into the file `spool`."""

    id: str
    path: Place
    spool: Path
    settings: Settings
    threads: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoded:
    """What came of a job: `entry` without its place in a shard, and the size of each JPEG."""

    entry: VideoEntry
    sizes: tuple[int, ...]


class Decoders:
    """A pool of threads, each with the use of a child process that decodes."""

    def __init__(self, workers: int, *, timeout_s: float) -> None:
        self.pool = ThreadPoolExecutor(workers)
        self._timeout_s = timeout_s
        self._children = [Decoder() for _ in range(workers)]
        self._idle: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        for child in self._children:
            self._idle.put(child)

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.kill()  # the thread that waits for it sees the pipe end
        self.pool.shutdown()

    def map(
        self, jobs: Sequence[Job], report: Callable[[Job, float], None]
    ) -> Iterator[Decoded | str]:
        """The result of each job, in the order of the jobs: frames, or why there are none."""
        futures = [self.pool.submit(self._decode, job, report) for job in jobs]
        for future in futures:
            yield future.result()

    def _decode(self, job: Job, report: Callable[[Job, float], None]) -> Decoded | str:
        child = self._idle.get()
        try:
            return child.decode(job, timeout_s=self._timeout_s, report=report)
        finally:
            self._idle.put(child)


class Decoder:
    """A Python process that decodes one video after the other; started when first needed.

    Not a multiprocessing.Process: that would run the caller's main script again.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def decode(
        self, job: Job, *, timeout_s: float, report: Callable[[Job, float], None]
    ) -> Decoded | str:
        """Fetches a video if need be, takes its hash and decodes it into the job's spool.

        Returns:
            What came of it; or, in one line, why there are no frames. Then there is no spool.

        Raises:
            OSError: the disk or the network is at fault, not the video.
        """
        try:
            with storage.on_disk(job.path) as path:
                digest = digest_of(path)
                local = dataclasses.replace(job, path=path)
                result = self._ask(local, timeout_s, lambda part: report(job, part))
        except (FileNotFoundError, PermissionError):
            if not storage.is_remote(job.path):
                raise
            return f"{job.path}: is not there, or you may not read it; check both"
        if isinstance(result, str):
            job.spool.unlink(missing_ok=True)
            return result.replace(str(path), str(job.path))  # not the name of a copy
        entry = dataclasses.replace(result.entry, sha256=digest)
        return dataclasses.replace(result, entry=entry)

    def _ask(self, job: Job, timeout_s: float, report: Callable[[float], None]) -> Decoded | str:
        if self._process is None:
            self._start()
        try:
            self._pipe.send(job)
            while self._pipe.poll(timeout_s):
                message = self._pipe.recv()
                if isinstance(message, OSError):
                    raise message
                if not isinstance(message, float):
                    return message
                report(message)
        except (EOFError, ConnectionError):
            code = self._end()
            name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            return f"{job.path}: its decoder crashed ({name}); re-encode it or leave it out"
        self._end()
        return f"{job.path}: no frame in {timeout_s:g} s; re-encode it or raise the timeout"

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        number = theirs.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import _serve; _serve({number})"],
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
        )
        theirs.close()
        if not self._pipe.poll(_START_SECONDS) or self._pipe.recv() != "ready":
            raise RuntimeError("the decoder process did not start")

    def kill(self) -> int:
        """Ends the process, if there is one, and returns its exit status."""
        if self._process is None:
            return 0
        self._process.kill()
        return self._process.wait()

    def _end(self) -> int:
        code = self.kill()
        self._pipe.close()
        self._process = None  # the next video starts a new one
        return code


def _serve(number: int) -> None:
    """The main loop of a child process; ends with the pipe."""
    pipe = Connection(number)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    pipe.send("ready")
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(_decode(job, pipe))


def _decode(job: Job, pipe: Connection) -> Decoded | str | OSError:
    """Decodes into the spool file; a reason if the video is bad, OSError if the disk is."""
    settings, seconds, sizes, jpeg, pixels = job.settings, [], [], b"", None
    try:
        source = video.stream(
            Path(job.path),  # a file of this machine
            fps=settings.fps,
            height=settings.height,
            width=settings.width,
            threads=job.threads,
        )
        said = time.monotonic()
        with job.spool.open("wb") as spool:
            for frame in source.frames:
                if frame.pixels is not pixels:
                    pixels = frame.pixels
                    jpeg = simplejpeg.encode_jpeg(
                        pixels, quality=settings.quality, colorsubsampling="420"
                    )
                spool.write(jpeg)
                sizes.append(len(jpeg))
                seconds.append(round(frame.seconds, 6))
                if time.monotonic() - said > 0.2:
                    said = time.monotonic()
                    pipe.send(min(1.0, frame.seconds / source.info.duration))
    except InputError as error:
        return str(error)
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
            return error
        return f"{job.path}: {type(error).__name__}: {error}; leave it out"
    entry = VideoEntry(
        id=job.id,
        source=job.path.name,
        sha256="",
        duration=source.info.duration,
        fps=source.info.fps,
        width=source.width,
        height=source.height,
        shard="",
        first_record=0,
        seconds=tuple(seconds),
    )
    return Decoded(entry=entry, sizes=tuple(sizes))


def digest_of(path: Place) -> str:
    """The sha256 of a file, empty if it cannot be read: the decoder then says why."""
    try:
        return storage.sha256(path) if path.is_file() else ""
    except OSError:
        return ""
