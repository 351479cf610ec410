"""What a run is made of between two steps."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from tgvlm_jax import mesh
from tgvlm_jax.models import parameters
from tgvlm_jax.models.parameters import Params
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import guard, optim
from tgvlm_jax.types import pytree


@pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """Parameters, optimiser state, finished steps, the key that randomness is folded from, and the
    last updates, which a spike is told by (None: none is)."""

    step: Annotated[Any, "int32"]
    params: Annotated[Any, "dotted path -> array"]
    opt_state: Annotated[Any, "optax state"]
    key: Annotated[Any, "PRNG key"]
    window: Annotated[Any, "guard.Window | None"] = None


def create(
    experiment: Experiment, tx: optax.GradientTransformation, loaded: Params | None = None
) -> TrainState:
    """A fresh state, laid out on the mesh that is set; traceable, so `jax.eval_shape` works.

    Parameters in `loaded` take the place of initial ones, which under jit are then never made.
    """
    key = jax.random.key(experiment.seed)
    loaded = loaded or {}
    params = parameters.init(experiment.model, jax.random.fold_in(key, 0)) | loaded
    params = parameters.copied(params, loaded)
    opt_state = jax.tree.map(
        lambda x: x if x.ndim else mesh.shard(x), tx.init(optim.trainable(experiment.optim, params))
    )
    step = mesh.shard(jnp.zeros((), jnp.int32))
    window = guard.empty(experiment.train)
    return TrainState(step=step, params=params, opt_state=opt_state, key=key, window=window)
