"""Which model a config.json of E.T.Chat and D2VLM describes, and which tensors it has."""

import pytest

from tgvlm_jax.models import parameters
from tgvlm_jax.schema import presets
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import mapping, models

CONFIG = {
    "model_type": "etchat_phi3",
    "mm_projector": "qformer",
    "vision_tower": "eva_vit",
    "vision_output_token": "patch",
    "use_matching": False,
    "use_evidence": True,
    "bi_attention": True,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
    "hidden_act": "silu",
}


def published(config):
    model = models.from_hf(config)
    shapes = parameters.blueprint(model).shapes
    return [n for entry in models.tensors(model) for n in mapping.numbered(entry, shapes)]


def test_the_released_model():
    model = models.from_hf(CONFIG)
    assert model.tower == presets.D2VLM_FRAME_ENCODER
    assert model.decoder.sliding_window == 0  # the released code never looks at it
    assert model.evidence.bank_layer == 6
    assert model.two_way_frames
    names = published(CONFIG)
    assert len(set(names)) == len(names) == 1064 - 1  # one is a buffer
    assert "evi_head.3.bias" in names


def test_the_stage_that_training_starts_from():
    names = published(CONFIG | {"use_evidence": False, "bi_attention": False})
    assert len(names) == 1052 - 1
    assert not any("head." in name and "lm_head" not in name for name in names)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"use_evidence": False, "use_matching": True}, "take its stage 2"),
        ({"mm_projector": "mlp2x_gelu"}, "'qformer' only"),
    ],
)
def test_what_was_never_released(change, says):
    with pytest.raises(InputError, match=says):
        models.from_hf(CONFIG | change)
