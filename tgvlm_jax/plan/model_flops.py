"""FLOPs that a model needs for a step, as MFU counts them; see `models/flops.py`.

Of what a step computes again, of masked pairs beyond those that are counted there, of a reference
and of the optimiser nothing counts: what is done beside that is not for the model.
"""

from typing import Any

from tgvlm_jax.models import flops
from tgvlm_jax.models.parameters import blueprint
from tgvlm_jax.objectives.grpo import PolicyBatch
from tgvlm_jax.objectives.ppo import TurnBatch
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import optim
from tgvlm_jax.types import Batch, PreferenceBatch


def of_step(experiment: Experiment, batch: Any) -> float:
    """Of one training step on a batch of these shapes, all chips together."""
    config = experiment.model
    trained = set(optim.trainable(experiment.optim, dict.fromkeys(blueprint(config).shapes)))
    if isinstance(batch, Batch | PreferenceBatch):
        return flops.per_step(config, batch, trained=trained, pack=experiment.data.pack)
    if isinstance(batch, PolicyBatch):
        _, group, length = batch.response.tokens.shape
        lengths = [length] * group
        return flops.of_prompts(config, batch.prompt, lengths=lengths, trained=trained)
    assert isinstance(batch, TurnBatch)
    _, group, length = batch.text.tokens.shape
    return flops.of_prompts(
        config,
        batch.prompt,
        lengths=[length] * group,
        trained=trained,
        shown=batch.text.visual,
    )
