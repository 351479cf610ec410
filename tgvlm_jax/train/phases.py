"""What the host of a run is busy with, phase by phase: for metrics, traces and whoever watches.

input       the next batch is read
rollout     answers are sampled (reinforcement learning)
reward      answers wait for their rewards (reinforcement learning)
step        an update is handed to the devices, or its end is waited for
checkpoint  the state is saved; of an asynchronous save, the part that holds the run up
"""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Literal, get_args

import jax.profiler

Phase = Literal["input", "rollout", "reward", "step", "checkpoint"]
PHASES: tuple[Phase, ...] = get_args(Phase)
_KEPT = 10_000  # stretches, should nobody collect them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
    """An uninterrupted time in one phase; seconds of `time.monotonic`."""

    phase: Phase
    start: float
    end: float

    def within(self, start: float, end: float) -> float:
        """How many seconds of it lie between two moments."""
        return max(0.0, min(self.end, end) - max(self.start, start))


class Clock:
    """Knows the phase at any moment, and keeps when each began and ended.

        with clock("rollout"):
            ...
            with clock("reward"):  # counts as "reward" and no longer as "rollout"
                ...

    Each is a TraceAnnotation of its name, too, and so stands in a profile. One thread enters
    phases; others may read `phase` and `since`.

    Attributes:
        phase: the innermost, None between phases. since: when it began, by `time.monotonic`.
        turns: how often it has changed; hosts of one run go through the same.
    """

    def __init__(self):
        self.phase: Phase | None = None
        self.since = time.monotonic()
        self.turns = 0
        self._ended: collections.deque[Stretch] = collections.deque(maxlen=_KEPT)
        self._began: dict[Phase, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: Phase) -> Iterator[None]:
        """Is in a phase while the block runs, then again in the one around it."""
        outer = self.phase
        self._turn(phase)
        self._began[phase] = self.since
        try:
            with jax.profiler.TraceAnnotation(phase):
                yield
        finally:
            self._turn(outer)

    def _turn(self, phase: Phase | None) -> None:
        now = time.monotonic()
        if self.phase is not None:
            self._ended.append(Stretch(phase=self.phase, start=self.since, end=now))
        self.phase, self.since, self.turns = phase, now, self.turns + 1

    def began(self, phase: Phase) -> float:
        """When a phase was last entered."""
        return self._began[phase]

    def between(self, start: float, end: float) -> dict[Phase, float]:
        """Seconds in each phase between two moments; what ended before the second is forgotten."""
        seconds = dict.fromkeys(PHASES, 0.0)
        for stretch in self._ended:
            seconds[stretch.phase] += stretch.within(start, end)
        if self.phase is not None:
            now = Stretch(phase=self.phase, start=self.since, end=end)
            seconds[self.phase] += now.within(start, end)
        while self._ended and self._ended[0].end <= end:
            self._ended.popleft()
        return seconds
