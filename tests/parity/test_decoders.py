"""Text decoders against transformers: states after each layer, logits, gradients, and back."""

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="compares with torch: pip install '.[parity]'")
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

from tests.parity import live
from tgvlm_jax.models.decoder import Decoder
from tgvlm_jax.ops.cross_entropy import token_log_probs
from tgvlm_jax.ops.masks import causal_mask
from tgvlm_jax.schema import EvidenceConfig, ModelConfig
from tgvlm_jax.weights import text

pytestmark = pytest.mark.parity

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}
LONGROPE = {
    "original_max_position_embeddings": 16,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0 + 0.05 * i for i in range(8)],
        "long_factor": [1.5 + 0.5 * i for i in range(8)],
        "original_max_position_embeddings": 16,
    },
}


def phi3(**values):
    return Phi3ForCausalLM(Phi3Config(**SIZES | values))


def llama(**values):
    return LlamaForCausalLM(LlamaConfig(**SIZES | values))


def qwen2_5():
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    values = {"num_key_value_heads": 2, "rope_parameters": rope, "tie_word_embeddings": True}
    return Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**SIZES | values))


def qwen3():
    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
    }
    values = {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True}
    return Qwen3VLTextModel(Qwen3VLTextConfig(**SIZES | values, rope_parameters=rope))


# By name: the model, and how many tokens a row has.
FAMILIES = {
    "phi3": (lambda: phi3(sliding_window=7), 12),
    "phi3 grouped, partly rotary": (
        lambda: phi3(num_key_value_heads=2, partial_rotary_factor=0.75, tie_word_embeddings=True),
        12,
    ),
    "phi3 longrope, short": (lambda: phi3(**LONGROPE), 12),
    "phi3 longrope, long": (lambda: phi3(**LONGROPE), 24),
    "smollm2": (
        lambda: llama(
            hidden_size=72,
            num_attention_heads=9,
            num_key_value_heads=3,
            rope_theta=1e5,
            tie_word_embeddings=True,
        ),
        12,
    ),
    "llama, untied": (lambda: llama(num_key_value_heads=2, head_dim=24), 12),
    "qwen2.5 text": (qwen2_5, 12),
    "qwen3 text": (qwen3, 12),
}


def inputs(rng, tokens, *, axes):
    """Three prompts padded on the right; with `axes`, a place in time and space for each token."""
    lengths = np.array([tokens, tokens - 4, tokens])
    mask = np.arange(tokens) < lengths[:, None]
    found = {
        "ids": rng.integers(3, 96, (3, tokens)).astype(np.int32),
        "mask": mask.astype(np.int32),
        "weight": rng.standard_normal((3, tokens, 64), np.float32),
    }
    if axes:
        steps = rng.integers(0, 3, (3, 3, tokens))
        found["positions"] = np.cumsum(steps, axis=-1).astype(np.int32)
    return found


def run_theirs(model, given):
    """With a head the loss is that of the next token, else a weighted sum of the last states."""
    ids, mask = given["ids"].long(), given["mask"]
    causal = isinstance(model, Phi3ForCausalLM | LlamaForCausalLM)
    more = {"position_ids": given["positions"].long()} if "positions" in given else {}
    labels = {"labels": torch.where(mask > 0, ids, -100)} if causal else {}
    out = model(
        input_ids=ids,
        attention_mask=mask,
        output_hidden_states=True,
        use_cache=False,
        **more,
        **labels,
    )
    keep = mask[..., None]
    found = {"states": torch.stack(out.hidden_states) * keep}
    if causal:
        return found | {"logits": out.logits * keep, "loss": out.loss}
    return found | {"loss": torch.mean(out.last_hidden_state * given["weight"] * keep)}


def run_ours(decoder, given):
    ids, mask = given["ids"], given["mask"].astype(bool)
    config = decoder.config.decoder
    order = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    seen = causal_mask(order, mask, window=config.sliding_window)
    taps = tuple(range(config.layers))
    turn = decoder.rotation(given.get("positions", order))
    states = decoder(decoder.embed(ids), turn=turn, mask=seen, taps=taps)
    final, keep = decoder.norm(states.final), mask[..., None].astype(jnp.float32)
    found = {"states": jnp.stack([*(states.taps[tap] for tap in taps), final]) * keep}
    if "positions" in given:
        return found | {"loss": jnp.mean(final * given["weight"] * keep)}
    log_probs = token_log_probs(final[:, :-1], decoder.head(), ids[:, 1:])
    counted = mask[:, 1:].astype(jnp.float32)
    loss = -jnp.sum(log_probs * counted) / jnp.sum(counted)
    return found | {"logits": decoder.logits(states.final) * keep, "loss": loss}


@pytest.fixture(scope="module", params=FAMILIES)
def compared(request, tmp_path_factory):
    rng = live.random(request.param)
    make, tokens = FAMILIES[request.param]
    model = live.fill(make(), rng)
    spec = text.from_hf(model.config.to_dict())
    bare = not hasattr(model, "lm_head")
    config = ModelConfig(decoder=spec, evidence=EvidenceConfig(bank_layer=1))
    given = inputs(rng, tokens, axes=bare)
    if not bare:
        del given["weight"]
    family = live.Family(
        theirs=model,
        run_theirs=run_theirs,
        make=lambda *, rngs: Decoder(config, rngs=rngs),
        tensors=text.tensors(spec, prefix="" if bare else "model."),
        run_ours=run_ours,
        inputs=given,
    )
    return live.compare(family, tmp_path_factory.mktemp("decoder"))


def test_states_and_logits(compared):
    live.assert_outputs_close(compared)


def test_gradients(compared):
    live.assert_gradients_close(compared)


def test_what_we_save_is_read(compared):
    live.assert_saved_is_the_same(compared)
