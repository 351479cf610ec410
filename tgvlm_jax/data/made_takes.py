"""Takes made out of any film, in the form of Ego-Exo4D, with a property that one view shows.

Every take is a few seconds of the film as three cameras might have seen it: the whole picture, a
crop that is mirrored, and a crop that comes a little later. In one of them, drawn at random, all
frames are changed, and the level is the kind of change. So a model of one view has something to go
by in a third of all takes, and a model of all views always.

    videos/TAKE/{ego,exo1,exo2}.mp4
    proficiency_{train,val}.json, commentary_{train,val}.json
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from tgvlm_jax import files
from tgvlm_jax.data import video
from tgvlm_jax.data.anomalies import perturb
from tgvlm_jax.data.augment import resize
from tgvlm_jax.types import InputError

FPS = 8
VIEWS = ("ego", "exo1", "exo2")
LEVELS = ("grayscale", "invert", "channel_swap", "rotate180")
_SIDE = 48  # pixels, of square frames
_DELAY = 4  # frames that exo2 is late
_REMARKS = {
    "grayscale": "The colours are gone in one of the views. All of it is grey.",
    "invert": "One of the views is a negative. Dark things are bright.",
    "channel_swap": "The colours of one view have changed places. Red is not red.",
    "rotate180": "One of the views stands on its head. The sky is below.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the film, in seconds, and how many takes are made of it."""

    start: float
    end: float
    takes: int


def make_takes(
    film: Path, out: Path, *, train: Part, val: Part, seconds: float = 2.5, seed: int = 0
) -> None:
    """Writes the videos and annotations of a set; the folder appears whole.

    Args:
        film: any video. train, val: its parts, which should not overlap.
        seconds: length of a take. seed: fixes everything.

    Raises:
        InputError: the film cannot be read, a part is shorter than a take, or `out` exists.
    """
    with files.new_folder(out) as scratch:
        for number, (name, part) in enumerate((("train", train), ("val", val))):
            rng = np.random.default_rng([seed, number])
            _write_split(film, scratch, name, part, seconds=seconds, rng=rng)


def _write_split(
    film: Path, out: Path, name: str, part: Part, *, seconds: float, rng: np.random.Generator
) -> None:
    found = video.decode(film, fps=FPS, height=2 * _SIDE, start=part.start, end=part.end)
    length, count = round(FPS * seconds), len(found.seconds)
    if count < length + _DELAY:
        raise InputError(f"{film}: {part.end - part.start:g} s are too short for {seconds:g} s")
    records, remarks = [], {}
    for number in range(part.takes):
        uid, level = f"{name}{number:04d}", LEVELS[number % len(LEVELS)]
        start = int(rng.integers(count - length - _DELAY + 1))
        pixels = found.pixels[start : start + length + _DELAY]
        paths = {}
        changed = VIEWS[int(rng.integers(len(VIEWS)))]
        for view, clip in zip(VIEWS, _views(pixels, rng), strict=True):
            clip = perturb(clip, level, rng=rng) if view == changed else clip
            paths[view] = f"{uid}/{view}.mp4"
            write_video(out / "videos" / paths[view], clip, fps=FPS)
        records.append(
            {
                "take_uid": uid,
                "scenario_name": f"shown by {changed}",
                "video_paths": paths,
                "proficiency_score": level,
            }
        )
        remarks[uid] = [{"commentary_data": [{"text": _REMARKS[level], "error": None}]}]
    for kind, annotations in (("proficiency", records), ("commentary", remarks)):
        text = json.dumps({"annotations": annotations}, indent=1) + "\n"
        files.write_text(out / f"{kind}_{name}.json", text)


def _views(
    pixels: UInt8[np.ndarray, "n y x 3"], rng: np.random.Generator
) -> Sequence[UInt8[np.ndarray, "f side side 3"]]:
    """The picture, a mirrored crop of its left, and a late crop of its right."""
    now, late = pixels[:-_DELAY], pixels[_DELAY:]
    size, edge = (_SIDE, _SIDE), float(rng.uniform(0.55, 0.75))
    left = resize(now, size, box=(0.0, 0.0, edge, 1.0))[:, :, ::-1]
    return (
        resize(now, size),
        np.ascontiguousarray(left),
        resize(late, size, box=(1 - edge, 0, 1, 1)),
    )


def write_video(path: Path, pixels: UInt8[np.ndarray, "f y x 3"], *, fps: int) -> None:
    """An H.264 file of these frames; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in pixels:
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
