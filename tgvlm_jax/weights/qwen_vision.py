"""Published names of the Qwen2.5-VL and Qwen3-VL vision towers."""

from tgvlm_jax.models.qwen_vit_config import QwenVisionConfig
from tgvlm_jax.weights.mapping import Tensor, tensor

_MATRIX = "e d -> d e"
# Published files keep the prefix of the release they were written for.
_PREFIX = {"qwen2_5_vl": "visual.", "qwen3_vl": "model.visual."}


def tensors(config: QwenVisionConfig, *, prefix: str | None = None, ours: str = "") -> list[Tensor]:
    """Every published tensor of a vision tower.

    Args:
        config: the tower.
        prefix: what stands before `patch_embed` and `blocks`; the published one by default.
        ours: what stands before our paths.
    """
    prefix = _PREFIX[config.family] if prefix is None else prefix
    found = [
        tensor(
            f"{prefix}patch_embed.proj.weight", f"{ours}patches.weight", "d c t y x -> c t y x d"
        ),
        *_block(config, f"{prefix}blocks.{{i}}.", f"{ours}blocks."),
    ]
    if config.family == "qwen2_5_vl":
        merger = f"{prefix}merger."
        return [
            *found,
            tensor(f"{merger}ln_q.weight", f"{ours}merger.norm.scale", "d -> d"),
            *_dense(f"{merger}mlp.0", f"{ours}merger.up"),
            *_dense(f"{merger}mlp.2", f"{ours}merger.down"),
        ]
    found.append(tensor(f"{prefix}patch_embed.proj.bias", f"{ours}patches.bias", "d -> d"))
    found.append(tensor(f"{prefix}pos_embed.weight", f"{ours}positions.weight", "n d -> n d"))
    mergers = [("merger.", "merger.")]
    if config.deepstack:
        mergers.append(("deepstack_merger_list.{i}.", "deepstack."))
    for theirs, path in mergers:
        found += _layer_norm(f"{prefix}{theirs}norm", f"{ours}{path}norm")
        found += _dense(f"{prefix}{theirs}linear_fc1", f"{ours}{path}up")
        found += _dense(f"{prefix}{theirs}linear_fc2", f"{ours}{path}down")
    return found


def _block(config: QwenVisionConfig, theirs: str, path: str) -> list[Tensor]:
    found = [
        tensor(f"{theirs}attn.qkv.weight", f"{path}qkv.weight", "(s h k) d -> d s h k"),
        tensor(f"{theirs}attn.qkv.bias", f"{path}qkv.bias", "(s h k) -> s h k"),
        tensor(f"{theirs}attn.proj.weight", f"{path}o.weight", "d (h k) -> h k d"),
        tensor(f"{theirs}attn.proj.bias", f"{path}o.bias", "d -> d"),
    ]
    norms = (("norm1", "attention_norm"), ("norm2", "mlp_norm"))
    if config.family == "qwen2_5_vl":
        for name, ours in norms:
            found.append(tensor(f"{theirs}{name}.weight", f"{path}{ours}.scale", "d -> d"))
        for name in ("gate", "up", "down"):
            found += _dense(f"{theirs}mlp.{name}_proj", f"{path}{name}")
        return found
    for name, ours in norms:
        found += _layer_norm(f"{theirs}{name}", f"{path}{ours}")
    found += _dense(f"{theirs}mlp.linear_fc1", f"{path}up")
    return found + _dense(f"{theirs}mlp.linear_fc2", f"{path}down")


def _dense(name: str, path: str) -> list[Tensor]:
    return [
        tensor(f"{name}.weight", f"{path}.weight", _MATRIX),
        tensor(f"{name}.bias", f"{path}.bias", "d -> d"),
    ]


def _layer_norm(name: str, path: str) -> list[Tensor]:
    return [
        tensor(f"{name}.weight", f"{path}.scale", "d -> d"),
        tensor(f"{name}.bias", f"{path}.bias", "d -> d"),
    ]
