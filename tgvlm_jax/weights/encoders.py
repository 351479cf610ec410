"""A published encoder put before a published language model (ProfVLM 2)."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from tgvlm_jax.models import parameters
from tgvlm_jax.models.parameters import Params
from tgvlm_jax.models.projectors import projector
from tgvlm_jax.schema import ModelConfig, ProjectorConfig, TimesformerConfig
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import hf, timesformer


def model(language: ModelConfig, folder: Path) -> ModelConfig:
    """The language model behind the TimeSformer of a folder and ProfVLM's projector.

    Raises:
        InputError: the model sees already, or the folder is of another architecture.
    """
    if language.tower is not None:
        raise InputError(f"--encoder {folder}: the model has a tower already")
    tower = dataclasses.replace(timesformer.from_hf(hf.read_config(folder)), labels=0)
    between = ProjectorConfig(inputs=tower.width, width=language.decoder.width)
    return dataclasses.replace(language, tower=tower, projector=between)


def load(config: ModelConfig, folder: Path) -> Params:
    """The encoder's parameters as published, and fresh ones of the projector.

    Raises:
        InputError: a tensor is missing, damaged or of another shape.
    """
    assert isinstance(config.tower, TimesformerConfig)
    assert config.projector is not None
    like = jax.eval_shape(lambda: parameters.init(config, jax.random.key(0)))
    own = {name: leaf for name, leaf in like.items() if name.startswith("tower.")}
    tensors = timesformer.tensors(config.tower, ours="tower.")
    seen = hf.load(folder, tensors, like=own, ignore=lambda name: name.startswith("classifier."))
    made = projector(config.projector, rngs=nnx.Rngs(0), dtype=jnp.dtype(config.param_dtype))
    leaves = nnx.to_flat_state(nnx.state(made))
    fresh = {".".join(map(str, path)): leaf.get_value() for path, leaf in leaves}
    return seen | {f"projector.{name}": value for name, value in fresh.items()}
