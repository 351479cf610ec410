"""Whole Qwen-VL models against transformers: an image and a video in one prompt."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="compares with torch: pip install '.[parity]'")
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.parity import live
from tgvlm_jax.data import mrope, qwen_patches
from tgvlm_jax.data.qwen_prompt import Bucket, Seen, prompt_row
from tgvlm_jax.models.vlm import VideoLanguageModel
from tgvlm_jax.ops.cross_entropy import token_log_probs
from tgvlm_jax.weights import models

pytestmark = pytest.mark.parity

IMAGE_ID, VIDEO_ID, START, END = 90, 91, 92, 93
IMAGE, VIDEO, SECONDS = (1, 4, 6), (2, 6, 4), 0.7
TEXT = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
}
VISION = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 4,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "in_channels": 3,
}
IDS = {
    "image_token_id": IMAGE_ID,
    "video_token_id": VIDEO_ID,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "tie_word_embeddings": False,
    "attn_implementation": "eager",
}


def qwen2_5_vl():
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    tower = {"fullatt_block_indexes": [1], "window_size": 16, "tokens_per_second": 2}
    config = Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_parameters": rope}, vision_config=VISION | tower, **IDS
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl():
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2]}
    rope["mrope_interleaved"] = True
    tower = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 2]}
    config = Qwen3VLConfig(
        text_config=TEXT | {"rope_parameters": rope, "head_dim": 16},
        vision_config=VISION | tower,
        **IDS,
    )
    return Qwen3VLForConditionalGeneration(config)


FAMILIES = {"qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}


def given(rng, kind):
    """What transformers is called with; its labels leave out what is seen."""

    def text(count):
        return [*rng.integers(3, 80, count)]

    frames = [VIDEO] if kind == "qwen2_5_vl" else [(1, *VIDEO[1:])] * VIDEO[0]
    ids = [*text(4), START, *[IMAGE_ID] * (np.prod(IMAGE) // 4), END]
    for grid in frames:
        ids += [*text(2), START, *[VIDEO_ID] * (np.prod(grid) // 4), END]
    ids = np.asarray([[*ids, *text(6)]], np.int64)
    seconds = {"second_per_grid_ts": np.asarray([SECONDS], np.float32)}
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE_ID) + 2 * (ids == VIDEO_ID),
        "labels": np.where(ids >= IMAGE_ID, -100, ids),
        "pixel_values": rng.standard_normal((np.prod(IMAGE), 96), np.float32),
        "pixel_values_videos": rng.standard_normal((np.prod(VIDEO), 96), np.float32),
        "image_grid_thw": np.asarray([IMAGE], np.int64),
        "video_grid_thw": np.asarray([VIDEO], np.int64),
        **(seconds if kind == "qwen2_5_vl" else {}),
    }


def prompt_of(inputs, kind, tower):
    """The same as a prompt of ours."""
    published = qwen_patches.QWEN2_5_VL if kind == "qwen2_5_vl" else qwen_patches.QWEN3_VL
    window = 16 if kind == "qwen2_5_vl" else 0
    rule = dataclasses.replace(published, patch=4, window=window, table_side=tower.table_side)
    video = mrope.video_frames(VIDEO) if kind == "qwen3_vl" else None
    items = tuple(video or [mrope.video_item(VIDEO, seconds=SECONDS)])
    seen = [
        Seen(
            patched=qwen_patches.Patched(patches=inputs["pixel_values"], grid=IMAGE),
            items=(mrope.image_item(*IMAGE[1:]),),
        ),
        Seen(
            patched=qwen_patches.Patched(patches=inputs["pixel_values_videos"], grid=VIDEO),
            items=items,
        ),
    ]
    ids = inputs["input_ids"][0]
    row = prompt_row(
        ids.astype(np.int32),
        (ids == IMAGE_ID) | (ids == VIDEO_ID),
        seen=seen,
        rule=rule,
        bucket=Bucket(length=len(ids), rows=3, slots=24),
        pad_id=0,
        style="hf5",
    )
    return jax.tree.map(lambda value: jnp.asarray(value)[None], row)


def run_theirs(model, inputs):
    out = model(**inputs, use_cache=False)
    return {"logits": out.logits, "loss": out.loss}


@pytest.fixture(scope="module", params=FAMILIES)
def compared(request, tmp_path_factory):
    kind = request.param
    rng = live.random(kind)
    model = live.fill(FAMILIES[kind](), rng)
    config = models.from_hf(model.config.to_dict())
    inputs = given(rng, kind)
    prompt = prompt_of(inputs, kind, config.tower)

    def run_ours(ours, _):
        states = ours.states(prompt).final
        labels = jnp.asarray(inputs["labels"][:, 1:], jnp.int32)
        normed = ours.decoder.norm(states[:, :-1])
        log_probs = token_log_probs(normed, ours.decoder.head(), jnp.maximum(labels, 0))
        counted = (labels >= 0).astype(jnp.float32)
        loss = -jnp.sum(log_probs * counted) / jnp.sum(counted)
        return {"logits": ours.decoder.logits(states), "loss": loss}

    family = live.Family(
        theirs=model,
        run_theirs=run_theirs,
        make=lambda *, rngs: VideoLanguageModel(config, rngs=rngs),
        tensors=models.tensors(config),
        run_ours=run_ours,
        inputs=inputs,
    )
    found = live.compare(family, tmp_path_factory.mktemp(kind))
    if kind == "qwen3_vl":
        return found
    # Published files of Qwen2.5-VL name things otherwise than the modules do.
    renamed = {module_name(name): value for name, value in found.ours.gradients.items()}
    return dataclasses.replace(found, ours=dataclasses.replace(found.ours, gradients=renamed))


def module_name(published):
    if published.startswith("visual."):
        return f"model.{published}"
    return published.replace("model.", "model.language_model.", 1)


def test_logits(compared):
    live.assert_outputs_close(compared)


def test_gradients(compared):
    live.assert_gradients_close(compared)


def test_what_we_save_is_read(compared):
    live.assert_saved_is_the_same(compared)
