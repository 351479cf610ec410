"""Floating-point operations of a training step, counted from the shapes of its matrices."""

import math
import re
from collections.abc import Collection, Sequence
from typing import Any

from tgvlm_jax.models import parameters
from tgvlm_jax.schema import (
    FrameEncoderConfig,
    ModelConfig,
    QwenVisionConfig,
    TimesformerConfig,
    TinyVitConfig,
)
from tgvlm_jax.types import Batch, Frames, PatchRows, PreferenceBatch, Prompt, ViewFeatures, Views


def per_step(
    config: ModelConfig,
    batch: Batch | PreferenceBatch,
    *,
    trained: Collection[str],
    pack: int = 1,
) -> float:
    """FLOPs of forward and backward, as `of_prompts` counts them.

    Args:
        config: the model. batch: its shapes.
        trained: names of the parameters that have a gradient.
        pack: samples a row.
    """
    answers = [batch.response]
    if isinstance(batch, PreferenceBatch):
        answers.append(batch.rejected)
    lengths = [one.tokens.shape[1] for one in answers]
    return of_prompts(config, batch.prompt, lengths=lengths, trained=trained, pack=pack)


def of_prompts(
    config: ModelConfig,
    prompt: Prompt,
    *,
    lengths: Sequence[int],
    trained: Collection[str],
    shown: Any = None,
    pack: int = 1,
) -> float:
    """FLOPs of forward and backward: matrix products and attention scores.

    Padding is counted: the device works on it. The output head runs on what is answered only. A
    trained matrix costs three times its forward pass, a frozen one twice, where a gradient passes
    through it, and once in a tower in which nothing is trained. Of scores all pairs count, also
    those that a causal mask hides; what is computed again in the backward pass does not.

    Args:
        prompt: shapes of what is read. lengths: of the answers to each prompt.
        trained: names of the parameters that have a gradient; those of a critic begin with its
            name, and count in a pass of its own.
        shown: frames, or patches, that are shown among the answers.
        pack: samples a row, which do not see each other; counted as if all were of one length.
    """
    b, p = prompt.tokens.shape
    visuals = [one for one in (prompt.visual, shown) if one is not None]
    total = _passes(config, visuals, trained, tokens=b * (p + sum(lengths)))
    decoder = config.decoder
    seen = (p * p + sum(length * (p + length) for length in lengths)) / pack
    total += 12.0 * decoder.layers * b * decoder.heads * decoder.head_size * seen
    if config.critic is not None:
        own = parameters.critic_config(config)
        theirs = {name.partition(".")[2] for name in trained if parameters.is_critic(name)}
        total += _passes(own, visuals, theirs, tokens=b * (p + sum(lengths)))
        total += 12.0 * decoder.layers * b * decoder.heads * decoder.head_size * seen
    head = "decoder.embedding" if decoder.tie_embeddings else "decoder.untied_head"
    factor = 2 + (f"{head}.table" in trained)
    return total + factor * 2.0 * b * sum(lengths) * decoder.vocab_size * decoder.width


def _passes(
    config: ModelConfig, visuals: Sequence[Any], trained: Collection[str], *, tokens: int
) -> float:
    """All matrices, and the scores of the tower."""
    uses: dict[str, float] = {"decoder.blocks": float(tokens)}
    scores = 0.0
    for visual in visuals:
        for prefix, count in _visual(config, visual).items():
            uses[prefix] = uses.get(prefix, 0.0) + count
        scores += _tower_scores(config, visual, trained)
    total = 0.0
    for name, size in _sizes(config).items():
        count = next((n for prefix, n in uses.items() if name.startswith(prefix)), 0.0)
        total += 2 * size * count * (1 + _learns(name, trained) + (name in trained))
    return total + scores


def _learns(name: str, trained: Collection[str]) -> bool:
    """Whether a gradient passes through a matrix."""
    if name.startswith("tower.eva."):  # it stands before all else
        return any(one.startswith("tower.eva.") for one in trained)
    return not name.startswith("tower.") or parameters.reach_tower(trained)


