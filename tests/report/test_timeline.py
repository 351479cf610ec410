"""The time line of one answer: complete, well formed, in the right places, escaped."""

import base64
import dataclasses
import re

import hypothesis
import numpy as np
import pytest
import simplejpeg
from hypothesis import strategies as st

from tgvlm_jax.report import timeline

HOSTILE = '<script>alert("1")</script> & <img src="https://example.org/x.png" onerror=\'x\'>'


def test_a_written_page_is_whole_and_stands_alone(answer, tmp_path, parse):
    path = tmp_path / "timeline.html"
    timeline.write_timeline(path, answer)
    page = parse(path.read_text(encoding="utf-8"))
    assert "When does the bike pass?" in page.text
    assert "It passes from 2.0 to 4.0 seconds." in page.text
    assert "truth 2.0–6.0 s" in page.text
    assert "model 2.0–4.0 s" in page.text
    assert "IoU 0.50" in page.text
    assert "12 s" in page.text
    assert len(page.images) == 6


def test_interval_in_the_answer_is_marked(answer):
    assert "<mark>2.0 to 4.0 seconds</mark>" in timeline.timeline(answer)


def test_nothing_a_person_or_a_model_writes_becomes_markup(answer, tmp_path, parse):
    hostile = dataclasses.replace(
        answer, question=HOSTILE, text=HOSTILE + " 1.0-2.0 " + HOSTILE, note=HOSTILE
    )
    path = tmp_path / "timeline.html"
    timeline.write_timeline(path, hostile)
    page = parse(path.read_text(encoding="utf-8"))
    assert page.text.count("<script>") >= 3
    parse(timeline.timeline(hostile, label=HOSTILE))


def bars_of(card, kind):
    row = re.search(rf'<div class="row {kind}[^>]*>(.*?)</div>\n', card, re.DOTALL)
    assert row is not None
    return [
        tuple(float(number) for number in pair)
        for pair in re.findall(r"left:([\d.]+)%;width:([\d.]+)%", row[1])
    ]


def test_bars_lie_at_their_share_of_the_duration(answer):
    card = timeline.timeline(answer)
    assert bars_of(card, "model") == [pytest.approx((16.67, 16.67), abs=0.01)]
    assert bars_of(card, "true") == [pytest.approx((16.67, 33.33), abs=0.01)]


def test_a_frame_holds_its_probability_until_the_next(answer):
    two = dataclasses.replace(
        answer,
        seconds=np.array([0.0, 3.0]),
        probabilities=np.array([[0.25, 1.0]], np.float32),
    )
    assert 'class="curve" d="M0 100V75H250V0H1000"' in timeline.timeline(two)


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("spans", [0, 1, 3])
@pytest.mark.parametrize("evidences", [0, 1, 3])
def test_any_number_of_spans_and_evidences(answer, parse, truth, spans, evidences):
    starts = np.arange(spans, dtype=np.float64)
    changed = dataclasses.replace(
        answer,
        predicted=np.stack([starts, starts + 0.5], axis=-1),
        probabilities=np.full((evidences, 48), 0.5, np.float32),
        truth=answer.truth if truth else None,
        strip=(),
    )
    card = timeline.timeline(changed)
    page = parse(card)
    assert len(bars_of(card, "model")) == spans
    assert ("IoU" in page.text) == truth
    assert card.count("<svg") == evidences
    assert ("no interval" in page.text) == (spans == 0)


@hypothesis.given(
    duration=st.floats(0.04, 20_000),
    ends=st.tuples(st.floats(-0.2, 1.2), st.floats(-0.2, 1.2)).map(sorted),
)
def test_nothing_leaves_the_card_whatever_the_duration(parse, duration, ends):
    answer = timeline.Answer(
        question="?",
        text="",
        duration=duration,
        seconds=np.array([0.0, duration / 2]),
        probabilities=np.array([[0.5, np.nan]], np.float32),
        predicted=np.array([ends]) * duration,
    )
    card = timeline.timeline(answer)
    page = parse(card)
    [(left, width)] = bars_of(card, "model")
    assert 0 <= left <= left + width <= 100.02
    axis = [attrs for tag, attrs in page.tags if tag == "span" and "style" in attrs]
    assert 2 <= len(axis) <= 12
    assert "nan" not in card.replace("nano", "")


@pytest.mark.parametrize(
    ("duration", "mark"), [(12.0, "10 s"), (596.4, "08:00"), (7300.0, "02:00:00")]
)
def test_the_axis_speaks_in_fitting_units(answer, parse, duration, mark):
    assert mark in parse(timeline.timeline(dataclasses.replace(answer, duration=duration))).text


def test_film_strip_takes_the_frame_on_screen_in_the_middle_of_each_part():
    shades = np.array([10, 90, 170, 250], np.uint8)
    pixels = np.broadcast_to(shades[:, None, None, None], (4, 90, 160, 3))
    # Frame 1 is on screen for most of the clip.
    seconds = np.array([0.0, 1.0, 9.0, 9.5])
    strip = timeline.film_strip(pixels, seconds, duration=10.0, count=5, height=45)
    decoded = [simplejpeg.decode_jpeg(file) for file in strip]
    assert {image.shape for image in decoded} == {(45, 80, 3)}
    means = [round(float(image.mean())) for image in decoded]
    np.testing.assert_allclose(means, [90, 90, 90, 90, 170], atol=3)


def test_film_strip_keeps_small_frames_as_they_are(strip, answer):
    pixels = np.zeros((2, 16, 21, 3), np.uint8)
    [file] = timeline.film_strip(pixels, np.array([0.0, 1.0]), duration=2.0, count=1)
    assert simplejpeg.decode_jpeg(file).shape == (16, 21, 3)
    assert base64.b64encode(strip[0]).decode() in timeline.timeline(answer)
