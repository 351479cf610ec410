"""Video files by time stamp: what a film shows at second t, decoded once and in order (PyAV).

The clock is the container's own, as a player shows it: `pts * time_base - container start`.
A frame is on screen from its own time stamp until that of the next one, whatever the frame rate
claims; so variable frame rates, late first frames and one-frame clips need no special case.
"""

import dataclasses
import math
import os
import stat
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Float64, UInt8

from tgvlm_jax.errors import InputError

# Containers that round time stamps to milliseconds show a frame up to half of one late.
_ROUNDING = Fraction(1, 2000)
# A container that promises this many seconds more than its packets hold has been cut off.
_CUT_SECONDS = Fraction(1)
# Box filter with chroma at full resolution; plain AREA darkens by more than a grey level.
_AREA = (
    Interpolation.AREA
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)


class VideoError(InputError):
    """A file that cannot be read as a video; one line with its path, the cause and the remedy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a container says about its video stream, before any frame is decoded.

    Attributes:
        duration: seconds, from the start of the container to the end of its last frame.
        fps: mean frames per second of the stream (real, not nominal, where the two differ).
        width, height: pixels as displayed (rotation and pixel aspect applied).
        codec: FFmpeg's name of the codec.
    """

    duration: float
    fps: float
    width: int
    height: int
    codec: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """Frames sampled from one video, each with the second at which it is really shown."""

    pixels: UInt8[np.ndarray, "f y x 3"]
    seconds: Float64[np.ndarray, "f"]
    info: VideoInfo


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimedFrame:
    """One frame, and the second at which a player begins to show it."""

    pixels: UInt8[np.ndarray, "y x 3"]
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameStream:
    """A video being decoded: `frames` yields as they are asked for, and only once.

    `height` and `width` are those of the frames, `info` describes the source. Two entries of
    `frames` that show the same source frame share the same `pixels` object.
    """

    info: VideoInfo
    height: int
    width: int
    frames: Iterator[TimedFrame]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scan:
    """What the packets say, read without decoding: headers are too often wrong about time."""

    info: VideoInfo
    origin: Fraction  # the container's start, in seconds of the stream's own time stamps
    end: Fraction  # of the last frame, in seconds from the container's start
    cut: bool  # the packets end before the container says they do


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shown:
    """A decoded frame in its native size, and the second at which it comes on screen."""

    frame: VideoFrame
    seconds: Fraction


def probe(path: str | Path) -> VideoInfo:
    """Describes the first video stream of a file; demuxes all of it, decodes one frame.

    Raises:
        VideoError: the file is missing, empty, not a video, without a video stream or damaged
            before its first frame.
    """
    return _scan(Path(path)).info


def decode(
    path: str | Path,
    *,
    fps: float,
    height: int,
    width: int | None = None,
    start: float = 0.0,
    end: float | None = None,
    threads: int = 0,
) -> VideoFrames:
    """Samples the frames on screen at the times k / fps in [start, end), in one pass.

    The grid of times is anchored at zero, so a window returns what the whole film returns there.
    Each time takes the last frame whose time stamp is not later; times before the first frame
    have none and are left out. A window that no grid time falls into takes the frame on screen
    at `start`, so the result is never empty.

    Args:
        path: any file that FFmpeg reads.
        fps: sampled frames per second; may exceed the rate of the source (frames then repeat).
        height, width: pixels of the result; width None keeps the displayed shape (even number).
        start, end: seconds; end None means the end of the video.
        threads: decoder threads, 0 one per core (quick for one film), 1 least work in total.

    Returns:
        Frames resized by area averaging and turned upright, with their real time stamps.

    Raises:
        VideoError: the file cannot be read to the end of the window (says how far it could).
        InputError: the window, rate or size makes no sense.
    """
    source = stream(
        path, fps=fps, height=height, width=width, start=start, end=end, threads=threads
    )
    frames = list(source.frames)
    return VideoFrames(
        pixels=np.stack([frame.pixels for frame in frames]),
        seconds=np.array([frame.seconds for frame in frames], dtype=np.float64),
        info=source.info,
    )


def distinct(found: VideoFrames) -> VideoFrames:
    """Without repeats: a slow film is on one frame for several of the times it is sampled at."""
    fresh = np.append(True, np.diff(found.seconds) > 0)
    return dataclasses.replace(found, pixels=found.pixels[fresh], seconds=found.seconds[fresh])


