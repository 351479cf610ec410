"""Times in text: every style reads back, and what is no span is left alone."""

import hypothesis
import pytest
from hypothesis import strategies as st

from tgvlm_jax.grounding import timecode

TIMES = st.floats(0, 36_000, allow_nan=False)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("dash", "62.0-90.5"),
        ("seconds", "62.0 - 90.5 seconds"),
        ("words", "from 62 to 90.5"),
        ("clock", "00:01:02 - 00:01:30"),
        ("minutes", "01:02 - 01:30"),
        ("frames", "62 - 90 "),
        ("brackets", "[62.00, 90.50]"),
    ],
)
def test_each_style_is_written_as_documented(style, text):
    assert timecode.format_span((62.0, 90.5), style) == text


@hypothesis.given(times=st.tuples(TIMES, TIMES).map(sorted), style=st.sampled_from(timecode.STYLES))
def test_what_is_written_is_read_back_to_the_resolution(times, style):
    start, end = times
    [(read_start, read_end)] = timecode.parse_spans(timecode.format_span((start, end), style))
    half = timecode.RESOLUTION[style] / 2 + 1e-6
    assert abs(read_start - start) <= half
    assert abs(read_end - end) <= half


@hypothesis.given(
    spans=st.lists(st.tuples(TIMES, TIMES).map(sorted), max_size=4),
    style=st.sampled_from(timecode.STYLES),
    glue=st.sampled_from([" then ", ", ", "\n", ". And again "]),
)
def test_a_sentence_keeps_the_number_and_order_of_its_spans(spans, style, glue):
    text = "It happens " + glue.join(timecode.format_span(span, style) for span in spans) + "."
    read = timecode.parse_spans(text)
    assert len(read) == len(spans)
    for (start, _), (truth, _) in zip(read, spans, strict=True):
        assert start == pytest.approx(truth, abs=timecode.RESOLUTION[style])


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("12.3-45.6.", [(12.3, 45.6)]),
        ("From 3 seconds to 9 seconds", [(3, 9)]),
        ("between 3s and 9s", [(3, 9)]),
        ("3 \u2013 9", [(3, 9)]),
        ("it runs from 9.5 to 3", [(3, 9.5)]),
        ("1:02:03.5 until 1:02:04", [(3723.5, 3724)]),
        ("3 - 9 14 - 20 </evi> The events happen in 3 - 9 and 14 - 20 .", [(3, 9), (14, 20)] * 2),
        ("[12.30, 45.60] [1,2]", [(12.3, 45.6), (1, 2)]),
        ("(12.3-45.6)", [(12.3, 45.6)]),
        ("", []),
        ("at 12.5 seconds", []),
        ("on 2024-05-01", []),
        ("3-9-12", []),
        ("1:75 - 2:00", []),
        ("version 1.2.3 to 4.5.6", []),
        ("3, 9", []),
        ("mp4-5", []),
    ],
)
def test_free_text(text, spans):
    assert timecode.parse_spans(text) == spans


def test_places_point_at_the_words():
    text = "The door opens from 1:02 to 1:30, then 95-99.5 seconds."
    places = [text[span.first : span.last] for span in timecode.find_spans(text)]
    assert places == ["1:02 to 1:30", "95-99.5 seconds"]


@hypothesis.given(st.text())
def test_any_text_is_survived(text):
    for start, end in timecode.parse_spans(text):
        assert 0 <= start <= end


@pytest.mark.parametrize(
    ("seconds", "options", "text"),
    [
        (3723.4, {}, "01:02:03"),
        (59.6, {}, "00:01:00"),
        (3723.4, {"hours": False}, "62:03"),
        (59.996, {"hours": False, "decimals": 2}, "01:00.00"),
        (61.25, {"hours": False, "decimals": 1}, "01:01.2"),
        (-1.0, {}, "00:00:00"),
    ],
)
def test_clock(seconds, options, text):
    assert timecode.format_clock(seconds, **options) == text


def test_an_unknown_style_names_the_known_ones():
    with pytest.raises(Exception, match="sundial"):
        timecode.format_span((0, 1), "sundial")
