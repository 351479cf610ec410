"""One answer on the time line of its video: film strip, intervals, frame probabilities."""

import base64
import dataclasses
import os
from collections.abc import Sequence

import av
import numpy as np
import simplejpeg
from jaxtyping import Float, Float64, UInt8

from tgvlm_jax.grounding import spans, timecode
from tgvlm_jax.report.charts import ticks
from tgvlm_jax.report.page import escape, page, write_page

# Share of the width, in percent, that a letter of a bar's tag needs on a phone.
_LETTER = 1.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said about one video, and all that is needed to draw it.

    Attributes:
        question: as it was put to the model.
        text: the model's answer; the intervals it names are marked.
        duration: seconds.
        seconds: when each frame the model saw is shown.
        probabilities: the model's belief that a frame belongs to evidence `e`, in [0, 1].
        predicted: intervals the model gave, seconds.
        truth: true intervals, seconds; None where nobody knows.
        strip: JPEG files, frames from the middles of equal parts of the video (`film_strip`).
        note: a few words above the question, e.g. the kind of event or the name of the file.
    """

    question: str
    text: str
    duration: float
    seconds: Float64[np.ndarray, "f"]
    probabilities: Float[np.ndarray, "e f"]
    predicted: Float[np.ndarray, "predicted 2"]
    truth: Float[np.ndarray, "true 2"] | None = None
    strip: tuple[bytes, ...] = ()
    note: str = ""

    @property
    def iou(self) -> float | None:
        """Overlap of all predicted with all true time; None without a truth."""
        return None if self.truth is None else spans.union_iou(self.predicted, self.truth)


def film_strip(
    pixels: UInt8[np.ndarray, "f y x 3"],
    seconds: Float64[np.ndarray, "f"],
    *,
    duration: float,
    count: int = 12,
    height: int = 80,
) -> tuple[bytes, ...]:
    """JPEG thumbnails of the frames shown at the middles of `count` equal parts of the video."""
    middles = (np.arange(count) + 0.5) * duration / count
    index = np.clip(np.searchsorted(seconds, middles, side="right") - 1, 0, len(pixels) - 1)
    height = min(height, pixels.shape[1])
    width = max(1, round(pixels.shape[2] * height / pixels.shape[1]))
    files = []
    for i in index:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[i]), format="rgb24")
        small = frame.reformat(width=width, height=height, interpolation="AREA")
        small = np.ascontiguousarray(small.to_ndarray(format="rgb24"))
        files.append(simplejpeg.encode_jpeg(small, quality=78, colorsubsampling="420"))
    return tuple(files)


def write_timeline(path: str | os.PathLike[str], answer: Answer) -> None:
    """Write one answer as a page of its own; raises InputError when `path` cannot be written."""
    body = f"""<p class="eyebrow">{escape(answer.note or "tgvlm ask")}</p>
