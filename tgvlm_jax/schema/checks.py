"""Checks that several groups of settings make."""

from typing import Any

from tgvlm_jax.types import InputError


def positive(config: Any, *names: str) -> None:
    """Raises InputError where a named setting, or one of its values, is below 1."""
    for name in names:
        value = getattr(config, name)
        if any(one < 1 for one in (value if isinstance(value, tuple) else (value,))):
            raise InputError(f"{name}={value}: give at least 1")


def not_negative(config: Any, *names: str) -> None:
    """Raises InputError where a named setting is below 0."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise InputError(f"{name}={getattr(config, name)}: give 0 or more")


def divides(small_name: str, small: int, large_name: str, large: int) -> None:
    """Raises InputError unless `small` divides `large`."""
    if small < 1 or large % small:
        raise InputError(f"{small_name}={small} must divide {large_name}={large}")
