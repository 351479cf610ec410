"""Entries that recur in the maps of the vision towers: norms, linear maps, heads, fused qkv."""

import dataclasses
from collections.abc import Sequence

from tgvlm_jax.weights.mapping import Part, Tensor, tensor

HEADS, HEADS_BIAS = "(h k) d -> d h k", "(h k) -> h k"
JOIN = "d (h k) -> h k d"
CONVOLUTION = "d c y x -> y x c d"


def norm(name: str, path: str) -> list[Tensor]:
    """A LayerNorm."""
    return [
        tensor(f"{name}.weight", f"{path}.scale", "d -> d"),
        tensor(f"{name}.bias", f"{path}.bias", "d -> d"),
    ]


def linear(
    name: str, path: str, *, weight: str = "e d -> d e", bias: str = "d -> d"
) -> list[Tensor]:
    """A linear map or convolution with bias."""
    return [
        tensor(f"{name}.weight", f"{path}.weight", weight),
        tensor(f"{name}.bias", f"{path}.bias", bias),
    ]


def heads(name: str, path: str) -> list[Tensor]:
    """A linear map whose outputs are heads."""
    return linear(name, path, weight=HEADS, bias=HEADS_BIAS)


def fused(name: str, path: str, *, bias: bool) -> list[Tensor]:
    """Queries, keys and values in one linear map."""
    kinds = [("weight", HEADS), ("bias", HEADS_BIAS)] if bias else [("weight", HEADS)]
    return [
        Tensor(
            name=f"{name}.{kind}",
            parts=tuple(Part(path=f"{path}.{one}.{kind}", pattern=pattern) for one in "qkv"),
        )
        for kind, pattern in kinds
    ]


def placed(entries: Sequence[Tensor], *, prefix: str, ours: str, step: int = 1) -> list[Tensor]:
    """The entries inside a larger model.

    Args:
        entries: of one module. prefix: what stands before the names. ours: before our paths.
        step: which of the numbered layers have them (`Tensor.step`).
    """
    return [
        dataclasses.replace(
            entry,
            name=prefix + entry.name,
            step=step,
            parts=tuple(dataclasses.replace(p, path=ours + p.path) for p in entry.parts),
        )
        for entry in entries
    ]
