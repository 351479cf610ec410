"""Floating-point operations of a training step, counted from the shapes of its matrices."""

import math

from tgvlm_jax.models import parameters
from tgvlm_jax.schema import ModelConfig
from tgvlm_jax.types import Batch


def per_step(config: ModelConfig, batch: Batch) -> float:
    """FLOPs of forward and backward (3 x forward), matrix products and attention scores.

    Padding is counted: the device works on it. The output head runs on the response only.
    """
    b, p = batch.prompt.tokens.shape
    t = batch.response.tokens.shape[1]
    frames = b * batch.prompt.frames.shape[1]
    tower, decoder = config.tower, config.decoder
    patches = frames * (tower.height // tower.patch) * (tower.width_px // tower.patch)
    cells = patches * (tower.patch // tower.cell) ** 2
    uses = {"tower.projector": frames, "tower.cells": cells}
    total = 0.0
    for name, size in _sizes(config).items():
        if name.startswith("decoder.blocks"):
            count = b * (p + t)
        elif name.startswith("tower."):
            count = uses.get(name.removesuffix(".weight"), patches)
        else:
            count = frames  # evidence heads: frames, and a few slots beside them
        total += 2 * size * count
    total += 2 * b * t * decoder.vocab_size * decoder.width
    heads = decoder.heads * decoder.head_size
    total += 4 * decoder.layers * b * heads * (p * p + t * (p + t))
    return 3 * total


def _sizes(config: ModelConfig) -> dict[str, int]:
    plan = parameters.blueprint(config)
    return {name: math.prod(plan.shapes[name]) for name in plan.matrices}
