"""Makes the video files that go wrong, and those that only look wrong, for the tests.

Every function writes one small file into a directory and returns its path. Frame k of a
synthetic clip is plain grey of level `level(k)`, so a test can tell which frame it was given.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BIKES = Path(__file__).resolve().parent.parent / "assets" / "bikes.mp4"
TICK = Fraction(1, 12800)
WIDTH, HEIGHT = 64, 48
VFR_SECONDS = (0.0, 0.1, 0.5, 0.6, 2.0, 2.04, 3.0)


def level(k: int) -> int:
    return 40 + 20 * (k % 9)


def synthetic(
    path: Path,
    seconds: Sequence[float],
    *,
    sound: float = 0.0,
    rotation: int | None = None,
    corner: bool = False,
) -> Path:
    """Frames shown at `seconds`, beside `sound` seconds of silence from zero on.

    With `corner` the upper left quarter is white; `rotation` is what the container asks of a
    player, in degrees anticlockwise.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "10"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.time_base = video.time_base = TICK
        if rotation is not None:
            video.set_display_rotation(rotation)
        if sound:
            silence(container, sound)
        for k, second in enumerate(seconds):
            pixels = np.full((HEIGHT, WIDTH, 3), level(k), dtype=np.uint8)
            if corner:
                pixels[: HEIGHT // 2, : WIDTH // 2] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(Fraction(second) / TICK), TICK
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def silence(container: av.container.OutputContainer, seconds: float) -> None:
    sound = container.add_stream("aac", rate=16000, layout="mono")
    samples = np.zeros((1, int(16000 * seconds)), dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.rate, frame.pts = 16000, 0
    container.mux(sound.encode(frame))
    container.mux(sound.encode(None))


def remuxed(path: Path, **options: str) -> Path:
    """The frames of bikes.mp4, unchanged, in the container that the suffix names."""
    with av.open(str(BIKES)) as source, av.open(str(path), "w", options=options) as container:
        video = source.streams.video[0]
        copy = container.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.dts is not None:
                packet.stream = copy
                container.mux(packet)
    return path


def missing(directory: Path) -> Path:
    return directory / "missing.mp4"


def is_directory(directory: Path) -> Path:
    path = directory / "folder.mp4"
    path.mkdir()
    return path


def zero_byte(directory: Path) -> Path:
    path = directory / "zero.mp4"
    path.touch()
    return path


def text(directory: Path) -> Path:
    path = directory / "text.mp4"
    path.write_text("This is no video, whatever its name says.\n" * 100)
    return path


def no_index(directory: Path) -> Path:
    """Cut before the moov atom, which this file has at its end."""
    path = directory / "no_index.mp4"
    path.write_bytes(BIKES.read_bytes()[:250_000])
    return path


def cut_in_data(directory: Path) -> Path:
    """Index in front, then 60 % of the frames: a download that stopped."""
    whole = remuxed(directory / "whole.mp4", movflags="faststart").read_bytes()
    path = directory / "cut.mp4"
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    return path


def cut_matroska(directory: Path) -> Path:
    """Decodes without an error up to the cut, then just ends."""
    whole = remuxed(directory / "whole.mkv").read_bytes()
    path = directory / "cut.mkv"
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    return path


def overwritten(directory: Path) -> Path:
    """The right index and the right length, but the frames are noise."""
    whole = bytearray(BIKES.read_bytes())
    start = whole.index(b"mdat") + 4
    whole[start:500_000] = np.random.default_rng(0).bytes(500_000 - start)
    path = directory / "noise.mp4"
    path.write_bytes(whole)
    return path


def audio_only(directory: Path) -> Path:
    path = directory / "sound.mp4"
    with av.open(str(path), "w") as container:
        silence(container, 1.0)
    return path


def variable_rate(directory: Path, suffix: str = ".mp4") -> Path:
    return synthetic(directory / f"vfr{suffix}", VFR_SECONDS)


def late_start(directory: Path, suffix: str = ".mp4") -> Path:
    """Sound from zero on, the first of 50 frames at 0.54 s."""
    return synthetic(directory / f"late{suffix}", [0.54 + k / 25 for k in range(50)], sound=2.6)


def one_frame(directory: Path, suffix: str = ".mp4") -> Path:
    return synthetic(directory / f"one{suffix}", [0.0])
