"""A profile of some steps of a run, for TensorBoard and xprof: `--config.profile`.

    WORKDIR/profile/plugins/profile/DATE/HOST.xplane.pb     for xprof --logdir WORKDIR/profile
    WORKDIR/profile/plugins/profile/DATE/HOST.trace.json.gz for https://ui.perfetto.dev

Every step of the loop is a `train` with its number, inside which stand the phases of
`train/phases.py`; below them is what the devices do. Python's own calls are left out: recording
them would slow the host down and hide everything else.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from tgvlm_jax.types import InputError

FOLDER = "profile"
_WARM_UP, _STEPS = 5, 5
_RANGE = re.compile(r"(\d+):(\d+)")


def steps(setting: bool | int | str, *, first: int, total: int) -> range:
    """The steps to trace of a run that takes steps `first` + 1 to `total`.

    Args:
        setting: False for none, True for five, or how many; or "10:15" for the steps 10 to 14 (as
            Python slices). Without a range they are those after the first five, which compile,
            or the last ones of a shorter run.

    Raises:
        InputError: it is none of these, or the range is empty or begins after the last step.
    """
    if isinstance(setting, str):
        found = _RANGE.fullmatch(setting)
        start, stop = map(int, found.groups()) if found else (0, 0)
        if not 1 <= start < stop or start > total:
            raise InputError(
                f"profile={setting!r}: give true, a number of steps, or START:STOP such as 10:15 "
                f"with a START from 1 to train.steps={total}"
            )
        return range(start, min(stop, total + 1))
    count = _STEPS if setting is True else int(setting)
    if count < 0:
        raise InputError(f"profile={setting}: give true, a number of steps, or START:STOP")
    start = max(first + 1, min(first + _WARM_UP + 1, total - count + 1))
    return range(start, min(start + count, total + 1))


class Profiler:
    """Traces some of the steps of a loop."""

    def __init__(self, folder: Path, traced: range, wait: Callable[[], None]):
        """`wait` returns once the devices have done all that they were given."""
        self.folder, self.traced, self.wait = folder, traced, wait
        self._running = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """One step of the loop; the traced ones begin and end with idle devices."""
        if self.traced and number == self.traced.start and not self._running:
            self._start()
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        if self.traced and number == self.traced.stop - 1:
            self.close()

    def _start(self) -> None:
        self.wait()
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        jax.profiler.start_trace(self.folder, profiler_options=options)
        self._running = True

    def close(self) -> None:
        """Writes what was traced so far."""
        if not self._running:
            return
        self._running = False
        self.wait()
        jax.profiler.stop_trace()
        if jax.process_index() == 0:
            print(f"profile: {self.folder} (xprof --logdir {self.folder})", flush=True)
