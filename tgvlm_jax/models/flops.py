"""Floating-point operations of a training step, counted from the shapes of its matrices."""

import math
import re
from collections.abc import Collection

from tgvlm_jax.models import parameters
from tgvlm_jax.schema import ModelConfig, QwenVisionConfig, TimesformerConfig, TinyVitConfig
from tgvlm_jax.types import Batch, Frames, PatchRows, PreferenceBatch, ViewFeatures, Views


def per_step(
    config: ModelConfig, batch: Batch | PreferenceBatch, *, trained: Collection[str]
) -> float:
    """FLOPs of forward and backward: matrix products and attention scores.

    Padding is counted: the device works on it. The output head runs on the response only. A
    trained matrix costs three times its forward pass, a frozen one twice, where a gradient passes
    through it, and once in a tower in which nothing is trained.

    Args:
        config: the model. batch: its shapes.
        trained: names of the parameters that have a gradient.
    """
    b, p = batch.prompt.tokens.shape
    answers = [batch.response]
    if isinstance(batch, PreferenceBatch):
        answers.append(batch.rejected)
    lengths = [one.tokens.shape[1] for one in answers]
    t = sum(lengths)
    learns = parameters.reach_tower(trained)
    through = {"tower": 2 if learns else 1, "projector": 2, "decoder": 2, "evidence": 2}
    total = 0.0
    uses = {"decoder.blocks": float(b * (p + t)), **_visual(config, batch)}
    for name, size in _sizes(config).items():
        part = name.split(".")[0]
        count = next((n for prefix, n in uses.items() if name.startswith(prefix)), 0.0)
        total += 2 * size * count * (through[part] + (name in trained))
    decoder = config.decoder
    head = "decoder.embedding" if decoder.tie_embeddings else "decoder.untied_head"
    factor = 2 + (f"{head}.table" in trained)
    total += factor * 2 * b * t * decoder.vocab_size * decoder.width
    heads = decoder.heads * decoder.head_size
    seen = p * p + sum(length * (p + length) for length in lengths)
    total += 3 * 4 * decoder.layers * b * heads * seen
    return total + (3 if learns else 1) * _tower_scores(config, batch)


def _visual(config: ModelConfig, batch: Batch | PreferenceBatch) -> dict[str, float]:
    """How often the matrices are used whose names begin so, the more special first."""
    visual, tower = batch.prompt.visual, config.tower
    if isinstance(visual, Frames) and isinstance(tower, TinyVitConfig):
        frames = math.prod(visual.pixels.shape[:2])
        patches = frames * (tower.height // tower.patch) * (tower.width_px // tower.patch)
        cells = patches * (tower.patch // tower.cell) ** 2
        # Evidence heads: frames, and a few slots beside them.
        some = {"tower.projector": frames, "tower.cells": cells, "evidence": frames}
        return {**some, "tower.": patches}
    if isinstance(visual, PatchRows) and isinstance(tower, QwenVisionConfig):
        patches = math.prod(visual.patches.shape[:3])
        merged = patches / tower.merge**2
        return {"tower.merger": merged, "tower.deepstack": merged, "tower.": patches}
    if isinstance(visual, Views | ViewFeatures) and isinstance(tower, TimesformerConfig):
        takes, views = visual.mask.shape
        among = {f"projector.{name}": float(takes * views) for name in ("q", "k", "v", "o")}
        seen = takes * views * tower.patches * tower.frames if isinstance(visual, Views) else 0
        return {**among, "projector.": float(takes), "tower.": float(seen)}
    return {}


def _tower_scores(config: ModelConfig, batch: Batch | PreferenceBatch) -> float:
    """Attention scores of a tower in which a patch sees many; among a few they do not count."""
    visual, tower = batch.prompt.visual, config.tower
    if isinstance(visual, Views) and isinstance(tower, TimesformerConfig):
        p, f = tower.patches, tower.frames
        return 4.0 * tower.layers * visual.mask.size * (p * f * f + f * p * p) * tower.width
    if not isinstance(visual, PatchRows) or not isinstance(tower, QwenVisionConfig):
        return 0.0
    rows, slots = math.prod(visual.patches.shape[:2]), visual.patches.shape[2]
    return 4.0 * tower.layers * rows * slots**2 * tower.width


def _sizes(config: ModelConfig) -> dict[str, int]:
    plan = parameters.blueprint(config)
    low_rank = re.compile(r"\.lora_[ab]$")
    return {
        name: math.prod(shape)
        for name, shape in plan.shapes.items()
        if name in plan.matrices or low_rank.search(name)
    }
