"""What goes with a model beside its weights, and what `tgvlm convert` says in the end."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tgvlm_jax.models import lora
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import hf

_TOKENIZER = (
    *("tokenizer*.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.*"),
)
# Code that a config may name comes along: the folder is to be what it was.
_OTHERS = (
    *("config.json", "generation_config.json", "*processor_config.json", "*.py"),
    *("LICENSE*", "NOTICE*"),
)


def beside_files(folder: Path, tokenizer: Path | None) -> dict[str, Path]:
    """Files of a folder that go with its model, by name.

    Raises:
        InputError: `tokenizer`, which takes the place of the folder's own, has none.
    """
    own = tokenizer or folder
    found = _matching(folder, _OTHERS) | _matching(own, _TOKENIZER)
    if tokenizer is not None and not found.keys() & {"tokenizer.json", "tokenizer.model"}:
        raise InputError(f"{tokenizer}: no tokenizer there (tokenizer.json)")
    return found


def _matching(folder: Path, patterns: Iterable[str]) -> dict[str, Path]:
    found = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    return {path.name: path for path in sorted(found)}


def architecture(folder: Path) -> str:
    """The class and the type that a config names."""
    config = hf.read_config(folder)
    classes = config.get("architectures") or ["of no class"]
    return f"{classes[0]} ({config['model_type']})"


def sizes(params: Mapping[str, Any]) -> dict[str, str]:
    """How many parameters and adapters there are, as rows of a summary."""
    own = {name: value for name, value in params.items() if lora.is_adapter(name)}
    rows = {}
    if base := sum(math.prod(value.shape) for value in lora.without(params).values()):
        rows["parameters"] = f"{base:,}"
    if own:
        count = sum(math.prod(value.shape) for value in own.values())
        rows["adapters"] = f"{count:,} on {listed({name.rsplit('.', 1)[0] for name in own})}"
    return rows


def tokenizer_row(beside: Mapping[str, Path]) -> str:
    """The tokenizer's files among those that go with a model."""
    names = [name for name in beside if name.startswith("tokenizer")]
    return ", ".join(names) or "none; --tokenizer DIR brings one"


def size_on_disk(folder: Path) -> str:
    """How many files a folder has, and their bytes."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{len(sizes)}, {sum(sizes):,} bytes"


def listed(names: Iterable[str]) -> str:
    """Names in order, as text."""
    return ", ".join(sorted(names))


def told(folder: Path, rows: Mapping[str, str], *, then: str = "") -> str:
    """The summary: a folder, its rows, and what to do next."""
    wide = max(map(len, rows)) + 2
    lines = [f"{folder}:", *(f"  {name:<{wide}}{text}" for name, text in rows.items())]
    return "\n".join([*lines, *([f"now: {then}"] if then else [])])
