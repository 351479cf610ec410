"""From a sample to logits: prompts as trainers make them, against transformers on the same ids."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="compares with torch: pip install '.[parity]'")
import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen3_vl import processing_qwen3_vl as processing

from tests.data.test_patch_videos import film
from tests.parity import live
from tests.parity.test_qwen_vl import IDS, TEXT, VISION
from tgvlm_jax.data import patch_videos
from tgvlm_jax.data.chat import open_chat
from tgvlm_jax.data.collate import collate
from tgvlm_jax.models import parameters
from tgvlm_jax.schema import DataConfig, presets
from tgvlm_jax.weights import hf, models

pytestmark = pytest.mark.parity

DATA = DataConfig(frames=(6,), min_pixels=128, max_pixels=384, prompt_tokens=160)


@pytest.mark.parametrize(("count", "fps", "stride"), [(8, 30.0, 15), (5, 24.0, 7), (1, 2.0, 1)])
def test_stamps_and_placeholders(count, fps, stride):
    config = DataConfig(min_pixels=128, max_pixels=4096)
    videos = patch_videos.of_config(presets.QWEN3_VL_TINY.tower, config)
    rng = np.random.default_rng(count)
    places = np.arange(count) * stride
    shown = videos.show(rng.integers(0, 256, (count, 40, 60, 3), np.uint8), places / fps)
    start, pad, end = patch_videos.MARKS
    processor = types.SimpleNamespace(
        video_processor=types.SimpleNamespace(merge_size=2, temporal_patch_size=2),
        vision_start_token=start,
        video_token=pad,
        vision_end_token=end,
    )
    processor._calculate_timestamps = types.MethodType(
        processing.Qwen3VLProcessor._calculate_timestamps, processor
    )
    wanted = processing.Qwen3VLProcessor.replace_video_token(
        processor,
        {
            "video_grid_thw": np.array([shown.seen.patched.grid]),
            "video_metadata": [types.SimpleNamespace(fps=fps, frames_indices=places)],
        },
        0,
    )
    assert len(set(shown.tokens)) == 1
    assert shown.text.replace(pad, pad * shown.tokens[0]) == wanted


def theirs(kind, chat):
    """A model whose placeholders are those of a chat."""
    ids = {"video_token_id": chat.video_id, "image_token_id": 511}
    ids["vision_start_token_id"], ids["vision_end_token_id"] = (
        chat.tokenizer.token_to_id(patch_videos.MARKS[place]) for place in (0, 2)
    )
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    text, vision = TEXT | {"vocab_size": 512, "rope_parameters": rope}, VISION
    if kind == "qwen2":
        vision |= {"fullatt_block_indexes": [1], "window_size": 16, "tokens_per_second": 2}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **IDS | ids)
        return Qwen2_5_VLForConditionalGeneration(config)
    rope |= {"mrope_section": [4, 2, 2], "mrope_interleaved": True}
    vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 2]}
    config = Qwen3VLConfig(text_config=text | {"head_dim": 16}, vision_config=vision, **IDS | ids)
    return Qwen3VLForConditionalGeneration(config)


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_logits_of_a_sample(kind, tmp_path):
    """Two clips in one bucket with room to spare. Positions are ours for Qwen2.5-VL, whose rule
    changed; of Qwen3-VL transformers finds its own."""
    data = dataclasses.replace(DATA, template=kind)
    preset = presets.QWEN3_VL_TINY if kind == "qwen3" else presets.QWEN2_5_VL_TINY
    model = live.fill(theirs(kind, open_chat(data, preset)), live.random(kind))
    model.save_pretrained(tmp_path)
    config = models.from_hf(model.config.to_dict())
    chat, sample = open_chat(data, config), film(6, clips=(4, 2))
    encoded = chat.encode(sample)
    prompt = collate([sample], [encoded], config=data, pad_id=chat.pad_id).prompt
    blueprint = parameters.blueprint(config)
    like = jax.eval_shape(lambda: parameters.init(config, jax.random.key(0)))
    params = hf.load(tmp_path, models.tensors(config), like=like)

    @jax.jit
    def ours(params, prompt):
        built = blueprint.build(params)
        return built.decoder.logits(built.states(prompt).final)

    length = int(prompt.length[0])
    found = np.asarray(ours(params, jax.tree.map(jnp.asarray, prompt)))[0, :length]

    patches = np.concatenate([one.patched.patches for one in encoded.videos.seen])
    each = patches.shape[1] // 3
    mean, std = (np.repeat(np.float32(x), each) for x in (config.tower.mean, config.tower.std))
    ids = torch.from_numpy(encoded.prompt.astype(np.int64))[None]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": 2 * (ids == chat.video_id),
        "pixel_values_videos": torch.from_numpy((patches / np.float32(255) - mean) / std),
        "video_grid_thw": torch.tensor([one.patched.grid for one in encoded.videos.seen]),
    }
    if kind == "qwen2":
        positions = prompt.positions[:, :, :length].astype(np.int64).swapaxes(0, 1)
        inputs["position_ids"] = torch.from_numpy(np.ascontiguousarray(positions))
    with torch.no_grad():
        wanted = model(**inputs, use_cache=False).logits[0].numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
