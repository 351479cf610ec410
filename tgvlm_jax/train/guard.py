"""What a run does about an update that is no number, or out of all proportion.

The devices leave such an update out, whatever is decided (`train/step.py`): so no host ever waits,
nothing is compiled again, and no checkpoint holds it. A spike is a gradient norm, or a loss where
the objective is a likelihood, of more than `train.spike_factor` times the median of the last
updates that counted; these are part of the state. What is to be done (`train.on_nan`,
`train.on_spike`) the host decides from the metrics, at most two steps later.

skip      goes on
rewind    takes the parameters of the checkpoint before, and goes on with the data after: what the
          run learned on the way to the bad update is forgotten (PaLM, arXiv:2204.02311, 5.1)
stop      raises InputError
"""

import dataclasses
import math
from typing import Annotated, Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tgvlm_jax import mesh
from tgvlm_jax.schema import TrainConfig
from tgvlm_jax.types import InputError, pytree

KEPT = "guard"  # in a checkpoint's JSON


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """The last updates that counted, in a ring: gradient norms, losses, and how many there were."""

    norms: Annotated[Any, "float32 w"]
    losses: Annotated[Any, "float32 w"]
    count: Annotated[Any, "int32"]


def empty(config: TrainConfig) -> Window:
    """Before the first update; traceable."""
    zeros = jnp.zeros(config.spike_window, jnp.float32)
    return Window(
        norms=mesh.shard(zeros, None),
        losses=mesh.shard(zeros, None),
        count=mesh.shard(jnp.zeros((), jnp.int32)),
    )


def ratio(
    window: Window, norm: Float[Array, ""], *, loss: Float[Array, ""] | None
) -> Float[Array, ""]:
    """How many times the median an update is; 0 as long as the window is not full.

    `loss` is None where it is no measure, as that of policy gradients.
    """
    found = norm / _median(window.norms)
    if loss is not None:
        found = jnp.maximum(found, loss / _median(window.losses))
    return jnp.where(window.count >= window.norms.size, found, 0.0)


def _median(values: Float[Array, "w"]) -> Float[Array, ""]:
    return jnp.sort(values)[values.size // 2]


def seen(
    window: Window,
    norm: Float[Array, ""],
    *,
    loss: Float[Array, ""],
    counts: Bool[Array, ""],
) -> Window:
    """The window with one more update in it, if it `counts` and has moved anything."""
    counts = counts & (norm > 0)
    size = window.norms.size
    place = (jnp.arange(size, dtype=jnp.int32) == window.count % size) & counts
    return Window(
        norms=jnp.where(place, norm, window.norms),
        losses=jnp.where(place, loss, window.losses),
        count=window.count + counts.astype(jnp.int32),
    )


class Guard:
    """Decides, step after step, from what the devices report."""

    def __init__(self, config: TrainConfig, *, updates: int = 1):
        """`updates` are those of one step of the loop."""
        self.config, self.updates = config, updates
        self.skipped_in_a_row = self.rewinds = 0

    def get_state(self) -> dict[str, int]:
        """What to checkpoint; JSON."""
        return {"skipped_in_a_row": self.skipped_in_a_row, "rewinds": self.rewinds}

    def set_state(self, saved: dict[str, int]) -> None:
        """Goes on from there."""
        self.skipped_in_a_row = saved["skipped_in_a_row"]
        self.rewinds = saved["rewinds"]

    def judge(self, record: dict[str, float]) -> bool:
        """Whether to rewind because of a step; its metrics, one step after another.

        Raises:
            InputError: the run is to stop.
        """
        skipped = record["skipped_updates"]
        if skipped < self.updates:
            self.skipped_in_a_row = 0
        if not skipped:
            return False
        config = self.config
        spike = skipped == record["spikes"]
        name, policy = ("on_spike", config.on_spike) if spike else ("on_nan", config.on_nan)
        if policy == "stop":
            raise InputError(f"{told(record)}; {_advice(spike)}")
        if policy == "rewind":
            if self.rewinds == config.rewinds:
                gone = f"after train.rewinds={config.rewinds} rewinds"
                raise InputError(f"{told(record)}, {gone}; {_advice(spike)}")
            self.rewinds, self.skipped_in_a_row = self.rewinds + 1, 0
            return True
        self.skipped_in_a_row += skipped == self.updates
        if self.skipped_in_a_row == config.skips:
            raise InputError(
                f"{told(record)}, and by train.{name}='skip' none of the last {config.skips} steps "
                f"changed anything; {_advice(spike)}"
            )
        return False


def told(record: dict[str, float]) -> str:
    """What was wrong with a step."""
    text = f"step {record['step']}: loss {record['loss']:.6g}"
    text += f", gradient norm {record['grad_norm']:.6g}"
    if math.isfinite(record["spike_ratio"]) and record["spikes"]:
        text += f", {record['spike_ratio']:.3g} times the median of the updates before"
    return text


def _advice(spike: bool) -> str:
    if spike:
        return (
            "set train.spike_factor higher, or train.on_spike to something else, and go on; or "
            "lower optim.lr and give another --workdir"
        )
    return (
        "the same run would get there again: lower optim.lr and give another --workdir, or set "
        "train.on_nan to 'skip' or 'rewind' and go on"
    )
