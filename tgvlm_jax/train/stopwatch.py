"""Where the time of a step goes, measured without making the host wait for the devices.

A step lasts from the moment at which the devices had finished the update before it to the moment at
which they finish its own. While an update runs, time is the devices' ("step"); while none does, it
belongs to whatever phase the host is in. So the parts add up to the whole, and reading input in the
shadow of an update costs nothing. A thread of its own waits for the ends of updates; the loop asks
for them when it fetches the losses, a step late.
"""

import collections
import concurrent.futures
import dataclasses
import queue
import threading
import time

import jax

from tgvlm_jax.train import chips
from tgvlm_jax.train.phases import Clock

_WINDOW = 50  # steps that figures are means of
_PATIENCE = 30.0  # seconds that devices have for what they were given
_ROLLED = ("rollout", "reward")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lap:
    """A step under way.

    Attributes:
        handed: when its update was handed to the devices. ended: when they were done with it.
        frames, flops: what it had to do, all hosts together; `flops` is None where unknown.
        compiled: whether something had to be compiled for it.
    """

    handed: float
    ended: concurrent.futures.Future[float]
    frames: int
    flops: float | None
    compiled: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Spent:
    """What a step took, and for what work."""

    whole: float
    parts: dict[str, float]
    frames: int
    flops: float | None
    compiled: bool


class Stopwatch:
    """Times steps by their ends on the devices and by the phases of a clock."""

    def __init__(self, clock: Clock):
        self.clock = clock
        self._ended = time.monotonic()
        self._spent: collections.deque[_Spent] = collections.deque(maxlen=_WINDOW)
        self._results: queue.SimpleQueue = queue.SimpleQueue()
        # A daemon: a device that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._wait, name="stopwatch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the thread once it is through with what it has; hanging devices are left to it."""
        self._results.put(None)
        self._thread.join(_PATIENCE)

    def _wait(self) -> None:
        for result, ended in iter(self._results.get, None):
            try:
                jax.block_until_ready(result)
            except Exception as error:  # of the program on the device; the loop meets it, too
                ended.set_exception(error)
            else:
                ended.set_result(time.monotonic())

    def lap(self, result: jax.Array, *, frames: int, flops: float | None, compiled: bool) -> Lap:
        """A step whose update has just been handed over; `result` is something it computes."""
        ended: concurrent.futures.Future[float] = concurrent.futures.Future()
        self._results.put((result, ended))
        handed = self.clock.began("step")
        return Lap(handed=handed, ended=ended, frames=frames, flops=flops, compiled=compiled)

    def read(self, lap: Lap) -> dict[str, float]:
        """Figures up to the end of a step, means over recent ones; to be asked for in their order.

        `step_time` is in seconds, the sum of `seconds_step`, in which the devices ran an update,
        and of what else they waited for: `seconds_input`, `seconds_rollout` and `seconds_reward`
        where there are any, `seconds_checkpoint`, `seconds_other`. `input_wait` is that share.
        `flops_per_second` counts the matrix products that the model needs, no recomputation, and
        `mfu` is its share of the peak of all devices (PaLM, arXiv:2204.02311, appendix B), where
        their maker publishes one. Steps that compiled count only where there are no others.
        """
        ended = lap.ended.result()
        whole = ended - self._ended
        busy = min(whole, ended - lap.handed)
        parts = {str(n): x for n, x in self.clock.between(self._ended, ended - busy).items()}
        parts["other"] = max(0.0, whole - busy - sum(parts.values()))
        parts["step"] += busy
        self._ended = ended
        work = {"frames": lap.frames, "flops": lap.flops, "compiled": lap.compiled}
        self._spent.append(_Spent(whole=whole, parts=parts, **work))
        return self._means()

    def _means(self) -> dict[str, float]:
        spent = [one for one in self._spent if not one.compiled] or list(self._spent)
        total = sum(one.whole for one in spent)
        parts = {name: sum(one.parts[name] for one in spent) for name in spent[0].parts}
        names = [name for name in parts if parts[name] or name not in _ROLLED]
        means = {f"seconds_{name}": parts[name] / len(spent) for name in names}
        found = {"step_time": total / len(spent), **means, "input_wait": parts["input"] / total}
        found["frames_per_second"] = sum(one.frames for one in spent) / total
        work = sum(one.flops or 0.0 for one in spent)
        if not work:
            return found
        found["flops_per_second"] = work / total
        peak = peak_flops()
        return found | ({"mfu": work / total / peak} if peak else {})


def peak_flops() -> float | None:
    """Peak of all devices together, or None where it is not known."""
    chip = chips.of(jax.devices()[0])
    return chip.flops * jax.device_count() if chip else None
