"""Tiny models in Hugging Face format, with any bits at all in their weights."""

import dataclasses
import json

import jax
import numpy as np

from tests.weights import checkpoints
from tgvlm_jax.data.chat import load_chat
from tgvlm_jax.models import lora, parameters
from tgvlm_jax.schema import LoraConfig, presets
from tgvlm_jax.weights import hf, hf_config, models, peft
from tgvlm_jax.weights.hf_config import TokenIds

IDS = TokenIds(bos=1, eos=2, pad=0, image=500, video=501, vision_start=502, vision_end=503)
TWINS = {
    "phi3": presets.language_model(presets.PHI3_TINY),
    "phi3-partial": presets.language_model(presets.PHI3_TINY_PARTIAL),
    "phi3.5": presets.language_model(presets.PHI3_5_TINY),
    "smollm2": presets.language_model(presets.SMOLLM2_TINY),
    "qwen2.5-vl": presets.QWEN2_5_VL_TINY,
    "qwen3-vl": presets.QWEN3_VL_TINY,
}
TABLE = (
    LoraConfig(pattern=r"decoder\.blocks\.(qkv|q)$", rank=3, alpha=6.0),
    LoraConfig(pattern=r"decoder\.blocks\.(down|o)$", rank=2, alpha=8.0),
)


def abstract(model):
    """What the model's parameters look like."""
    return jax.eval_shape(lambda: parameters.init(model, jax.random.key(0)))


def bits(model, dtype, *, seed=0):
    """Parameters of any bits: NaNs, infinities and denormals too."""
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    return {
        path: np.frombuffer(rng.bytes(leaf.size * dtype.itemsize), dtype).reshape(leaf.shape)
        for path, leaf in abstract(model).items()
    }


def numbers(model, *, seed=0):
    """Parameters of a size at which states stay of about unit size."""
    rng = np.random.default_rng(seed)
    return {
        path: (path.endswith("scale") + 0.1 * rng.standard_normal(leaf.shape)).astype(leaf.dtype)
        for path, leaf in abstract(model).items()
    }


def tokenizer(folder, *tokens):
    """Writes the library's tiny tokenizer with further special tokens."""
    tiny = load_chat("tiny", "phi3").tokenizer
    fresh = type(tiny).from_str(tiny.to_str())
    fresh.add_special_tokens(list(tokens))
    fresh.save(str(folder / "tokenizer.json"))


def write(folder, name, params, *, config=None):
    """The folder of one of the twins, with a tokenizer and more beside its weights."""
    model = TWINS[name]
    config = config or hf_config.to_hf(model, ids=IDS)
    hf.save(folder, models.tensors(model), params, config=config)
    tokenizer(folder)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    (folder / "training_args.bin").write_bytes(b"not of the model")
    return folder


def write_adapter(folder, name, *, table=TABLE, seed=1, **config):
    """A PEFT folder for one of the twins; `config` changes its adapter_config.json."""
    model = dataclasses.replace(TWINS[name], lora=table)
    own = {path: x for path, x in numbers(model, seed=seed).items() if lora.is_adapter(path)}
    peft.save(folder, models.tensors(TWINS[name]), own, table=table)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return own


read = checkpoints.read
assert_same_bits = checkpoints.assert_same_bits
