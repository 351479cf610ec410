"""One question about one video, of any length."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from tgvlm_jax import files
from tgvlm_jax.cli import session
from tgvlm_jax.data import video
from tgvlm_jax.data.augment import fit
from tgvlm_jax.data.chat import EVIDENCE
from tgvlm_jax.data.patch_videos import shown_size
from tgvlm_jax.evaluation.runner import Answered, answer
from tgvlm_jax.report.timeline import Answer, film_strip, write_timeline
from tgvlm_jax.schema import Experiment
from tgvlm_jax.types import InputError, Sample

NOWHERE = np.zeros((0, 2))
_STRIP_HEIGHT = 90  # pixels decoded at least; the model gets them scaled to its own size


def run(
    checkpoint: Path,
    path: Path,
    *,
    question: str,
    start: float = 0.0,
    end: float | None = None,
    spans: Float64[np.ndarray, "s 2"] = NOWHERE,
    out: Path,
) -> Answer:
    """Prints the answer, writes its timeline to `out`, and returns what was drawn.

    `spans` are what each `<evi>` of the question means, in seconds.

    Raises:
        InputError: the video or the checkpoint cannot be read, the question is empty or points at
            more or less than `spans`, the part asked for is empty, or `out` cannot be written.
    """
    if not question.strip():
        raise InputError('the question is empty; ask such as "When is the picture upside down?"')
    if (asked := question.count(EVIDENCE)) != len(spans):
        raise InputError(
            f"{asked} {EVIDENCE} in the question, but {len(spans)} intervals; name each, such as "
            "--spans 3-9"
        )
    info = video.probe(path)
    stop = info.duration if end is None else min(end, info.duration)
    if not 0 <= start < stop:
        raise InputError(
            f"{path} runs from 0 to {info.duration:.1f} s; --start {start:g} --end {stop:g} leaves "
            "nothing of it"
        )
    files.make_folder(out.parent)
    model = session.open_model(checkpoint)
    if model.experiment.data.takes:
        raise InputError(f"{checkpoint}: sees several views of a take; ask it by tgvlm eval")
    fps = _fps(model.experiment, stop - start)
    tall = max(1.0, info.height / info.width)  # the short side is to have enough
    seen = shown_size(
        info.height, info.width, model=model.experiment.model, config=model.experiment.data
    )
    height = max(_STRIP_HEIGHT, round(seen[0] * tall))
    frames = video.decode(path, fps=fps, height=height, start=start, end=stop)
    frames = video.distinct(frames)
    if model.experiment.model.evidence is None:
        frames = _at_most(frames, max(model.experiment.data.frames))
    if frames.seconds[0] >= stop:
        raise InputError(
            f"{path} shows nothing before {frames.seconds[0]:.2f} s; give an --end after that"
        )
    windows = _windows(frames, question, spans, path.stem, model.experiment, stop)
    answered = answer(model.params, windows, experiment=model.experiment, chat=model.chat)
    best = max(range(len(answered)), key=lambda i: _sureness(answered[i]))
    drawn = _drawn(
        answered, best, frames, note=f"{path.name} · {checkpoint}", start=start, stop=stop
    )
    _say(answered[best], windows)
    write_timeline(out, drawn)
    print(f"\nlook:  {out}")
    return drawn


def parse_spans(words: Sequence[str]) -> Float64[np.ndarray, "s 2"]:
    """Intervals such as "3-9.5", in seconds.

    Raises:
        InputError: a word is none.
    """
    found = []
    for word in words:
        start, _, end = word.partition("-")
        try:
            found.append((float(start), float(end)))
        except ValueError:
            raise InputError(f"--spans {word!r}: give seconds such as 3-9,20-25.5") from None
        if found[-1][0] > found[-1][1]:
            raise InputError(f"--spans {word!r} ends before it starts")
    return np.asarray(found, np.float64).reshape(-1, 2)


def _say(answered: Answered, windows: list[Sample]) -> None:
    print(answered.text or "(the model said nothing)")
    for first, last in dict.fromkeys(map(tuple, answered.spans.tolist())):
        print(f"  {first:.1f} s - {last:.1f} s")
    if not len(answered.spans):
        print("  no interval")
    if len(windows) > 1:
        length = windows[0].duration - windows[0].seconds[0]
        print(f"Asked of {len(windows)} windows of {length:.1f} s; this is the surest answer.")


def _fps(experiment: Experiment, length: float) -> float:
    """Frames a second: the most that lets one clip hold all, within what training has seen.

    Words do not say how sure they are, so a model that only speaks is shown all at once.
    """
    data = experiment.data
    slowest, fastest = data.fps / max(data.strides), data.fps / min(data.strides)
    slowest = 0.0 if experiment.model.evidence is None else slowest
    return float(np.clip(max(data.frames) / length, slowest, fastest))


def _at_most(found: video.VideoFrames, most: int) -> video.VideoFrames:
    """All frames or so many, evenly spread."""
    count = len(found.seconds)
    chosen = np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
    pixels, seconds = found.pixels[chosen], found.seconds[chosen]
    return dataclasses.replace(found, pixels=pixels, seconds=seconds)


def _windows(
    found: video.VideoFrames,
    question: str,
    spans: Float64[np.ndarray, "s 2"],
    name: str,
    experiment: Experiment,
    stop: float,
) -> list[Sample]:
    """Clips of at most the largest frame bucket, end to end; the last one reaches back."""
    size, most = experiment.model.frame_size, max(experiment.data.frames)
    count = len(found.seconds)
    starts = list(range(0, max(1, count - most + 1), most))
    if starts[-1] + most < count:
        starts.append(count - most)
    clips = []
    for first in starts:
        last = min(first + most, count)
        clips.append(
            Sample(
                frames=fit(found.pixels[first:last], size, config=experiment.data),
                seconds=found.seconds[first:last],
                duration=float(found.seconds[last]) if last < count else stop,
                question=question,
                answer="",
                spans=np.zeros((0, 2)),
                video=name,
                kind="asked",
                sources=spans,
            )
        )
    return clips


def _sureness(answered: Answered) -> float:
    """Mean belief in the frames of the answered intervals; -1 without an interval.

    Intervals in words come without belief: 0.
    """
    if not len(answered.probabilities):
        return 0.0 if len(answered.spans) else -1.0
    seconds = answered.sample.seconds
    means = [
        row[(seconds >= first) & ((seconds < last) | (seconds == first))].mean()
        for row, (first, last) in zip(answered.probabilities, answered.spans, strict=True)
    ]
    return float(np.mean(means)) if means else -1.0


def _drawn(
    answered: list[Answered],
    best: int,
    frames: video.VideoFrames,
    *,
    note: str,
    start: float,
    stop: float,
) -> Answer:
    """The answer over everything that was looked at; each frame with the belief of its window."""
    belief = np.zeros(len(frames.seconds), np.float32)
    believed = [one for one in answered if len(one.probabilities)]
    for one in believed:
        where = np.searchsorted(frames.seconds, one.sample.seconds)
        belief[where] = np.maximum(belief[where], one.probabilities.max(axis=0))
    shown = frames.seconds - start
    spans: Float64[np.ndarray, "e 2"] = answered[best].spans - start
    return Answer(
        question=answered[best].sample.question,
        text=answered[best].text,
        duration=stop - start,
        seconds=np.maximum(shown, 0.0),
        probabilities=belief[None] if believed else belief[None][:0],
        predicted=np.clip(spans, 0.0, stop - start),
        strip=film_strip(frames.pixels, shown, duration=stop - start),
        note=note,
    )
