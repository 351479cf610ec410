"""absl flags for the verbs: `--config FILE:ARG --config.a.b=V`, positional words, help, errors.

A verb defines its flags on a FlagValues of its own, so that two verbs may use one name and a test
may run a verb inside its process. `parse` turns whatever absl objects to into one line.
"""

import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import TypeVar

from absl import flags

from tgvlm_jax import config
from tgvlm_jax.types import InputError

_Kind = TypeVar("_Kind", bound=flags.Flag)
_OVERRIDE = re.compile(r"--?config\.(.*)", re.DOTALL)


class _ConfigFlag(flags.Flag):
    """`--config`; its value is the path while absl parses and the loaded ConfigDict after."""


class _PositionalFlag(flags.Flag):
    """A word that stands on the command line without a flag's name in front."""

    required: bool = True


def define_config(flag_values: flags.FlagValues, *, required: bool = True) -> None:
    """Defines `--config FILE[:ARG]`, and with it `--config.KEY=VALUE`.

    After parsing, `flag_values.config` is the loaded ConfigDict with the overrides applied, or
    None where the flag is optional and absent.
    """
    about = "the experiment, a Python file; ARG goes to its get_config"
    flags.DEFINE_flag(_new(_ConfigFlag, "config", about), flag_values)
    if required:
        flags.mark_flag_as_required("config", flag_values)


def define_positional(
    flag_values: flags.FlagValues, name: str, *, about: str, required: bool = True
) -> None:
    """Defines a string that is given by its place, in the order of definition."""
    flag = _new(_PositionalFlag, name, about)
    flag.required = required
    flags.DEFINE_flag(flag, flag_values)


def _new(kind: type[_Kind], name: str, about: str) -> _Kind:
    return kind(flags.ArgumentParser(), flags.ArgumentSerializer(), name, None, about)


def parse(flag_values: flags.FlagValues, argv: Sequence[str], *, program: str) -> None:
    """Parses a verb's command line into its flags, config file and overrides included.

    Args:
        flag_values: the verb's own flags, already defined.
        argv: the words after the verb.
        program: what the person typed to get here, such as `tgvlm train`.

    Raises:
        InputError: an unknown flag (the nearest is named), a wrong or missing value, a word too
            many, or a config that does not load.
    """
    holder = _find(flag_values, _ConfigFlag)
    plain, overrides = _split(argv) if holder else (list(argv), [])
    flag_values.set_gnu_getopt(True)  # flags may follow the positional words
    try:
        words = flag_values([program, *plain])[1:]
    except flags.UnrecognizedFlagError as error:
        near = config.suggest(f"--{error.flagname}", (f"--{name}" for name in flag_values))
        raise InputError(f"unknown flag --{error.flagname}{near}") from None
    except flags.Error as error:
        raise InputError(f"{_one_line(error)} (see {program} --help)") from None
    for flag in _find(flag_values, _PositionalFlag):
        if words:
            flag.value = words.pop(0)
        elif flag.required and flag.value is None:
            raise InputError(f"{flag.name.upper()} is missing (see {program} --help)")
    if words:
        raise InputError(f"unexpected word {words[0]!r} (see {program} --help)")
    if holder and holder[0].value is not None:
        holder[0].value = config.load(holder[0].value, overrides)
    elif overrides:
        raise InputError(f"--config.{overrides[0]} needs --config FILE to change")


def _find(flag_values: flags.FlagValues, kind: type[flags.Flag]) -> list:
    return [flag_values[name] for name in flag_values if isinstance(flag_values[name], kind)]


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words for absl, and the `KEY=VALUE` of every `--config.KEY=VALUE`."""
    plain, overrides = [], []
    words = iter(argv)
    for word in words:
        found = _OVERRIDE.fullmatch(word)
        (overrides if found else plain).append(found[1] if found else word)
        if word == "--":
            plain.extend(words)
    return plain, overrides


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    missing = re.match(r"flag (--\S+)=None: Flag \S+ must have a value", text)
    return f"{missing[1]} is missing" if missing else text


def describe(flag_values: flags.FlagValues) -> str:
    """A table of the flags for `tgvlm VERB --help`, no wider than the terminal."""
    rows = [row for name in flag_values for row in _rows(flag_values[name])]
    wide = max((len(left) for left, _ in rows), default=0) + 4
    width = min(shutil.get_terminal_size().columns, 100)
    lines = []
    for left, about in rows:
        wrapped = textwrap.wrap(about, max(width - wide, 30)) or [""]
        lines.append(f"  {left:<{wide - 2}}{wrapped[0]}")
        lines.extend(" " * wide + line for line in wrapped[1:])
    return "\n".join(lines)


def _rows(flag: flags.Flag) -> list[tuple[str, str]]:
    placeholder, about = _placeholder(flag)
    if _required(flag):
        about += " (required)"
    if isinstance(flag, _PositionalFlag):
        return [(flag.name.upper(), about)]
    if isinstance(flag, _ConfigFlag):
        example = "change one value of it, such as --config.optim.lr=1e-5"
        return [("--config FILE[:ARG]", about), ("--config.KEY=VALUE", example)]
    if flag.boolean:
        return [(f"--[no]{flag.name}" if flag.default else f"--{flag.name}", about)]
    if flag.default is not None and flag.default != [] and flag.default != "":
        about += f" (default: {_shown(flag.default)})"
    return [(f"--{flag.name} {placeholder}", about)]


def _shown(default: object) -> str:
    return ",".join(map(str, default)) if isinstance(default, list) else str(default)


def _required(flag: flags.Flag) -> bool:
    if isinstance(flag, _PositionalFlag):
        return flag.required
    return any("must have a value" in validator.message for validator in flag.validators)


def _placeholder(flag: flags.Flag) -> tuple[str, str]:
    """What stands for the value, and the help; a help of "<DIR>: where to" names it itself.

    absl writes the choices of an enum in the same way.
    """
    found = re.fullmatch(r"(?:<([^>]*)>: )?(.*)", " ".join((flag.help or "").split()))
    assert found is not None
    kinds = {"int": "N", "float": "X", "multi int": "N"}
    return found[1] or kinds.get(flag.flag_type(), "VALUE"), found[2]