def stream(
    path: str | Path,
    *,
    fps: float,
    height: int,
    width: int | None = None,
    start: float = 0.0,
    end: float | None = None,
    threads: int = 0,
) -> FrameStream:
    """`decode` one frame at a time, for films whose frames need not be in memory together.

    Arguments and errors are those of `decode`; damage further on is raised while iterating.
    """
    path = Path(path)
    if not 1e-3 <= fps <= 1e4:
        raise InputError(f"{path}: cannot sample {fps} frames a second; give 0.001 to 10000")
    if height < 1 or (width is not None and width < 1):
        raise InputError(f"{path}: cannot resize to {height} x {width}; give sizes of 1 or more")
    if not (math.isfinite(start) and start >= 0) or (
        end is not None and not start < end < math.inf
    ):
        raise InputError(f"{path}: {start} s to {end} s is no window; give 0 <= start < end")
    scan = _scan(path)
    if start >= scan.end:
        raise VideoError(f"{path}: start {start:.2f} s is past its end, {scan.info.duration:.2f} s")
    if width is None:
        width = max(2, 2 * round(height * scan.info.width / scan.info.height / 2))
    times = _grid(fps, start=start, end=end)
    chosen = _choose(_frames_from(path, scan, first=times.first, threads=threads), scan, times)
    return FrameStream(
        info=scan.info,
        height=height,
        width=width,
        frames=_render(chosen, height=height, width=width),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Grid:
    """The times first, first + step, ... below stop, in exact seconds."""

    first: Fraction
    step: Fraction
    stop: Fraction | None


def _grid(fps: float, *, start: float, end: float | None) -> _Grid:
    step = 1 / _exact(fps)
    begin, stop = _exact(start), None if end is None else _exact(end)
    first = math.ceil(begin / step) * step
    if stop is not None and first >= stop:
        first = begin  # no grid time in the window: the frame on screen when it opens
    return _Grid(first=first, step=step, stop=stop)


def _exact(value: float) -> Fraction:
    """The decimal that a person wrote, not its binary neighbour: 0.1 is one tenth."""
    return Fraction(value).limit_denominator(1_000_000)


def _choose(frames: Iterator[_Shown], scan: _Scan, times: _Grid) -> Iterator[_Shown]:
    """For each time of the grid, the frame on screen; at least one frame in all."""
    time, current, chosen = times.first, None, 0
    for frame in frames:
        while time + _ROUNDING < frame.seconds:
            if times.stop is not None and time >= times.stop:
                break
            if current is not None:
                yield current
                chosen += 1
            time += times.step
        current = frame
        if times.stop is not None and time >= times.stop:
            break
    if current is None:
        return
    while time < scan.end and (times.stop is None or time < times.stop):
        yield current
        chosen += 1
        time += times.step
    if not chosen:
        yield current


def _render(chosen: Iterator[_Shown], *, height: int, width: int) -> Iterator[TimedFrame]:
    reformatter, source, pixels = VideoReformatter(), None, np.empty((0, 0, 3), np.uint8)
    for shown in chosen:
        if shown is not source:
            source, pixels = shown, _pixels(shown.frame, reformatter, height=height, width=width)
        yield TimedFrame(pixels=pixels, seconds=float(shown.seconds))


def _pixels(
    frame: VideoFrame, reformatter: VideoReformatter, *, height: int, width: int
) -> UInt8[np.ndarray, "y x 3"]:
    """Resizes before turning, so that the large frame is touched once."""
    quarters = round(frame.rotation / 90) % 4  # anticlockwise, as np.rot90 counts
    rows, columns = (height, width) if quarters % 2 == 0 else (width, height)
    small = reformatter.reformat(
        frame, width=columns, height=rows, format="rgb24", interpolation=_AREA, threads=1
    )
    return np.ascontiguousarray(np.rot90(small.to_ndarray(), quarters))


def _frames_from(path: Path, scan: _Scan, *, first: Fraction, threads: int) -> Iterator[_Shown]:
    """Decoded frames in order of time, beginning at or before the one on screen at `first`."""
    if first > 0:
        frames = _decoded(path, scan, seek=first, threads=threads)
        try:
            head = next(frames, None)
        except VideoError:
            head = None
        if head is not None and head.seconds <= first + _ROUNDING:
            yield head
            yield from frames
            return
        # Some containers have no index, or one that leads past the frame: read from the start.
    yield from _decoded(path, scan, seek=None, threads=threads)


def _decoded(path: Path, scan: _Scan, *, seek: Fraction | None, threads: int) -> Iterator[_Shown]:
    last = None
    try:
        with _open(path) as container:
            video = _video_stream(container, path)
            video.codec_context.thread_type = "AUTO"
            video.codec_context.thread_count = threads
            if seek is not None:
                container.seek(int((seek + scan.origin) / _tick(video)), stream=video)
            for frame in container.decode(video):
                if frame.pts is None:
                    continue
                seconds = frame.pts * _tick(frame) - scan.origin
                if last is None or seconds > last:
                    last = seconds
                    yield _Shown(frame=frame, seconds=seconds)
    except av.FFmpegError as error:
        raise _damaged(path, scan, last) from error
    if last is None or scan.cut:
        raise _damaged(path, scan, last)


def _damaged(path: Path, scan: _Scan, last: Fraction | None) -> VideoError:
    if last is None:
        return VideoError(f"{path}: none of its frames can be decoded; get an intact copy")
    return VideoError(
        f"{path}: damaged or cut off: only the first {float(last):.2f} s of"
        f" {scan.info.duration:.2f} s are readable; get an intact copy"
    )


def _open(path: Path) -> InputContainer:
    """Opens a local file, and nothing that it might point to on a network.

    An absolute path keeps FFmpeg from taking a colon in a name for a protocol.
    """
    return av.open(
        os.path.abspath(path), metadata_errors="ignore", options={"protocol_whitelist": "file"}
    )


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    cover = Disposition.attached_pic
    videos = [video for video in container.streams.video if not video.disposition & cover]
    if not videos:
        kinds = sorted({other.type for other in container.streams}) or ["nothing"]
        raise VideoError(f"{path}: has no video stream (only {', '.join(kinds)}); leave it out")
    return videos[0]


def _tick(timed: VideoStream | Packet | VideoFrame) -> Fraction:
    """Seconds per unit of its time stamps; whatever was read from an open file has one."""
    assert timed.time_base is not None
    return timed.time_base


def _scan(path: Path) -> _Scan:
    """Reads every packet once. What follows a damaged packet is left for the decoder to report."""
    _check_file(path)
    try:
        container = _open(path)
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error
    with container:
        video = _video_stream(container, path)
        first: VideoFrame | None = None
        stamps: list[tuple[int, int]] = []  # (pts, duration) of each video packet
        reach = Fraction(0)  # where the last packet of any stream ends
        try:
            for packet in container.demux():
                pts = packet.dts if packet.pts is None else packet.pts
                if packet.stream is video and first is None:
                    first = next((f for f in packet.decode() if isinstance(f, VideoFrame)), None)
                if pts is None:
                    continue
                length = packet.duration or 0
                reach = max(reach, (pts + length) * _tick(packet))
                if packet.stream is video:
                    stamps.append((pts, length))
        except av.FFmpegError:
            pass
        if first is None or not stamps:
            raise VideoError(f"{path}: none of its frames can be decoded; get an intact copy")
        return _summary(container, video, first=first, stamps=stamps, reach=reach)


def _summary(
    container: InputContainer,
    video: VideoStream,
    *,
    first: VideoFrame,
    stamps: list[tuple[int, int]],
    reach: Fraction,
) -> _Scan:
    tick = _tick(video)
    begin, last = min(stamps)[0], max(stamps)[0]
    # With reordered frames a packet's duration is the gap to the next packet, not to the next
    # frame; only that of the very last packet says how long a last frame stays.
    length = stamps[-1][1]
    if not length:  # transport streams do not say how long a frame lasts
        length = (last - begin) / (len(stamps) - 1) if len(stamps) > 1 else 0
        length = length or (1 / (video.average_rate or Fraction(25))) / tick
    origin = begin * tick
    if container.start_time is not None:
        rounded = Fraction(container.start_time, av.time_base)
        # The container's start is in microseconds; the stream's own tick is exact.
        origin = origin if abs(rounded - origin) < Fraction(2, av.time_base) else rounded
    end = (last + Fraction(length)) * tick - origin
    span = end + origin - begin * tick
    promised = Fraction(container.duration or 0, av.time_base)
    cut = promised - (reach - origin) > _CUT_SECONDS
    end = promised if cut else end
    across, down = first.width * float(video.sample_aspect_ratio or 1), float(first.height)
    if round(first.rotation / 90) % 2:
        across, down = down, across
    info = VideoInfo(
        duration=float(end),
        fps=float(len(stamps) / span),
        width=round(across),
        height=round(down),
        codec=video.codec_context.name,
    )
    return _Scan(info=info, origin=origin, end=end, cut=cut)


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}; check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(f"{path}: is a directory, not a video; name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{path}: is not a regular file; copy the video to disk first")
    if status.st_size == 0:
        raise VideoError(f"{path}: is empty (0 bytes); download or copy it again")


def _unreadable(path: Path, error: av.FFmpegError) -> VideoError:
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as cause:
        return VideoError(f"{path}: cannot be read ({cause.strerror}); check its permissions")
    if head[4:8] == b"ftyp":
        return VideoError(f"{path}: MP4 without its index (moov atom), cut off; get it again")
    return VideoError(f"{path}: not a video, whatever its name says ({error.strerror})")
