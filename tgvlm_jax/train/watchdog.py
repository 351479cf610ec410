"""Notices a run that does not get on, and says which host hangs in which phase.

A thread looks every other second at what the loop last said it does, so the loop never waits for
it. Hosts of one run put theirs into the store that all of them see: one that is killed falls
silent, one that fails says so, one that hangs is the furthest behind. Whoever finds that out puts
the verdict there too, and every host ends with it, so that a launcher can start all of them again.
"""

import contextlib
import dataclasses
import faulthandler
import json
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax

from tgvlm_jax.train import distributed
from tgvlm_jax.train.distributed import FAILED
from tgvlm_jax.train.phases import Clock
from tgvlm_jax.train.preempt import Preempted

START, DONE = "start", "done"  # beside the phases of the clock
BEAT_SECONDS = 2.0
SILENT_SECONDS = 40.0
"""Without a sign of life for so long a host counts as gone."""
_PLACE = "tgvlm/watch"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doing:
    """What a host does.

    Attributes:
        step: the one that it is at. phase: of the clock, or "start", "done", "between".
        turns: of the clock, which say who is behind whom. name: of the machine.
        beat: grows as long as the host lives.
    """

    step: int
    phase: str
    turns: int = 0
    name: str = "unknown"
    beat: int = 0

    def told(self, host: int) -> str:
        """For people."""
        return f"host {host} ({self.name}), in phase '{self.phase}' of step {self.step}"


class Watchdog:
    """Ends a run in which no step begins for too long, or of which a host is gone.

    The loop begins a step when the devices are done with an earlier one, so that no step begins
    where none is finished.
    """

    def __init__(self, clock: Clock, *, seconds: float):
        """`clock` knows the phase; `seconds` without progress are too many, 0 waits for ever."""
        self.clock, self.seconds = clock, seconds
        self._step, self._done = 0, False
        self._progress = time.monotonic()
        self._closed = threading.Event()
        self._together = distributed.joined()
        self._heard: dict[int, tuple[Doing, float]] = {}
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._together or self.seconds:
            self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._done = error is None or isinstance(error, Preempted)
        if error is not None:
            self.failed(error)
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(BEAT_SECONDS)

    def begin(self, step: int) -> None:
        """The loop is at another step."""
        self._step, self._progress = step, time.monotonic()

    def failed(self, error: BaseException) -> None:
        """Tells the others why this host leaves, and leaves, before anything waits for them.

        An error of the devices may only say that another host is gone; who it was the thread finds
        out, and ends this process.
        """
        if not self._together or isinstance(error, Preempted):
            return
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(SILENT_SECONDS + 5 * BEAT_SECONDS)
        self._closed.set()
        message = distributed.explain(error)
        told = f"{self.doing().told(distributed.host())}: {message}"
        self._publish(distributed.status(error), told)
        self._linger()
        distributed.leave(distributed.status(error), message)

    def doing(self, *, beat: int = 0) -> Doing:
        """What this host does now."""
        phase = self.clock.phase or ("between" if self._step else START)
        return Doing(
            step=self._step,
            phase=DONE if self._done else phase,
            turns=self.clock.turns,
            name=socket.gethostname(),
            beat=beat,
        )

    def _watch(self) -> None:
        began, count = time.monotonic(), 0
        while not self._closed.wait(BEAT_SECONDS if count else 0):
            count += 1
            if self._together:
                self._exchange(count, began)
            waited = time.monotonic() - self._progress
            if self.seconds and waited > self.seconds:
                self._stuck(waited)
        if self._together and self._done:
            self._say(count + 1)  # that it is silent from now on is all right

    def _say(self, count: int) -> None:
        said = json.dumps(dataclasses.asdict(self.doing(beat=count)))
        where = f"{_PLACE}/host/{distributed.host():06}"
        distributed.client().key_value_set(where, said, allow_overwrite=True)

    def _exchange(self, count: int, began: float) -> None:
        """Tells the others, hears them, and ends where somebody has fallen silent or given up."""
        try:
            self._say(count)
            found = dict(distributed.client().key_value_dir_get(f"{_PLACE}/"))
        except jax.errors.JaxRuntimeError:  # host 0 is gone: JAX ends this process (distributed)
            return
        verdict = found.pop(f"{_PLACE}/verdict", None)
        if verdict is not None and not self._closed.is_set():
            self._obey(verdict)
        now = time.monotonic()
        for path, text in found.items():
            number, doing = int(path.rsplit("/", 1)[1]), Doing(**json.loads(text))
            if number not in self._heard or self._heard[number][0] != doing:
                self._heard[number] = doing, now
        for number in range(distributed.count()):
            doing, last = self._heard.get(number, (Doing(step=0, phase=START), began))
            silent = now - last
            if silent > SILENT_SECONDS and doing.phase != DONE and number != distributed.host():
                self._give_up(FAILED, gone(number, doing, silent))

    def _stuck(self, waited: float) -> None:
        """No step has been finished for too long."""
        known = {number: doing for number, (doing, _) in self._heard.items()}
        known[distributed.host()] = self.doing()
        faulthandler.dump_traceback(file=sys.stderr)
        self._give_up(FAILED, hanging(known, waited))

    def _give_up(self, status: int, message: str) -> None:
        if self._together:
            self._publish(status, message)
            self._linger()
        distributed.leave(status, message)

    def _publish(self, status: int, message: str) -> None:
        """The first verdict holds."""
        verdict = json.dumps({"status": status, "message": message})
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            distributed.client().key_value_set(f"{_PLACE}/verdict", verdict)

    def _obey(self, verdict: str) -> None:
        said = json.loads(verdict)
        self._linger()
        distributed.leave(said["status"], said["message"])

    def _linger(self) -> None:
        """Host 0 keeps the store: it leaves when the others have read the verdict."""
        if distributed.host() == 0:
            time.sleep(3 * BEAT_SECONDS)


def gone(host: int, doing: Doing, silent: float) -> str:
    """The message about a host that was killed, or whose machine was."""
    return f"{doing.told(host)}, is gone: no sign of life for {silent:.0f} s"


def hanging(hosts: Mapping[int, Doing], waited: float) -> str:
    """The message about a run that does not get on: who is behind the others, and where."""
    least = min(doing.turns for doing in hosts.values())
    late = {number: doing for number, doing in hosts.items() if doing.turns == least}
    told = "; ".join(doing.told(number) for number, doing in sorted(late.items()))
    start = f"no step was finished for {waited:.0f} s (train.watchdog_seconds)"
    if len(hosts) == 1:
        (doing,) = hosts.values()
        return f"{start}: it hangs in phase '{doing.phase}' of step {doing.step}"
    if len(late) == len(hosts):
        (doing, *_) = late.values()
        return f"{start}: all {len(hosts)} hosts hang in phase '{doing.phase}' of step {doing.step}"
    waiting = sorted({f"'{one.phase}'" for n, one in hosts.items() if n not in late})
    return f"{start}: {told} hangs; the others wait for it in phase {' and '.join(waiting)}"
