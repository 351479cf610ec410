"""PEFT adapters in and out: `adapter_config.json` and `adapter_model.safetensors`.

Names and layouts follow from the map of the weights that the adapters stand beside: a weight
`(out) (in) -> ...` has A `rank (in)` and B `(out) rank`. Where a published weight is fused, one A
serves all of it, as ours does.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from tgvlm_jax.schema import LoraConfig
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import hf
from tgvlm_jax.weights.mapping import Part, Tensor
from tgvlm_jax.weights.published import Published

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
# Settings of adapters that are more than W + scale * B A, and the values with which they are not.
_PLAIN = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, []),
}
# These first change the base weights, which then are no longer the published ones.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")


def adapter_tensors(tensors: Sequence[Tensor], paths: set[str]) -> list[Tensor]:
    """The map of the adapters among `paths`, from the map of the weights.

    Raises:
        InputError: an adapter beside one of several parameters that are published as one.
    """
    found = []
    for entry in tensors:
        bases = [part.path.removesuffix(".weight") for part in entry.parts]
        if not any(f"{base}.lora_a" in paths for base in bases):
            continue
        if len(set(bases)) > 1:
            raise InputError(
                f"{entry.name} is published as one matrix, which PEFT adapts as one: adapters of "
                f"{' and '.join(dict.fromkeys(bases))} have no form there"
            )
        name = _PREFIX + entry.name.removesuffix(".weight")
        out, inside = _groups(entry.parts[0])
        right = entry.parts[0].pattern.split("->")[1].split()
        inputs = " ".join(axis for axis in right if axis in _axes(inside))
        outputs = " ".join(axis for axis in right if axis in _axes(out))
        a = Part(path=f"{bases[0]}.lora_a", pattern=f"z {inside} -> {inputs} z")
        b = tuple(
            Part(path=f"{bases[0]}.lora_b", pattern=f"{out} z -> z {outputs}", piece=part.piece)
            for part in entry.parts
        )
        found.append(Tensor(name=name + _A, parts=(a,), step=entry.step))
        found.append(Tensor(name=name + _B, parts=b, step=entry.step))
    return found


def module_tensors(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The map by the names that transformers gives to modules, which are those that PEFT uses.

    Files of Qwen2.5-VL keep the names of their first release; elsewhere the two are the same.
    """
    if not any(entry.name.startswith("visual.") for entry in tensors):
        return list(tensors)
    return [dataclasses.replace(entry, name=_module_name(entry.name)) for entry in tensors]


def _module_name(published: str) -> str:
    if published.startswith("visual."):
        return f"model.{published}"
    return re.sub(r"^model\.", "model.language_model.", published)