<h1>{escape(answer.question)}</h1>
{timeline(dataclasses.replace(answer, question="", note=""))}"""
    write_page(path, page(answer.question, body))


def timeline(answer: Answer, *, label: str = "") -> str:
    """One answer as an HTML card; `label` goes before the IoU ("median", "worst of 120")."""
    score = ""
    if answer.iou is not None:
        lead = f"<small>{escape(label)}</small>" if label else ""
        score = f'<span class="score">{lead}IoU {answer.iou:.2f}</span>'
    head = f"<header><span>{escape(answer.note)}</span>{score}</header>"
    question = f"<h3>{escape(answer.question)}</h3>" if answer.question else ""
    truth = "" if answer.truth is None else _bars(answer, answer.truth, kind="true", name="truth")
    return f"""<article class="answer">
{head if answer.note or score else ""}
{question}
<p class="said">{_marked(answer.text)}</p>
{_film(answer)}
{truth}
{_bars(answer, answer.predicted, kind="model", name="model")}
{_plots(answer)}
{_axis(answer.duration)}
</article>"""


def _marked(text: str) -> str:
    parts, position = [], 0
    for span in timecode.find_spans(text):
        parts.append(escape(text[position : span.first]))
        parts.append(f"<mark>{escape(text[span.first : span.last])}</mark>")
        position = span.last
    return "".join(parts) + escape(text[position:])


def _film(answer: Answer) -> str:
    if not answer.strip:
        return ""
    images = "".join(
        f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file).decode()}">'
        for file in answer.strip
    )
    return f'<div class="film">{images}</div>'


def _clock(second: float, duration: float) -> str:
    if duration < 100:
        return f"{second:.1f}"
    return timecode.format_clock(second, hours=duration >= 3600)


def _bars(answer: Answer, rows: Float[np.ndarray, "spans 2"], *, kind: str, name: str) -> str:
    """Bars of one kind with their times beside them, or above all where there is no room."""
    edges = np.clip(rows / answer.duration, 0, 1) * 100 + 0.0  # no "-0.00"
    unit = " s" if answer.duration < 100 else ""
    times = [
        "–".join(_clock(second, answer.duration) for second in row) + unit for row in rows.tolist()
    ]
    bars = "".join(
        f'<div class="bar" title="{name} {time}" '
        f'style="left:{left:.2f}%;width:{right - left:.2f}%"></div>'
        for (left, right), time in zip(edges.tolist(), times, strict=True)
    )
    if not times:
        tags, told = f'<span class="tag">{name}: no interval</span>', ""
    elif len(times) == 1:
        tags, told = _tag(edges[0].tolist(), f"{name} {times[0]}"), ""
    else:
        tags, told = f'<span class="tag above">{name} {", ".join(times)}</span>', " told"
    return f'<div class="row {kind}{told}">{bars}{tags}</div>'


def _tag(edges: Sequence[float], text: str) -> str:
    left, right = edges
    need = len(text) * _LETTER
    if 100 - right >= need:
        return f'<span class="tag after" style="left:{right:.2f}%">{text}</span>'
    if left >= need:
        return f'<span class="tag before" style="right:{100 - left:.2f}%">{text}</span>'
    return f'<span class="tag inside" style="left:{left:.2f}%">{text}</span>'


def _plots(answer: Answer) -> str:
    """One plot for each evidence; with as many intervals as evidences each is shaded in its own."""
    rows = answer.probabilities
    own = len(rows) == len(answer.predicted)
    plots = []
    for i, row in enumerate(rows):
        shaded = answer.predicted[i : i + 1] if own else answer.predicted
        name = "probability of each frame" if len(rows) == 1 else f"probability, event {i + 1}"
        plots.append(
            f'<div class="plot"><span>{name}</span>'
            f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
            f'aria-label="{name}">{_steps(answer, row, shaded)}</svg></div>'
        )
    return "".join(plots)


def _steps(answer: Answer, row: np.ndarray, shaded: np.ndarray) -> str:
    """Each frame holds its probability until the next one is shown."""
    bounds = np.append(answer.seconds, answer.duration) / answer.duration * 1000
    heights = 100 - 100 * np.clip(np.nan_to_num(row), 0, 1)
    steps = "".join(
        f"V{height:.1f}H{end:.1f}" for height, end in zip(heights, bounds[1:], strict=True)
    )
    curve = f"M{bounds[0]:.1f} 100{steps}".replace(".0", "")
    within = "".join(
        f'<rect class="within" x="{left:.1f}" y="0" width="{right - left:.1f}" height="100"/>'
        for left, right in (np.clip(shaded / answer.duration, 0, 1) * 1000).tolist()
    )
    return f'{within}<path class="area" d="{curve}V100Z"/><path class="curve" d="{curve}"/>'


def _axis(duration: float) -> str:
    if duration < 100:
        marks = [(mark, f"{mark:g} s") for mark in ticks(0, duration, 6)]
    else:
        step = next(
            (s for s in (30, 60, 120, 300, 600, 900, 1800, 3600) if duration / s <= 7), 7200
        )
        instants = np.arange(0, duration + 1e-6, step).tolist()
        marks = [(mark, timecode.format_clock(mark, hours=duration >= 3600)) for mark in instants]
    labels = []
    for mark, text in marks:
        place = 100 * mark / duration
        side = ' class="first"' if mark == 0 else ' class="last"' if place > 96 else ""
        labels.append(f'<span{side} style="left:{place:.2f}%">{text}</span>')
    return f'<div class="axis">{"".join(labels)}</div>'
