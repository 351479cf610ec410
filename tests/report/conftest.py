"""For the report tests: answers on real frames, and a strict reader of pages."""

import html.parser
import pathlib

import av
import numpy as np
import pytest

from tgvlm_jax.report import timeline

CLIP = pathlib.Path(__file__).resolve().parent.parent / "assets" / "bikes.mp4"

VOID = {"meta", "img", "br"}
LINKS = {"src", "href", "action", "data", "poster", "srcset"}


class Page(html.parser.HTMLParser):
    """A parsed page: its text, its tags in order, its inline images."""

    def __init__(self, document: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.images: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), f"attribute given twice in {tag}"
        assert tag not in {"script", "link", "iframe", "object"}
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name in LINKS:
                assert (value or "").startswith(("data:image/jpeg;base64,", "#")), value
                self.images.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)
        else:
            assert "url(" not in data
            assert "@import" not in data

    @property
    def text(self) -> str:
        """All visible text, white space collapsed."""
        return " ".join("".join(self.texts).split())


@pytest.fixture(scope="session")
def parse():
    """Reads a page strictly: balanced tags, and nothing that would ask the network."""
    return Page


@pytest.fixture(scope="session")
def strip():
    """Six thumbnails of the test clip."""
    with av.open(str(CLIP)) as container:
        frames = [
            frame.to_ndarray(format="rgb24")
            for frame, _ in zip(container.decode(video=0), range(24), strict=False)
        ]
    seconds = np.arange(24) / 12.0
    return timeline.film_strip(np.stack(frames), seconds, duration=2.0, count=6)


@pytest.fixture
def answer(strip):
    """An answer with one evidence, a truth and a film strip; IoU 0.5."""
    return timeline.Answer(
        question="When does the bike pass?",
        text="It passes from 2.0 to 4.0 seconds.",
        duration=12.0,
        seconds=np.arange(48) / 4.0,
        probabilities=np.linspace(0, 1, 48, dtype=np.float32)[None],
        predicted=np.array([[2.0, 4.0]]),
        truth=np.array([[2.0, 6.0]]),
        strip=strip,
        note="pass · clip 3",
    )