def _as_named(folder: Path, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The map by the names of a PEFT folder, which may be that of an older transformers."""
    names = Published(folder, single=hf.ADAPTER_FILES.weights).names
    new = tuple(f"{_PREFIX}model.{part}." for part in ("language_model", "visual"))
    return module_tensors(tensors) if any(n.startswith(new) for n in names) else list(tensors)


def _groups(part: Part) -> tuple[str, str]:
    """The output and the input axes of a published matrix, as its pattern writes them."""
    out, inside = re.findall(r"\([^)]*\)|\S+", part.pattern.split("->")[0])
    return out, inside


def _axes(group: str) -> list[str]:
    return group.strip("()").split()


def read_table(folder: Path, tensors: Sequence[Tensor]) -> tuple[LoraConfig, ...]:
    """The table of adapters that a PEFT folder holds, read off the tensors that are there.

    Raises:
        InputError: no such folder, another kind of adapter, modules that are unknown, or layers
            of one module that differ in rank or alpha.
    """
    config = hf.read_config(folder, names=hf.ADAPTER_FILES)
    path = folder / hf.ADAPTER_FILES.config
    _check_plain(path, config)
    published = Published(folder, single=hf.ADAPTER_FILES.weights)
    ranks = {
        name.removeprefix(_PREFIX).removesuffix(_A): published.shape(name)[0]
        for name in published.names
        if name.endswith(_A)
    }
    kinds = {published.dtype(name) for name in published.names if name.endswith(_A)}
    dtype = "bfloat16" if kinds == {"BF16"} else "float32"
    table, known = [], set()
    for entry in _as_named(folder, tensors):
        module = re.escape(entry.name.removesuffix(".weight")).replace(r"\{i\}", r"\d+")
        modules = sorted(name for name in ranks if re.fullmatch(module, name))
        known |= set(modules)
        found = {(ranks[name], _alpha(config, name, ranks[name])) for name in modules}
        if len(found) > 1:
            raise InputError(
                f"{path}: layers of {entry.name} differ in rank or alpha; ours are alike"
            )
        for rank, alpha in found:
            base = entry.parts[0].path.removesuffix(".weight")
            rule = LoraConfig(
                pattern=f"^{re.escape(base)}$",
                rank=rank,
                alpha=alpha,
                dropout=float(config.get("lora_dropout") or 0.0),
                param_dtype=dtype,
            )
            table.append(rule)
    if unknown := sorted(ranks.keys() - known):
        raise InputError(f"{path}: {', '.join(unknown)} are no modules of this model")
    if not table:
        raise InputError(f"{folder}: no LoRA adapters there")
    return tuple(table)


def _check_plain(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type {config.get('peft_type')!r}; only LORA is read")
    for key, plain in _PLAIN.items():
        if config.get(key) not in plain:
            raise InputError(f"{path}: {key}={config[key]!r}; only plain LoRA adapters are read")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_CHANGES_BASE):
        raise InputError(
            f"{path}: init_lora_weights={start!r} changes the base model; convert it to plain LoRA "
            "with peft (path_initial_model_for_weight_conversion)"
        )


def _alpha(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Alpha of a module, such that its scale is alpha / rank; PEFT's rule for patterns."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha) * (rank**0.5 if config.get("use_rslora") else 1.0)


def load(
    folder: Path, tensors: Sequence[Tensor], *, like: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """Our adapters from a PEFT folder; `like` has their paths, shapes and layouts.

    Raises:
        InputError: what `hf.load` raises.
    """
    own = adapter_tensors(_as_named(folder, tensors), set(like))
    return hf.load(folder, own, like=like, names=hf.ADAPTER_FILES)


def save(
    folder: Path,
    tensors: Sequence[Tensor],
    adapters: Mapping[str, Any],
    *,
    table: Sequence[LoraConfig],
    base_model: str = "",
) -> None:
    """Writes a folder that `peft` loads; it appears whole or not.

    Args:
        folder: must not exist. tensors: the map of the weights. adapters: as for `hf.save`.
        table: the rules they were attached by. base_model: name of the model they belong to.

    Raises:
        InputError: what `hf.save` and `adapter_tensors` raise.
    """
    own = adapter_tensors(module_tensors(tensors), set(adapters))
    rules = {}
    for entry in own:
        if entry.name.endswith(_A):
            base = entry.parts[0].path.removesuffix(".lora_a")
            module = entry.name.removeprefix(_PREFIX).removesuffix(_A)
            pattern = re.escape(module).replace(r"\{i\}", r"\d+")
            rules[pattern] = next(r for r in table if re.search(r.pattern, base))
    rank, alpha = Counter((r.rank, r.alpha) for r in rules.values()).most_common(1)[0][0]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        # Whole names: an ending such as `gate_proj` may also be found in a vision tower.
        "target_modules": "|".join(rules),
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: r.rank for name, r in rules.items() if r.rank != rank},
        "alpha_pattern": {name: r.alpha for name, r in rules.items() if r.alpha != alpha},
        "lora_dropout": max(r.dropout for r in rules.values()),  # PEFT has one for all
        "bias": "none",
        "inference_mode": True,
    }
    hf.save(folder, own, adapters, config=config, names=hf.ADAPTER_FILES)
