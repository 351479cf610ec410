import math
import subprocess
import sys

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation

from tests.data import bad_videos
from tests.data.bad_videos import BIKES, VFR_SECONDS, level
from tgvlm_jax.data.video import VideoError, decode, probe, stream
from tgvlm_jax.types import InputError

BAD = {
    "missing": (bad_videos.missing, "No such file"),
    "directory": (bad_videos.is_directory, "is a directory"),
    "zero byte": (bad_videos.zero_byte, "is empty"),
    "text": (bad_videos.text, "not a video"),
    "no index": (bad_videos.no_index, "moov"),
    "cut in data": (bad_videos.cut_in_data, r"first 5\.\d\d s of 10\.00 s are readable"),
    "cut matroska": (bad_videos.cut_matroska, r"first 5\.\d\d s of 10\.00 s are readable"),
    "noise": (bad_videos.overwritten, "none of its frames"),
    "audio only": (bad_videos.audio_only, "no video stream"),
}


@pytest.mark.parametrize(("make", "cause"), BAD.values(), ids=BAD)
def test_bad_file_is_one_clear_line(tmp_path, make, cause):
    path = make(tmp_path)
    with pytest.raises(VideoError, match=cause) as caught:
        decode(path, fps=2.0, height=32)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))


def test_ffmpeg_does_not_talk(tmp_path):
    paths = [str(make(tmp_path)) for make, _ in BAD.values()]
    script = """
import sys
from tgvlm_jax.data.video import VideoError, decode
for path in sys.argv[1:]:
    try:
        decode(path, fps=2.0, height=32)
    except VideoError:
        print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout == "refused\n" * len(paths)


def test_intact_part_of_a_cut_file_is_readable(tmp_path):
    path = bad_videos.cut_in_data(tmp_path)
    cut = decode(path, fps=5.0, height=32, end=4.0)
    whole = decode(BIKES, fps=5.0, height=32, end=4.0)
    np.testing.assert_array_equal(cut.pixels, whole.pixels)


def reference(path, *, fps, start=0.0, end=math.inf):
    """Which source frames are on screen at k / fps, found from all frames at once."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = [(frame.pts, frame.duration) for frame in container.decode(video)]
        shown, held = np.array(frames).T * float(video.time_base)
        seconds = shown - container.start_time / 1e6
    stop = min(end, seconds[-1] + held[-1])
    times = np.arange(math.ceil(start * fps), math.ceil(stop * fps - 1e-9)) / fps
    chosen = np.searchsorted(seconds, times + 5e-4, side="right") - 1
    return seconds[chosen[chosen >= 0]]


@pytest.mark.parametrize("fps", [0.5, 2.0, 3.7, 12.0, 25.0, 60.0])
def test_takes_the_frame_on_screen(fps):
    got = decode(BIKES, fps=fps, height=16)
    np.testing.assert_allclose(got.seconds, reference(BIKES, fps=fps), atol=1e-9)
    assert len(got.pixels) == len(got.seconds)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("fps", [1.0, 2.0, 10.0])
def test_variable_frame_rate(tmp_path, suffix, fps):
    path = bad_videos.variable_rate(tmp_path, suffix)
    got = decode(path, fps=fps, height=48)
    times = np.arange(0, 3.04, 1 / fps)
    chosen = np.searchsorted(np.array(VFR_SECONDS), times + 5e-4, side="right") - 1
    np.testing.assert_allclose(got.seconds, np.array(VFR_SECONDS)[chosen], atol=6e-4)
    want = np.array([level(k) for k in chosen])
    np.testing.assert_allclose(got.pixels.mean((1, 2, 3)), want, atol=3)
    assert got.info.fps == pytest.approx(len(VFR_SECONDS) / 3.04, rel=1e-3)
    assert got.info.duration == pytest.approx(3.04, abs=2e-3)


