"""A GGUF file (llama.cpp's) as a folder in Hugging Face format, which all else here reads.

Quantised blocks become float32 without further loss, by the package `gguf` (an extra). llama.cpp
keeps queries and keys for a rotation of neighbouring numbers; here, as in Hugging Face's files, the
halves of a head turn, so their rows are put back in order. The tokenizer is rebuilt out of its
pieces and merges.
"""

import importlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tgvlm_jax.types import InputError
from tgvlm_jax.weights.published import Spec, write

PACKAGE = "gguf"
_CONTROL = 3  # the kind of a token that is no text
_SHARD_BYTES = 5 * 10**9
# llama.cpp's names; a number stands where theirs and ours have one.
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def unpack(path: Path, folder: Path) -> None:
    """Writes config, weights and tokenizer into a folder that is there.

    Raises:
        InputError: the package is not installed, the file is damaged, or it is of an architecture,
            a rotation or a tokenizer that is not known here.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise InputError(f"{path}: needs {PACKAGE}: pip install 'tgvlm_jax[gguf]'")
    try:
        found = importlib.import_module(PACKAGE).GGUFReader(str(path))
        fields = {name: field.contents() for name, field in found.fields.items()}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cut off or no GGUF file ({error}); fetch it again") from error
    tensors = {_name(tensor.name, path): tensor for tensor in found.tensors}
    config = _config(fields, tied="lm_head.weight" not in tensors, path=path)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    specs = [
        Spec(name=name, shape=tuple(map(int, one.shape[::-1])), dtype=np.dtype(np.float32))
        for name, one in tensors.items()
    ]
    write(folder, specs, _values(tensors, heads), shard_bytes=_SHARD_BYTES)
    _write_json(folder / "config.json", config)
    _tokenizer(fields, path).save(str(folder / "tokenizer.json"))
    pieces = fields["tokenizer.ggml.tokens"]
    named = {kind: pieces[config[f"{kind}_token_id"]] for kind in ("bos", "eos", "pad")}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 10**9}
    about |= {f"{kind}_token": token for kind, token in named.items()}
    if template := fields.get("tokenizer.chat_template"):
        about["chat_template"] = template
    _write_json(folder / "tokenizer_config.json", about)


def _name(name: str, path: Path) -> str:
    """Hugging Face's name of a tensor."""
    block = _BLOCK.fullmatch(name)
    key = block[2] if block else name.removesuffix(".weight")
    if key not in _NAMES or not name.endswith(".weight"):
        raise InputError(f"{path}: tensor {name!r} is of no Llama model that is known here")
    layer = f"model.layers.{block[1]}." if block else ""
    return f"{layer}{_NAMES[key]}.weight"


def _config(fields: Mapping[str, Any], *, tied: bool, path: Path) -> dict[str, Any]:
    if (kind := fields.get("general.architecture")) != "llama":
        raise InputError(f"{path}: architecture {kind!r}; of GGUF files only 'llama' is read")
    if (scaling := fields.get("llama.rope.scaling.type", "none")) != "none":
        raise InputError(f"{path}: rotation scaled by {scaling!r}, which is not known here")
    try:
        heads, width = fields["llama.attention.head_count"], fields["llama.embedding_length"]
        ids = {kind: fields[f"tokenizer.ggml.{kind}_token_id"] for kind in ("bos", "eos")}
        ids["pad"] = fields.get("tokenizer.ggml.padding_token_id", ids["eos"])
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": len(fields["tokenizer.ggml.tokens"]),
            "hidden_size": width,
            "num_hidden_layers": fields["llama.block_count"],
            "num_attention_heads": heads,
            "num_key_value_heads": fields["llama.attention.head_count_kv"],
            "head_dim": fields.get("llama.rope.dimension_count", width // heads),
            "intermediate_size": fields["llama.feed_forward_length"],
            "hidden_act": "silu",
            # Kept as float32 there: 1e-5, not 9.999999747378752e-06.
            "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
            "max_position_embeddings": fields["llama.context_length"],
            "rope_theta": float(fields.get("llama.rope.freq_base", 10_000.0)),
            "attention_bias": False,
            "tie_word_embeddings": tied,
            "dtype": "float32",
            **{f"{kind}_token_id": number for kind, number in ids.items()},
        }
    except KeyError as error:
        raise InputError(f"{path}: does not say its {error}; fetch it again") from error


def _values(
    tensors: Mapping[str, Any], heads: Mapping[str, int]
) -> Iterator[Float32[np.ndarray, "..."]]:
    """Each tensor in turn, rows of queries and keys in order."""
    dequantize = importlib.import_module(f"{PACKAGE}.quants").dequantize
    for name, tensor in tensors.items():
        value = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        value = value.reshape([int(size) for size in tensor.shape[::-1]])
        turned = name.split(".")[-2]
        yield halves(value, heads[turned]) if turned in heads else value


def halves(weight: Float32[np.ndarray, "o d"], heads: int) -> Float32[np.ndarray, "o d"]:
    """Rows of each head: neighbours that turn together become the halves that do."""
    rows, width = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, width)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, width))


def _tokenizer(fields: Mapping[str, Any], path: Path) -> Tokenizer:
    kinds = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kinds != ("gpt2", "smollm"):
        raise InputError(f"{path}: tokenizer {kinds}; of GGUF files only SmolLM's is read")
    pieces = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    found = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(pieces)}, merges=merges))
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    found.decoder = decoders.ByteLevel()
    pairs = zip(pieces, fields["tokenizer.ggml.token_type"], strict=True)
    special = [piece for piece, kind in pairs if kind == _CONTROL]
    found.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return found


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
