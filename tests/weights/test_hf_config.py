"""The config.json we make describes the very model, to us and to transformers."""

import dataclasses
import json
import shutil

import pytest
import transformers

from tgvlm_jax.data.chat import load_chat
from tgvlm_jax.schema import EvidenceConfig, ModelConfig, presets
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import hf_config, models
from tgvlm_jax.weights.hf_config import TokenIds

IDS = TokenIds(bos=1, eos=2, pad=0, image=500, video=501, vision_start=502, vision_end=503)


def text_only(decoder):
    """Without the axes of positions that only a model that sees has."""
    rope = dataclasses.replace(decoder.rope, sections=(), interleaved=False)
    return presets.language_model(dataclasses.replace(decoder, rope=rope))


MODELS = {
    "phi3": presets.language_model(presets.PHI3_MINI),
    "phi3.5": presets.language_model(presets.PHI3_5_MINI),
    "smollm2": presets.language_model(presets.SMOLLM2_135M),
    "qwen2": text_only(presets.QWEN2_5_3B),
    "qwen3": text_only(presets.QWEN3_8B),
    "qwen2.5-vl 7B": presets.QWEN2_5_VL_7B,
    "qwen2.5-vl 3B": presets.QWEN2_5_VL_3B,
    "qwen3-vl": presets.QWEN3_VL_8B,
    "tiny phi3": presets.language_model(presets.PHI3_TINY),
    "tiny phi3 partial": presets.language_model(presets.PHI3_TINY_PARTIAL),
    "tiny phi3.5": presets.language_model(presets.PHI3_5_TINY),
    "tiny smollm2": presets.language_model(presets.SMOLLM2_TINY),
    "tiny qwen2.5-vl": presets.QWEN2_5_VL_TINY,
    "tiny qwen3-vl": presets.QWEN3_VL_TINY,
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_config_is_read_back_as_the_same_model(model):
    config = json.loads(json.dumps(hf_config.to_hf(model, ids=IDS)))
    assert models.from_hf(config) == model


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_transformers_reads_the_same_model(model, tmp_path):
    config = hf_config.to_hf(model, ids=IDS)
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = transformers.AutoConfig.from_pretrained(tmp_path)
    assert models.from_hf(found.to_dict()) == model
    text = found.get_text_config()
    assert (text.bos_token_id, text.eos_token_id, text.pad_token_id) == (1, 2, 0)
    assert str(found.dtype).removeprefix("torch.") == "float32"
    assert found.architectures[0].startswith(type(found).__name__.removesuffix("Config"))
    if model.tower is not None:
        assert (found.image_token_id, found.video_token_id) == (500, 501)
        assert (found.vision_start_token_id, found.vision_end_token_id) == (502, 503)


@pytest.mark.parametrize(
    ("model", "bos", "eos", "pad"),
    [
        (MODELS["phi3"], 1, 32000, 32000),
        (MODELS["smollm2"], 1, 2, 2),
        (MODELS["qwen2.5-vl 7B"], 151643, 151645, 151643),
        (MODELS["qwen3-vl"], 151643, 151645, 151643),
        (MODELS["tiny phi3"], None, None, None),
    ],
)
def test_token_ids_of_the_published_vocabularies(model, bos, eos, pad):
    ids = hf_config.token_ids(model)
    assert (ids.bos, ids.eos, ids.pad) == (bos, eos, pad)
    seen = (151655, 151656, 151652, 151653) if model.tower else (None,) * 4
    assert (ids.image, ids.video, ids.vision_start, ids.vision_end) == seen


def tokenizer_with(tmp_path, *tokens):
    tokenizer = load_chat("tiny", "phi3").tokenizer
    fresh = type(tokenizer).from_str(tokenizer.to_str())
    fresh.add_special_tokens(list(tokens))
    fresh.save(str(tmp_path / "tokenizer.json"))
    return fresh.token_to_id


def test_a_tokenizer_says_what_its_tokens_are(tmp_path):
    model = MODELS["tiny qwen3-vl"]
    with pytest.raises(InputError, match=r"<\|image_pad\|> .* not known .*; give --tokenizer DIR"):
        hf_config.token_ids(model, tokenizer=tmp_path)
    names = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|im_end|>")
    known = tokenizer_with(tmp_path, *names)
    ids = hf_config.token_ids(model, tokenizer=tmp_path)
    assert (ids.image, ids.eos) == (known("<|image_pad|>"), known("<|im_end|>"))
    assert (ids.bos, ids.pad) == (known("<|endoftext|>"),) * 2
    assert len({ids.image, ids.video, ids.vision_start, ids.vision_end}) == 4
    # Of a published vocabulary too the tokenizer is asked first.
    large = hf_config.token_ids(MODELS["qwen3-vl"], tokenizer=tmp_path)
    assert large == ids


def test_a_damaged_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer\.json: no tokenizer of the tokenizers"):
        hf_config.token_ids(MODELS["tiny phi3"], tokenizer=tmp_path)
    shutil.rmtree(tmp_path)
    assert hf_config.token_ids(MODELS["tiny phi3"], tokenizer=tmp_path) == TokenIds()


PHI3, QWEN3 = MODELS["tiny phi3"], MODELS["tiny qwen3-vl"]
FORMLESS = {
    "evidence": (PHI3, {"evidence": EvidenceConfig(bank_layer=1)}, "evidence heads and a tower"),
    "own tower": (PHI3, {"tower": ModelConfig().tower}, "evidence heads and a tower of our own"),
    "two ways": (QWEN3, {"two_way_frames": True}, "model.two_way_frames is nothing that qwen3_vl"),
    "fused biases": (PHI3, {"decoder.qkv_bias": True}, "decoder.qkv_bias is nothing that phi3"),
    "fused norms": (PHI3, {"decoder.qk_norm": True}, "decoder.qk_norm is nothing that phi3"),
    "window": (PHI3, {"decoder.fused": False}, "sliding_window is nothing that llama"),
    "biases": (QWEN3, {"decoder.qkv_bias": True}, "decoder.qkv_bias is nothing that qwen3_vl"),
    "tower": (QWEN3, {"tower": presets.QWEN2_5_VL_TINY.tower}, "model.tower is nothing that"),
    "axes": (QWEN3, {"tower": None}, "model.decoder.rope.sections is nothing that qwen3, the"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "change", "says"), FORMLESS.values(), ids=FORMLESS)
def test_what_no_architecture_has_is_refused_by_its_setting(model, change, says):
    for key, value in change.items():
        if key.startswith("decoder."):
            spec = dataclasses.replace(model.decoder, **{key.removeprefix("decoder."): value})
            key, value = "decoder", spec
        model = dataclasses.replace(model, **{key: value})
    with pytest.raises(InputError, match=says):
        hf_config.to_hf(model, ids=IDS)