def _visual(config: ModelConfig, visual: Any) -> dict[str, float]:
    """How often the matrices are used whose names begin so, the more special first."""
    tower = config.tower
    if isinstance(visual, Frames) and isinstance(tower, TinyVitConfig):
        frames = math.prod(visual.pixels.shape[:-3])
        patches = frames * (tower.height // tower.patch) * (tower.width_px // tower.patch)
        cells = patches * (tower.patch // tower.cell) ** 2
        # Evidence heads: frames, and a few slots beside them.
        some = {"tower.projector": frames, "tower.cells": cells, "evidence": frames}
        return {**some, "tower.": patches}
    if isinstance(visual, Frames) and isinstance(tower, FrameEncoderConfig):
        return _frame_encoder(tower, visual)
    if isinstance(visual, PatchRows) and isinstance(tower, QwenVisionConfig):
        patches = math.prod(visual.patches.shape[:-1])
        merged = patches / tower.merge**2
        return {"tower.merger": merged, "tower.deepstack": merged, "tower.": patches}
    if isinstance(visual, Views | ViewFeatures) and isinstance(tower, TimesformerConfig):
        takes, views = visual.mask.shape
        among = {f"projector.{name}": float(takes * views) for name in ("q", "k", "v", "o")}
        seen = takes * views * tower.patches * tower.frames if isinstance(visual, Views) else 0
        return {**among, "projector.": float(takes), "tower.": float(seen)}
    return {}


def _frame_encoder(tower: FrameEncoderConfig, visual: Frames) -> dict[str, float]:
    """Every frame through EVA, and its patches, the queries and the question through the rest."""
    frames, patches = float(math.prod(visual.pixels.shape[:-3])), tower.eva.patches
    queries, text = tower.compressor.queries, _question(visual)
    cross, layers = "tower.compressor.qformer.cross.attention", "tower.compressor.qformer.layers"
    each = {
        "tower.eva.patches": patches,
        "tower.eva.": patches + 1,
        f"{cross}.k": patches,
        f"{cross}.v": patches,
        f"{cross}.": queries,
        f"{layers}.query_mlp": queries,
        f"{layers}.text_mlp": text,
        "tower.compressor.qformer.": queries + text,
        "tower.compressor.k.": patches,
        "tower.compressor.out.": 1,
        "tower.compressor.": queries,
        "evidence": 1,
    }
    return {name: frames * count for name, count in each.items()}


def _question(visual: Frames) -> int:
    return 0 if visual.question is None else visual.question.ids.shape[-1]


def _tower_scores(config: ModelConfig, visual: Any, trained: Collection[str]) -> float:
    """Attention scores of a tower in which a patch sees many; among a few they do not count."""
    tower, passes = config.tower, 3 if parameters.reach_tower(trained) else 1
    if isinstance(visual, Views) and isinstance(tower, TimesformerConfig):
        p, f = tower.patches, tower.frames
        pairs = visual.mask.size * (p * f * f + f * p * p)
        return 4.0 * passes * tower.layers * pairs * tower.width
    if isinstance(visual, Frames) and isinstance(tower, FrameEncoderConfig):
        eva, reader, queries = tower.eva, tower.compressor.qformer, tower.compressor.queries
        frames, patches = math.prod(visual.pixels.shape[:-3]), tower.eva.patches
        own = eva.layers * (patches + 1) ** 2 * eva.width
        own *= 3 if _learns("tower.eva.", trained) else 1
        read = reader.layers * (queries + _question(visual)) ** 2 * reader.width
        read += reader.crossings * queries * patches * reader.width
        return 4.0 * frames * (own + passes * (read + queries * patches * reader.image_width))
    if not isinstance(visual, PatchRows) or not isinstance(tower, QwenVisionConfig):
        return 0.0
    rows, slots = math.prod(visual.patches.shape[:-2]), visual.patches.shape[-2]
    return 4.0 * passes * tower.layers * rows * slots**2 * tower.width


def _sizes(config: ModelConfig) -> dict[str, int]:
    plan = parameters.blueprint(config)
    low_rank = re.compile(r"\.lora_[ab]$")
    return {
        name: math.prod(shape)
        for name, shape in plan.shapes.items()
        if not parameters.is_critic(name) and (name in plan.matrices or low_rank.search(name))
    }
