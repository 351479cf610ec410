"""How far the decoding of a set of videos is: a bar on a terminal, else a line now and then."""

import sys
import threading
import time
from collections.abc import Mapping

from tqdm import tqdm

from tgvlm_jax.data import storage
from tgvlm_jax.data.storage import Place

_LINE_SECONDS = 10.0  # between lines of progress where there is no terminal


class Progress:
    """Bytes of video done, with the time left; to be entered, and told what is done."""

    def __init__(self, videos: Mapping[str, Place], *, show: bool) -> None:
        self._sizes = {key: _size(path) for key, path in videos.items()} if show else {}
        self._done = dict.fromkeys(self._sizes, 0.0)
        self._lock = threading.Lock()
        terminal = sys.stderr.isatty()
        self._lines = show and not terminal
        self._began = self._said = time.monotonic()
        self._bar = tqdm(
            total=sum(self._sizes.values()),
            desc="shard",
            unit="B",
            unit_scale=True,
            disable=not (show and terminal and videos),
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def advance(self, video_id: str, fraction: float) -> None:
        """Notes that this part of a video is decoded; called from several threads."""
        if video_id not in self._done:
            return  # nobody looks
        with self._lock:
            self._bar.update((fraction - self._done[video_id]) * self._sizes[video_id])
            self._done[video_id] = fraction
            now = time.monotonic()
            if not self._lines or now - self._said < _LINE_SECONDS:
                return
            self._said = now
            done = sum(part * self._sizes[key] for key, part in self._done.items())
            share = done / max(1, sum(self._sizes.values()))
            left = (now - self._began) * (1 / max(share, 1e-6) - 1)
            whole = sum(part == 1 for part in self._done.values())
            print(
                f"shard: {whole} of {len(self._done)} videos, {share:.0%}, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )


def _size(path: Place) -> int:
    try:
        return storage.size(path)
    except OSError:
        return 0
