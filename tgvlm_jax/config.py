"""Experiment configs: load a Python file, override single values, freeze to dataclasses, dump.

A config file defines `get_config(arg)` and returns a locked ml_collections `ConfigDict`; `arg` is
what stands after the colon in `configs/tiny.py:frames=48`. The tree stays a ConfigDict as long as
a person may still change it. At the edge it is frozen once into the dataclasses of
`tgvlm_jax.schema`, and nothing below the command line sees a ConfigDict.

The overrides are parsed here and not by `ml_collections.config_flags`: that module loads files
through `load_module` (deprecated, gone in Python 3.15), reads the process's command line a second
time, and can set neither a list of strings nor None. Names and types are still checked by the
ConfigDict itself.
"""

import ast
import dataclasses
import difflib
import inspect
import pathlib
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ml_collections import ConfigDict, config_dict

from tgvlm_jax.types import InputError

T = TypeVar("T")

_WORDS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_NOTHING = ("none", "null")
_GROUP = (Mapping, ConfigDict)  # a ConfigDict is no Mapping


def suggest(name: str, choices: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest known one, or all where none is."""
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else "; there is none to choose from"


def parse_arg(arg: str | None, **defaults: Any) -> types.SimpleNamespace:
    """Reads a colon-argument such as `frames=96,tiny` into typed values.

    Args:
        arg: comma-separated `name=value` or bare `name` (a switch turned on); None and "" mean
            the defaults.
        **defaults: every name there is with its default, whose type the value takes. A default
            of None takes a string.

    Raises:
        InputError: a name that is not among the defaults, one given twice, or a wrong value.
    """
    values = dict(defaults)
    seen = set()
    for item in filter(None, (arg or "").split(",")):
        name, equals, text = (part.strip() for part in item.partition("="))
        if name not in defaults:
            raise InputError(f"unknown config argument {name!r}{suggest(name, defaults)}")
        if name in seen:
            raise InputError(f"config argument {name!r} is given twice")
        seen.add(name)
        default = defaults[name]
        if not equals and not isinstance(default, bool):
            raise InputError(f"config argument {name!r} needs a value: {name}={default}")
        kind = str if default is None else type(default)
        values[name] = _parse(text if equals else "true", kind, f"config argument {name!r}")
    return types.SimpleNamespace(**values)


def to_config_dict(value: Any) -> ConfigDict:
    """Turns a (nested) dataclass instance into a locked ConfigDict with the same keys.

    An optional field becomes a typed placeholder, so that an override keeps the type and may also
    say `none`; one of several types takes them all. Tuples stay tuples; the dataclasses in them
    become ConfigDicts.
    """
    hints = typing.get_type_hints(type(value))
    entries = {}
    for field in dataclasses.fields(value):
        entry, hint = _thaw(getattr(value, field.name)), hints[field.name]
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        if union and not isinstance(entry, ConfigDict):
            entry = config_dict.FieldReference(entry, field_type=_value_type(hint))
        entries[field.name] = entry
    return ConfigDict(entries).lock()


def _thaw(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_config_dict(value)
    if isinstance(value, tuple | list):
        return tuple(_thaw(item) for item in value)
    if isinstance(value, Mapping):
        return ConfigDict({key: _thaw(item) for key, item in value.items()})
    return value


def _value_type(hint: Any) -> type:
    """The one type a placeholder for `T | None` holds; `object` where T is itself a choice."""
    members = [member for member in typing.get_args(hint) if member is not type(None)]
    if len(members) != 1:
        return object
    (member,) = members
    if typing.get_origin(member) is typing.Literal:
        return type(typing.get_args(member)[0])
    if dataclasses.is_dataclass(member):
        return ConfigDict
    return typing.get_origin(member) or member


def freeze(config: ConfigDict, schema: type[T]) -> T:
    """Builds the dataclass `schema` (and those nested in it) from a config, checking every type.

    An int is taken where a float is wanted; nothing else is converted.

    Raises:
        InputError: an unknown, missing or ill-typed key, named with its full path; also what a
            dataclass's own `__post_init__` objects to.
    """
    return _freeze(config, schema, "")


def _freeze(value: Any, hint: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _freeze_group(value, hint, path)
    if origin in (typing.Union, types.UnionType):
        return _freeze_union(value, hint, path)
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            near = suggest(str(value), map(str, choices))
            raise InputError(f"config key {path!r}: {value!r} is not a choice{near}")
        return value
    if hint is tuple or origin is tuple:
        return _freeze_tuple(value, hint, path)
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, _GROUP):
        item = typing.get_args(hint)[1]
        return {key: _freeze(value[key], item, _join(path, key)) for key in value}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted: Any = hint if isinstance(hint, type) else origin
    # A bool passes for an int in Python, never in a config.
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        _fail(value, hint, path)
    return value


def _freeze_group(value: Any, schema: Any, path: str) -> Any:
    if not isinstance(value, _GROUP):
        _fail(value, schema, path)
    hints = typing.get_type_hints(schema)
    fields = {field.name: field for field in dataclasses.fields(schema) if field.init}
    for key in value:
        if key not in fields:
            near = suggest(key, fields)
            raise InputError(f"unknown config key {_join(path, key)!r}{near}")
    for name, field in fields.items():
        no_default = field.default is field.default_factory is dataclasses.MISSING
        if no_default and name not in value:
            raise InputError(f"config key {_join(path, name)!r} is missing and has no default")
    frozen = {key: _freeze(value[key], hints[key], _join(path, key)) for key in value}
    try:
        return schema(**frozen)
    except ValueError as error:
        where = f"config group {path!r}" if path else "config"
        raise InputError(f"{where}: {error}") from error


def _freeze_union(value: Any, hint: Any, path: str) -> Any:
    members = typing.get_args(hint)
    if value is None and type(None) in members:
        return None
    members = [member for member in members if member is not type(None)]
    if len(members) == 1:
        return _freeze(value, members[0], path)
    if isinstance(value, _GROUP):
        members = [m for m in members if dataclasses.is_dataclass(m)]
        tagged = [m for m in members if value.get("kind") in _kinds(m)]
        if len(tagged) == 1:
            return _freeze(value, tagged[0], path)
        if members and all(map(_kinds, members)):
            known = [kind for member in members for kind in _kinds(member)]
            near = suggest(str(value.get("kind")), known)
            raise InputError(f"config key {_join(path, 'kind')!r} is none of {known}{near}")
    exact = [member for member in members if member is type(value)]
    for member in exact + members:
        try:
            return _freeze(value, member, path)
        except InputError:
            continue
    return _fail(value, hint, path)


def _kinds(schema: Any) -> tuple[str, ...]:
    """What the `kind` of a dataclass may say, which tells it from the others of a union."""
    hint = typing.get_type_hints(schema).get("kind")
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _freeze_tuple(value: Any, hint: Any, path: str) -> Any:
    if not isinstance(value, tuple | list):
        _fail(value, hint, path)
    items = typing.get_args(hint) or (Any, ...)
    if items[-1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise InputError(f"config key {path!r} wants {len(items)} values, got {len(value)}")
    pairs = zip(value, items, strict=True)
    return tuple(_freeze(one, item, f"{path}[{i}]") for i, (one, item) in enumerate(pairs))


def _fail(value: Any, hint: Any, path: str) -> typing.NoReturn:
    wanted = hint.__name__ if type(hint) is type else str(hint).replace("typing.", "")
    shown = "a group of keys" if isinstance(value, _GROUP) else repr(value)
    raise InputError(f"config key {path!r} wants {wanted}, got {shown} ({type(value).__name__})")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def load(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Runs a config file's `get_config` and applies overrides.

    Args:
        spec: path of the file, and after a colon its argument: `configs/tiny.py:frames=48`.
        overrides: `key.path=value` strings, applied in order; see `override`.

    Raises:
        InputError: no such file, no `get_config` in it, an exception raised inside (with its
            line), or a bad override.
    """
    name, colon, arg = spec.partition(":")
    path = pathlib.Path(name)
    get_config = _get_config(path)
    takes_arg = bool(inspect.signature(get_config).parameters)
    if colon and not takes_arg:
        raise InputError(f"{path}: get_config takes no argument, got {arg!r} after the colon")
    config = _guard(path, lambda: get_config(arg or None) if takes_arg else get_config())
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise InputError(f"{path}: get_config must return a ConfigDict, it returned {kind}")
    config.lock()
    for item in overrides:
        override(config, item)
    return config


def _get_config(path: pathlib.Path) -> Callable[..., Any]:
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else pathlib.Path("configs")
        near = suggest(str(path), (str(file) for file in folder.glob("*.py")))
        raise InputError(f"no config file {str(path)!r}{near}")
    # Compiled afresh and not imported: a byte-code cache would miss an edit within the second.
    module = types.ModuleType(f"tgvlm_config_{path.stem}")
    module.__file__ = str(path)
    _guard(path, lambda: exec(compile(path.read_text(), str(path), "exec"), vars(module)))
    if not callable(getattr(module, "get_config", None)):
        raise InputError(f"{path}: defines no get_config(arg); see the files in configs/")
    return module.get_config


def _guard(path: pathlib.Path, call: Callable[[], Any]) -> Any:
    """Calls code of the config file; an exception in it becomes one line with file and line."""
    try:
        return call()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except SyntaxError as error:
        raise InputError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        frames = traceback.extract_tb(sys.exc_info()[2])
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        raise InputError(f"{where}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    # A locked ConfigDict answers a misspelt key with every field it has, addresses included.
    missing = re.search(r'Key "(\w+)" does not exist', text)
    if missing:
        near = re.search(r'Did you mean "(\w+)"', text)
        return f"no config key {missing[1]!r}" + (f"; did you mean {near[1]!r}?" if near else "")
    return f"{type(error).__name__}: {text}"


def override(config: ConfigDict, item: str) -> None:
    """Sets one value of a config in place, from text such as `optim.lr=1e-5`.

    The text is read as the type the key already has. A tuple is written `(1, 2)`, `1,2` or `a,b`;
    `none` clears an optional key, and the name of a switch alone turns it on.

    Raises:
        InputError: no `=`, an unknown key (the nearest is named), a group, or a wrong type.
    """
    key, equals, text = item.partition("=")
    *groups, name = key.split(".")
    holder: Any = config
    for group in groups:
        holder = holder[group] if isinstance(holder, ConfigDict) and group in holder else None
    if not equals:
        if not isinstance(holder, ConfigDict) or not isinstance(holder.get(name), bool):
            raise InputError(f"config override {item!r} has no value: write {item}=VALUE")
        text = "true"
    if not isinstance(holder, ConfigDict) or name not in holder:
        raise InputError(f"unknown config key {key!r}{_suggest_key(key, config)}")
    where, kind, old = f"config key {key!r}", holder.get_type(name), typing.cast(Any, holder[name])
    optional = isinstance(
        dict(holder.items(preserve_field_references=True))[name], config_dict.FieldReference
    )
    if text.lower() in _NOTHING and (optional or kind in (ConfigDict, type(None))):
        holder[name] = None
    elif kind is ConfigDict:
        inside = ", ".join(old or ()) or "it is none; the config file must set it"
        raise InputError(f"{where} is a group; set one of its keys: {inside}")
    elif kind is tuple or kind is list:
        holder[name] = kind(_parse_tuple(text, old or ()))
    else:
        holder[name] = _parse(text, kind, where)


def _suggest_key(key: str, config: ConfigDict) -> str:
    """The nearest full key; one that ends in the same name is nearer than one spelled alike."""
    known = [path for path, _ in _leaves(config, "")]
    same_end = [path for path in known if path.split(".")[-1] == key.split(".")[-1]]
    close = difflib.get_close_matches(key, same_end, n=1, cutoff=0.0)
    if close:
        return f"; did you mean {close[0]!r}?"
    return suggest(key, known)


def _parse(text: str, kind: type, where: str) -> Any:
    """Reads text as a value of the given type; where names it in the error."""
    try:
        if kind is bool:
            return _WORDS[text.lower()]
        if kind is int:
            return _parse_int(text)
        if kind is float:
            return float(text)
    except (KeyError, ValueError):
        raise InputError(f"{where} wants {kind.__name__}, got {text!r}") from None
    if kind is str:
        return text
    if kind is object and text.lower() in ("true", "false"):
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        if float(text).is_integer():  # a person writes 2e4 steps
            return int(float(text))
        raise


def _parse_tuple(text: str, old: Sequence[Any]) -> tuple:
    """Reads `(1, 2)`, `1,2` or `a,b`; words are strings, and so is all where the old ones were."""
    words = bool(old) and all(isinstance(item, str) for item in old)
    try:
        value = _nested_tuple(ast.literal_eval(text.strip() or "()"))
        value = value if isinstance(value, tuple) else (value,)
        if not words or all(isinstance(item, str) for item in value):
            return value
    except (SyntaxError, ValueError):
        pass
    items = (item.strip().strip("'\"") for item in text.strip(" ()[]").split(","))
    return tuple(item for item in items if item)


def _nested_tuple(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_nested_tuple(item) for item in value)
    return value


def dump(config: ConfigDict) -> str:
    """The whole config as sorted `key.path = value` lines: same config, same text."""
    return "".join(f"{path} = {value!r}\n" for path, value in sorted(_leaves(config, "")))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, ConfigDict) and value:
        for key in value:
            yield from _leaves(value[key], _join(path, key))
    elif isinstance(value, tuple | list) and any(isinstance(item, ConfigDict) for item in value):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{path}[{i}]")
    else:
        yield path, value
