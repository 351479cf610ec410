"""PEFT adapters in and out: `adapter_config.json` and `adapter_model.safetensors`.

Names and layouts follow from the map of the weights that the adapters stand beside: a weight
`(out) (in) -> ...` has A `rank (in)` and B `(out) rank`. Where a published weight is fused, one A
serves all of it, as ours does.
"""

import json
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

_PREFIX = "base_model.model."


def adapter_tensors(tensors: Sequence[Tensor], paths: set[str]) -> list[Tensor]:
    """The map of the adapters among `paths`, from the map of the weights."""
    found = []
    for entry in tensors:
        base = entry.parts[0].path.removesuffix(".weight")
        if f"{base}.lora_a" not in paths:
            continue
        name = _PREFIX + entry.name.removesuffix(".weight")
        out, inside = _groups(entry.parts[0])
        right = entry.parts[0].pattern.split("->")[1].split()
        inputs = " ".join(axis for axis in right if axis in _axes(inside))
        outputs = " ".join(axis for axis in right if axis in _axes(out))
        a = Part(path=f"{base}.lora_a", pattern=f"z {inside} -> {inputs} z")
        b = tuple(
            Part(path=f"{base}.lora_b", pattern=f"{out} z -> z {outputs}", piece=part.piece)
            for part in entry.parts
        )
        found.append(Tensor(name=f"{name}.lora_A.weight", parts=(a,)))
        found.append(Tensor(name=f"{name}.lora_B.weight", parts=b))
    return found


def _groups(part: Part) -> tuple[str, str]:
    """The output and the input axes of a published matrix, as its pattern writes them."""
    out, inside = re.findall(r"\([^)]*\)|\S+", part.pattern.split("->")[0])
    return out, inside


def _axes(group: str) -> list[str]:
    return group.strip("()").split()


def read_table(folder: Path, tensors: Sequence[Tensor]) -> tuple[LoraConfig, ...]:
    """The table of adapters that a PEFT folder holds.

    Raises:
        InputError: no such folder, another kind of adapter, or target modules that are unknown.
    """
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a PEFT folder") from error
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("use_rslora"):
        raise InputError(f"{path}: only plain LoRA adapters are read")
    table, used = [], set()
    targets = config["target_modules"]
    for entry in tensors:
        module = entry.name.removesuffix(".weight")
        target = _target(module, targets)
        if target is None:
            continue
        used.add(target)
        base = entry.parts[0].path.removesuffix(".weight")
        rank = _by_pattern(config.get("rank_pattern"), module, config["r"])
        alpha = _by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
        table.append(LoraConfig(pattern=f"^{re.escape(base)}$", rank=rank, alpha=float(alpha)))
    unknown = [] if isinstance(targets, str) else sorted(set(targets) - used)
    if unknown or not table:
        raise InputError(f"{path}: target modules {', '.join(unknown) or targets} are not ours")
    return tuple(table)


def _target(module: str, targets: str | Sequence[str]) -> str | None:
    """PEFT's rule: a string is a regex for the whole name, a list has endings of it."""
    if isinstance(targets, str):
        return targets if re.fullmatch(targets, module.replace("{i}", "0")) else None
    return next((t for t in targets if module == t or module.endswith(f".{t}")), None)


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        if re.search(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def load(
    folder: Path, tensors: Sequence[Tensor], *, like: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """Our adapters from a PEFT folder; `like` has their paths, shapes and layouts.

    Raises:
        InputError: what `hf.load` raises.
    """
    return hf.load(folder, adapter_tensors(tensors, set(like)), like=like)


def save(
    folder: Path,
    tensors: Sequence[Tensor],
    adapters: Mapping[str, jax.Array],
    *,
    table: Sequence[LoraConfig],
    base_model: str = "",
) -> None:
    """Writes a folder that `peft` loads; it appears whole or not.

    Args:
        folder: must not exist. tensors: the map of the weights. adapters: dotted path -> array.
        table: the rules they were attached by. base_model: name of the model they belong to.
    """
    own = adapter_tensors(tensors, set(adapters))
    rules = {}
    for entry in own:
        if entry.name.endswith("lora_A.weight"):
            base = entry.parts[0].path.removesuffix(".lora_a")
            module = entry.name.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
            rules[module.rsplit(".", 1)[-1]] = next(r for r in table if re.search(r.pattern, base))
    rank, alpha = Counter((r.rank, r.alpha) for r in rules.values()).most_common(1)[0][0]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "target_modules": sorted(rules),
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: r.rank for name, r in rules.items() if r.rank != rank},
        "alpha_pattern": {name: r.alpha for name, r in rules.items() if r.alpha != alpha},
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    hf.save(folder, own, adapters, config=config, names=hf.ADAPTER_FILES)
