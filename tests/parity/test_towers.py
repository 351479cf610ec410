"""Vision towers and Q-Formers against transformers: tokens, gradients, and back."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="compares with torch: pip install '.[parity]'")
import torch
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    TimesformerConfig,
    TimesformerForVideoClassification,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from tests.parity import live
from tgvlm_jax.data import qwen_patches, qwen_rows
from tgvlm_jax.models import eva_vit, qformer, qwen_vit, timesformer
from tgvlm_jax.types import PatchRows
from tgvlm_jax.weights import eva, qwen_vision
from tgvlm_jax.weights import qformer as qformer_names
from tgvlm_jax.weights import timesformer as timesformer_names

pytestmark = pytest.mark.parity

EAGER = {"attn_implementation": "eager"}
FLOAT32 = jnp.dtype("float32")


def channels_last(pixels):
    return jnp.moveaxis(pixels, -3, -1)


def weighed(outputs, weight, mean):
    """The loss: one output times fixed weights."""
    return outputs | {"loss": mean(outputs["tokens"] * weight)}


def eva_in_blip2(rng):
    config = Blip2VisionConfig(
        image_size=28,
        patch_size=7,
        hidden_size=44,
        num_attention_heads=2,
        num_hidden_layers=3,
        intermediate_size=64,
        **EAGER,
    )
    spec = eva.from_hf(config.to_dict())

    def theirs(model, given):
        out = model(pixel_values=given["pixels"])
        return weighed({"tokens": out.last_hidden_state}, given["weight"], torch.mean)

    def ours(model, given):
        tokens = model(channels_last(given["pixels"])[:, None])[:, 0]
        return weighed({"tokens": tokens}, given["weight"], jnp.mean)

    return live.Family(
        theirs=Blip2VisionModel(config),
        run_theirs=theirs,
        make=lambda *, rngs: eva_vit.EvaVit(spec, rngs=rngs, dtype=FLOAT32),
        tensors=eva.tensors(spec, prefix=""),
        run_ours=ours,
        inputs={
            "pixels": rng.standard_normal((2, 3, 28, 28), np.float32),
            "weight": rng.standard_normal((2, 17, 44), np.float32),
        },
    )


def timesformer_with_classes(rng):
    config = TimesformerConfig(
        image_size=24,
        patch_size=8,
        num_frames=4,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=80,
        num_labels=5,
        **EAGER,
    )
    spec = timesformer_names.from_hf(config.to_dict())

    def theirs(model, given):
        out = model(
            pixel_values=given["pixels"], labels=given["labels"].long(), output_hidden_states=True
        )
        tokens = model.timesformer(given["pixels"]).last_hidden_state
        return {"tokens": tokens, "logits": out.logits, "loss": out.loss}

    def ours(model, given):
        tokens = model(channels_last(given["pixels"])[:, None])
        logits = model.logits(tokens)[:, 0]
        picked = jnp.take_along_axis(logits, given["labels"][:, None], axis=1)[:, 0]
        loss = jnp.mean(jnp.log(jnp.sum(jnp.exp(logits), axis=1)) - picked)
        return {"tokens": tokens[:, 0], "logits": logits, "loss": loss}

    return live.Family(
        theirs=TimesformerForVideoClassification(config),
        run_theirs=theirs,
        make=lambda *, rngs: timesformer.Timesformer(spec, rngs=rngs, dtype=FLOAT32),
        tensors=timesformer_names.tensors(spec),
        run_ours=ours,
        inputs={
            "pixels": rng.standard_normal((2, 4, 3, 24, 24), np.float32),
            "labels": rng.integers(0, 5, 2).astype(np.int32),
        },
    )


QFORMER = {
    "hidden_size": 48,
    "num_hidden_layers": 3,  # an odd number: the last group of layers is not whole
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "encoder_hidden_size": 44,
    "vocab_size": 50,
    "max_position_embeddings": 32,
    **EAGER,
}


def qformer_family(rng, config, model, run, *, more):
    spec = qformer_names.from_hf(config.to_dict())
    masks = np.arange(9) < np.array([9, 6])[:, None]
    length = more["ids"].shape[1] if "ids" in more else 0

    def ours(model, given):
        text = None
        if "ids" in given:
            text = qformer.Text(ids=given["ids"], mask=given["text_mask"].astype(bool))
        tokens = model(
            given["queries"][:, None],
            given["image"][:, None],
            text=text,
            image_mask=given["mask"].astype(bool)[:, None],
        )[:, 0]
        return weighed({"tokens": tokens * given["keep"]}, given["weight"], jnp.mean)

    keep = np.ones((2, 8 + length, 1), np.float32)
    keep[:, 8:, 0] = more["text_mask"] if length else 0
    return live.Family(
        theirs=model(config),
        run_theirs=run,
        make=lambda *, rngs: qformer.Qformer(spec, rngs=rngs, dtype=FLOAT32),
        tensors=qformer_names.tensors(spec, prefix=""),
        run_ours=ours,
        inputs={
            "queries": rng.standard_normal((2, 8, 48), np.float32),
            "image": rng.standard_normal((2, 9, 44), np.float32),
            "mask": masks.astype(np.int32),
            "weight": rng.standard_normal((2, 8 + length, 48), np.float32),
            "keep": keep,
            **more,
        },
    )


def qformer_alone(rng):
    def theirs(model, given):
        out = model(
            query_embeds=given["queries"],
            encoder_hidden_states=given["image"],
            encoder_attention_mask=given["mask"],
        )
        tokens = out.last_hidden_state * given["keep"]
        return weighed({"tokens": tokens}, given["weight"], torch.mean)

    return qformer_family(rng, Blip2QFormerConfig(**QFORMER), Blip2QFormerModel, theirs, more={})


def qformer_with_text(rng):
    def theirs(model, given):
        queries = torch.ones(given["queries"].shape[:2], dtype=torch.int32)
        out = model(
            input_ids=given["ids"].long(),
            attention_mask=torch.cat([queries, given["text_mask"]], dim=1),
            query_embeds=given["queries"],
            encoder_hidden_states=given["image"],
            encoder_attention_mask=given["mask"],
        )
        tokens = out.last_hidden_state * given["keep"]
        return weighed({"tokens": tokens}, given["weight"], torch.mean)

    more = {
        "ids": rng.integers(1, 50, (2, 6)).astype(np.int32),
        "text_mask": (np.arange(6) < np.array([4, 6])[:, None]).astype(np.int32),
    }
    config = InstructBlipQFormerConfig(**QFORMER)
    return qformer_family(rng, config, InstructBlipQFormerModel, theirs, more=more)


# Images and videos: temporal patches, rows and columns.
GRIDS = [(1, 4, 6), (2, 6, 10), (3, 4, 4)]


def qwen_family(rng, family, config, model, *, rule):
    spec = qwen_vision.from_hf({"model_type": family, "vision_config": config.to_dict()})
    width = 3 * spec.temporal * spec.patch**2
    items = [
        qwen_patches.Patched(
            patches=rng.standard_normal((int(np.prod(grid)), width), np.float32), grid=grid
        )
        for grid in GRIDS
    ]
    laid = qwen_rows.to_rows(items, rule=rule, rows=6, slots=64)
    names = [field.name for field in dataclasses.fields(PatchRows)]

    def theirs(model, given):
        grids = torch.tensor(GRIDS)
        out = model(given["pixels"], grid_thw=grids)
        found = {"tokens": out.pooler_output}
        for level, features in enumerate(getattr(out, "deepstack_features", ())):
            found[f"level {level}"] = features
        # Every level counts, so that every parameter has a gradient.
        return found | {"loss": sum(torch.mean(x * given["weight"]) for x in found.values())}

    def ours(model, given):
        out = model(PatchRows(**{name: given[name][None] for name in names}))
        flat = out.tokens.reshape(-1, spec.out_width)[given["slots"]]
        found = {"tokens": flat}
        for level, features in enumerate(out.deepstack):
            found[f"level {level}"] = features.reshape(-1, spec.out_width)[given["slots"]]
        return found | {"loss": sum(jnp.mean(x * given["weight"]) for x in found.values())}

    tokens = sum(qwen_rows.token_count(grid, rule=rule) for grid in GRIDS)
    return live.Family(
        theirs=model(config),
        run_theirs=theirs,
        make=lambda *, rngs: qwen_vit.QwenVisionTower(spec, rngs=rngs, dtype=FLOAT32),
        tensors=qwen_vision.tensors(spec, prefix=""),
        run_ours=ours,
        inputs={
            "pixels": np.concatenate([item.patches for item in items]),
            "slots": laid.tokens,
            "weight": rng.standard_normal((tokens, spec.out_width), np.float32),
            **{name: getattr(laid.rows, name) for name in names},
        },
    )


QWEN = {"hidden_size": 32, "num_heads": 2, "intermediate_size": 44, "out_hidden_size": 48}


def qwen2_5_vision(rng):
    config = Qwen2_5_VLVisionConfig(
        depth=4, patch_size=4, window_size=16, fullatt_block_indexes=[1, 3], **QWEN, **EAGER
    )
    rule = qwen_patches.PatchRule(
        **{**vars(qwen_patches.QWEN2_5_VL), "patch": 4, "temporal": 2, "merge": 2, "window": 16}
    )
    model = Qwen2_5_VisionTransformerPretrainedModel
    return qwen_family(rng, "qwen2_5_vl", config, model, rule=rule)


def qwen3_vision(rng):
    config = Qwen3VLVisionConfig(
        depth=4,
        patch_size=4,
        num_position_embeddings=16,
        deepstack_visual_indexes=[0, 2],
        **QWEN,
        **EAGER,
    )
    rule = qwen_patches.PatchRule(
        **{**vars(qwen_patches.QWEN3_VL), "patch": 4, "temporal": 2, "merge": 2, "table_side": 4}
    )
    return qwen_family(rng, "qwen3_vl", config, Qwen3VLVisionModel, rule=rule)


FAMILIES = {
    "eva": eva_in_blip2,
    "timesformer": timesformer_with_classes,
    "q-former": qformer_alone,
    "q-former with text": qformer_with_text,
    "qwen2.5-vl vision": qwen2_5_vision,
    "qwen3-vl vision": qwen3_vision,
}


@pytest.fixture(scope="module", params=FAMILIES)
def compared(request, tmp_path_factory):
    rng = live.random(request.param)
    family = FAMILIES[request.param](rng)
    live.fill(family.theirs, rng)
    return live.compare(family, tmp_path_factory.mktemp("tower"))


def test_tokens(compared):
    live.assert_outputs_close(compared)


def test_gradients(compared):
    live.assert_gradients_close(compared)


def test_what_we_save_is_read(compared):
    live.assert_saved_is_the_same(compared)
