"""What a `config.json` says about a decoder, in the form of transformers 5 and of older files."""

import pytest

from tgvlm_jax.schema import RopeConfig
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import text

BASE = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
}


def config(family, **values):
    return BASE | {"model_type": family} | values


def test_families():
    phi3 = text.from_hf(config("phi3", sliding_window=7, tie_word_embeddings=False))
    assert (phi3.fused, phi3.qkv_bias, phi3.qk_norm) == (True, False, False)
    assert (phi3.sliding_window, phi3.tie_embeddings, phi3.head_size) == (7, False, 8)
    llama = text.from_hf(config("llama", head_dim=16, tie_word_embeddings=True))
    assert (llama.fused, llama.qkv_bias, llama.qk_norm) == (False, False, False)
    assert (llama.tie_embeddings, llama.head_size, llama.norm_eps) == (True, 16, 1e-6)
    # Qwen2.5 carries a window that it does not use.
    qwen2 = text.from_hf(config("qwen2", sliding_window=9, use_sliding_window=False))
    assert (qwen2.qkv_bias, qwen2.qk_norm, qwen2.sliding_window) == (True, False, 0)
    qwen3 = text.from_hf(config("qwen3", attention_bias=False, sliding_window=None))
    assert (qwen3.qkv_bias, qwen3.qk_norm) == (False, True)


def test_both_forms_of_the_rotary_settings():
    flat = config(
        "qwen2_5_vl", rope_theta=1e6, rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]}
    )
    nested = config(
        "qwen2_5_vl_text",
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
    )
    wanted = RopeConfig(theta=1e6, sections=(1, 1, 2), original_length=64)
    assert text.from_hf(flat).rope == text.from_hf(nested).rope == wanted


@pytest.mark.parametrize("kind", ["longrope", "su", "yarn"])
def test_longrope_under_all_of_its_names(kind):
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 2.1, 2.2, 2.3]}
    found = text.from_hf(
        config(
            "phi3",
            original_max_position_embeddings=16,
            rope_theta=1e4,
            rope_scaling={"type": kind, **factors},
        )
    ).rope
    assert found.short_factor == (1.0, 1.1, 1.2, 1.3)
    assert found.long_factor == (2.0, 2.1, 2.2, 2.3)
    assert (found.original_length, found.length_ratio) == (16, 4.0)


@pytest.mark.parametrize(
    ("family", "values", "says"),
    [
        ("mistral", {}, "model_type 'mistral' is no decoder of ours; known: phi3, llama"),
        (None, {}, "model_type None is no decoder of ours"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu': this decoder has 'silu' only"),
        ("llama", {"attention_bias": True}, "attention_bias True"),
        ("llama", {"mlp_bias": True}, "mlp_bias True"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window True"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_type 'llama3'"),
        ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type 'yarn'"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "rope_type 'linear'"),
    ],
)
def test_what_would_be_another_function_is_refused(family, values, says):
    with pytest.raises(InputError, match=says) as caught:
        text.from_hf(config(family, **values))
    assert "\n" not in str(caught.value)
