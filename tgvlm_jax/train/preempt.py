"""When a run is asked to stop: SIGTERM, and after which step all hosts do.

A spot machine gets SIGTERM some seconds before it is gone, and not every host of a run at the same
moment. A checkpoint takes all of them, so they must agree on its step.
"""

import collections
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_LATE = 2  # steps after which a vote is counted: as far as a host runs ahead of the devices


class Preempted(Exception):
    """SIGTERM came; the state is saved, and the same command continues it."""


class Sigterm:
    """Whether SIGTERM has come since the block was entered; it does nothing else there."""

    def __init__(self, mesh: Mesh | None):
        """`mesh` has all hosts of the run."""
        self.asked = False
        self._votes = Votes(mesh) if mesh is not None and jax.process_count() > 1 else None

    def __enter__(self):
        self._previous = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: Any):
        signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)

    def _ask(self, *_: Any) -> None:
        self.asked = True

    def stops(self) -> bool:
        """Whether the run stops after the step that was just begun; the same on every host.

        All hosts call it once a step. Where there is but one, it costs nothing.
        """
        return self.asked if self._votes is None else self._votes.cast(self.asked)


class Votes:
    """One bit of every host, reduced on the devices behind each step, and read two steps later.

    So no host waits for another, and none for its devices.
    """

    def __init__(self, mesh: Mesh):
        """The hosts are those whose devices the mesh has."""
        self.everyone = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self.any = jax.jit(jnp.max)
        self._pending: collections.deque[jax.Array] = collections.deque()

    def cast(self, vote: bool) -> bool:
        """Casts this host's vote; whether anyone's was yes two casts ago."""
        own = np.full(len(self.everyone.addressable_devices), vote, np.int32)
        self._pending.append(self.any(jax.make_array_from_process_local_data(self.everyone, own)))
        return len(self._pending) > _LATE and bool(np.asarray(self._pending.popleft()))