def test_rounded_time_stamps_lose_no_frame(tmp_path):
    """Matroska keeps milliseconds: the third of twelve frames a second is shown at 0.167 s."""
    path = bad_videos.synthetic(tmp_path / "twelve.mkv", [k / 12 for k in range(24)])
    got = decode(path, fps=12.0, height=48)
    want = np.array([level(k) for k in range(24)])
    np.testing.assert_allclose(got.pixels.mean((1, 2, 3)), want, atol=3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_first_frame_after_zero(tmp_path, suffix):
    path = bad_videos.late_start(tmp_path, suffix)
    got = decode(path, fps=2.0, height=48)
    offset = {".ts": 0.064}.get(suffix, 0.0)  # MPEG-TS: AAC priming comes before zero
    shown = offset + 0.54 + np.arange(50) / 25
    times = np.array([1.0, 1.5, 2.0, 2.5])
    chosen = np.searchsorted(shown, times + 5e-4, side="right") - 1
    np.testing.assert_allclose(got.seconds, shown[chosen], atol=1.1e-3)
    want = np.array([level(k) for k in chosen])
    np.testing.assert_allclose(got.pixels.mean((1, 2, 3)), want, atol=3)
    first = decode(path, fps=10.0, height=48).seconds[0]
    assert shown[0] - 1e-3 < first <= math.ceil(shown[0] * 10) / 10


def test_window_before_the_first_frame_gives_that_frame(tmp_path):
    got = decode(bad_videos.late_start(tmp_path), fps=2.0, height=48, end=0.4)
    assert got.seconds == pytest.approx([0.54])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("fps", [0.1, 1.0, 25.0])
def test_one_frame(tmp_path, suffix, fps):
    path = bad_videos.one_frame(tmp_path, suffix)
    got = decode(path, fps=fps, height=24)
    assert got.pixels.shape == (1, 24, 32, 3)
    np.testing.assert_array_equal(got.seconds, [0.0])
    assert got.info.duration == pytest.approx(0.04)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("start", [0.1, 2.5, 7.0, 9.99])
def test_window_equals_the_whole_there(tmp_path, suffix, start):
    path = bad_videos.remuxed(tmp_path / f"bikes{suffix}")
    whole = decode(path, fps=5.0, height=24)
    window = decode(path, fps=5.0, height=24, start=start, end=start + 1.5)
    times = np.arange(50) / 5
    inside = (times >= start - 1e-9) & (times < start + 1.5 - 1e-9)
    if not inside.any():
        inside[-1] = True  # no grid time left: what is on screen at `start`
        np.testing.assert_allclose(window.seconds, [9.96], atol=1e-6)
        return
    np.testing.assert_array_equal(window.seconds, whole.seconds[inside])
    np.testing.assert_array_equal(window.pixels, whole.pixels[inside])


def test_window_narrower_than_the_grid():
    got = decode(BIKES, fps=1.0, height=24, start=3.3, end=3.4)
    np.testing.assert_allclose(got.seconds, [3.28], atol=1e-9)


def test_area_filter_is_the_mean_of_the_box():
    """Against boxes of the full frames, with chroma interpolated; no grey level of bias."""
    exact = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
    with av.open(str(BIKES)) as container:
        full = np.stack(
            [
                frame.reformat(format="rgb24", interpolation=exact).to_ndarray()
                for frame in container.decode(video=0)
            ][::50]
        )
    box = full.reshape(5, 68, 4, 160, 4, 3).mean((2, 4))
    got = decode(BIKES, fps=0.5, height=68, width=160).pixels
    assert np.abs(got - box).mean() < 1.0
    assert np.abs((got - box).mean((0, 1, 2))).max() < 0.3


@pytest.mark.parametrize(
    ("rotation", "rows", "columns"),
    [(0, 0, 0), (90, 1, 0), (180, 1, 1), (-90, 0, 1)],
)
def test_rotation_is_applied(tmp_path, rotation, rows, columns):
    path = bad_videos.synthetic(
        tmp_path / "turned.mp4", [0.0, 0.04], rotation=rotation, corner=True
    )
    info = probe(path)
    assert (info.width, info.height) == ((64, 48) if rotation % 180 == 0 else (48, 64))
    pixels = decode(path, fps=25.0, height=info.height).pixels[0]
    assert pixels.shape == (info.height, info.width, 3)
    quarters = pixels.mean(-1).reshape(2, info.height // 2, 2, info.width // 2).mean((1, 3))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == (rows, columns)


@pytest.mark.parametrize(("height", "width"), [(272, 640), (68, 160), (72, 170), (50, 118), (1, 2)])
def test_width_keeps_the_shape_and_is_even(height, width):
    got = decode(BIKES, fps=1.0, height=height, end=0.5)
    assert got.pixels.shape == (1, height, width, 3)
    assert decode(BIKES, fps=1.0, height=20, width=33, end=0.5).pixels.shape == (1, 20, 33, 3)


def test_probe():
    info = probe(BIKES)
    assert (info.duration, info.fps, info.width, info.height) == (10.0, 25.0, 640, 272)
    assert info.codec == "h264"


def test_names_are_not_urls(tmp_path):
    path = tmp_path / "http:é %03d.mp4"
    path.write_bytes(BIKES.read_bytes())
    assert decode(path, fps=1.0, height=16).pixels.shape[0] == 10


def test_threads_do_not_change_pixels():
    one = decode(BIKES, fps=5.0, height=24, threads=1)
    many = decode(BIKES, fps=5.0, height=24, threads=4)
    np.testing.assert_array_equal(one.pixels, many.pixels)


def test_stream_is_lazy_and_shares_repeated_frames(tmp_path):
    """Damage at 5.6 s is met only by who reads that far."""
    source = stream(bad_videos.cut_in_data(tmp_path), fps=50.0, height=24)
    assert (source.height, source.width) == (24, 56)
    first, second = next(source.frames), next(source.frames)
    assert first.pixels is second.pixels
    with pytest.raises(VideoError, match="readable"):
        list(source.frames)


@pytest.mark.parametrize(
    "wrong",
    [
        {"fps": 0.0},
        {"fps": math.nan},
        {"fps": math.inf},
        {"height": 0},
        {"width": 0},
        {"start": -1.0},
        {"start": 2.0, "end": 2.0},
        {"end": math.nan},
        {"start": 10.0},
    ],
    ids=str,
)
def test_wrong_arguments(wrong):
    with pytest.raises(InputError, match=r"bikes\.mp4"):
        decode(BIKES, **({"fps": 2.0, "height": 32} | wrong))
