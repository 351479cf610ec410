"""What `tgvlm convert` does: into checkpoints of ours, and out of them."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from tgvlm_jax.models import lora, parameters
from tgvlm_jax.models.parameters import Params
from tgvlm_jax.models.vlm import VideoLanguageModel
from tgvlm_jax.schema import Experiment, ModelConfig
from tgvlm_jax.train import checkpoint, model_folder
from tgvlm_jax.train.model_folder import HF_FILES
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import hf, hf_config, models, peft
from tgvlm_jax.weights.published import Published

_TOKENIZER = (
    *("tokenizer*.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.*"),
)
# Code that a config may name comes along: the folder is to be what it was.
_OTHERS = (
    *("config.json", "generation_config.json", "*processor_config.json", "*.py"),
    *("LICENSE*", "NOTICE*"),
)


def convert(
    source: Path,
    *,
    to: Path | None,
    dtype: str | None = None,
    tokenizer: Path | None = None,
    adapter: Path | None = None,
    adapter_to: Path | None = None,
    merge: bool = False,
) -> str:
    """Converts a model, in the direction that follows from the source, and says what came of it.

    Args:
        source: a folder in Hugging Face format, or a checkpoint of ours.
        to: the new folder; may be missing where only adapters are written.
        dtype: of the weights, "bfloat16" or "float32"; None keeps it.
        tokenizer: folder whose tokenizer files take the place of the source's.
        adapter: PEFT folder to bring in. adapter_to: PEFT folder to write.
        merge: folds the adapters into the weights.

    Raises:
        InputError: a folder is missing, damaged or of another kind, the model is unknown or does
            not fit its config, a target exists or has no room, or the settings exclude each other.
    """
    for folder in (to, adapter_to):
        if folder is not None and folder.exists():
            raise InputError(f"{folder}: exists already; name another folder")
    for folder in (source, tokenizer, adapter):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
    if (source / "experiment.json").exists():
        if adapter is not None:
            raise InputError(f"--adapter goes with a Hugging Face model; {source} is one of ours")
        if to is None and adapter_to is None:
            raise InputError("--to is missing (see tgvlm convert --help)")
        return _out(
            source, to, dtype=dtype, tokenizer=tokenizer, adapter_to=adapter_to, merge=merge
        )
    if not (source / "config.json").exists():
        raise InputError(f"{source}: no model there, {_what(source)}")
    if to is None:
        raise InputError("--to is missing (see tgvlm convert --help)")
    if adapter_to is not None:
        raise InputError(f"--adapter-to goes with a checkpoint of ours, which {source} is not")
    if merge and adapter is None:
        raise InputError("--merge folds adapters into the weights; name them: --adapter DIR")
    return _into(source, to, dtype=dtype, tokenizer=tokenizer, adapter=adapter, merge=merge)


def _what(source: Path) -> str:
    if (source / "adapter_config.json").exists():
        return f"only adapters; name the model they belong to, and --adapter {source}"
    return (
        "neither config.json (Hugging Face) nor experiment.json (ours); give the folder itself, "
        "not one above or below it"
    )


# ---------------------------------------------------------------------------------- into ours


def _into(
    source: Path,
    to: Path,
    *,
    dtype: str | None,
    tokenizer: Path | None,
    adapter: Path | None,
    merge: bool,
) -> str:
    model = models.read(source)
    tensors, found = models.tensors(model), Published(source)
    stored = _stored_dtypes(found)
    # A type that we do not have, or several, fit into float32 without loss.
    dtype = dtype or ("bfloat16" if stored == {"BF16"} else "float32")
    model = dataclasses.replace(model, dtype=dtype, param_dtype=dtype)
    table = peft.read_table(adapter, tensors) if adapter else ()
    adapted = dataclasses.replace(model, lora=table)
    beside = _beside(source, tokenizer)

    print(f"reading {len(found.names)} tensors from {source}", flush=True)
    like = _abstract(adapted)
    params = hf.load(source, tensors, like=lora.without(like))
    if adapter:
        own = {name: leaf for name, leaf in like.items() if lora.is_adapter(name)}
        params |= peft.load(adapter, tensors, like=own)
    if merge:
        params = _merged(adapted, params)
        adapted = model
    print(f"writing {to}", flush=True)
    data = dataclasses.replace(Experiment().data, tokenizer=HF_FILES)
    experiment = Experiment(name=source.resolve().name, model=adapted, data=data)
    model_folder.save(to, experiment, params, beside=beside)
    return _told(
        to,
        {
            "architecture": _architecture(source),
            **_sizes(params),
            "dtype": dtype if stored == {_CODES[dtype]} else f"{dtype}, from {_and(stored)}",
            "tokenizer": _tokenizer(beside),
            "files": _files(to),
        },
        then=f"tgvlm inspect --checkpoint {to}",
    )


_CODES = {"bfloat16": "BF16", "float32": "F32"}


def _stored_dtypes(found: Published) -> set[str]:
    return {found.dtype(name) for name in found.names if not hf.is_buffer(name)}


def _abstract(model: ModelConfig) -> Params:
    return jax.eval_shape(lambda: parameters.init(model, jax.random.key(0)))


def _maps(model: ModelConfig) -> dict[str, Any]:
    """The linear maps with adapters, nothing allocated."""
    return lora.adapted(nnx.eval_shape(lambda: VideoLanguageModel(model, rngs=nnx.Rngs(0))))


def _merged(model: ModelConfig, params: Params) -> Params:
    """Weights with their adapters folded in, one after another; `params` is used up."""
    for name, module in _maps(model).items():
        parts = (params.pop(f"{name}.{one}") for one in ("weight", "lora_a", "lora_b"))
        params[f"{name}.weight"] = lora.folded(module, *parts)
    return params


# ---------------------------------------------------------------------------------- out of ours


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stored:
    """A parameter that is read when it is asked for its values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], jax.Array]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read())


def _out(
    source: Path,
    to: Path | None,
    *,
    dtype: str | None,
    tokenizer: Path | None,
    adapter_to: Path | None,
    merge: bool,
) -> str:
    model = checkpoint.load_experiment(source).model
    model = dataclasses.replace(model, param_dtype=dtype or model.param_dtype)
    base = dataclasses.replace(model, lora=())
    _check_adapters(source, model, adapter_to, merge)
    try:
        hf_config.family(base)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    tensors = models.tensors(base)
    with contextlib.closing(checkpoint.Checkpoints(source, read_only=True)) as store:
        params = _lazily(store, model, merge=merge)
        if to is not None:
            made = _config(source, base, tokenizer)
            beside = _beside(source / HF_FILES, tokenizer)
            beside.pop("config.json", None)
            print(f"writing {to}", flush=True)
            weights = lora.without(params)
            hf.save(to, tensors, weights, config=made, beside=[*beside.values()])
        if adapter_to is not None:
            print(f"writing {adapter_to}", flush=True)
            own = {name: value for name, value in params.items() if lora.is_adapter(name)}
            base_model = str(to or "")
            peft.save(adapter_to, tensors, own, table=model.lora, base_model=base_model)
    if to is None:
        assert adapter_to is not None
        return _told(adapter_to, {**_sizes(own), "files": _files(adapter_to)})
    rows = {
        "architecture": _architecture(to),
        **_sizes(params if not merge else weights),
        "dtype": base.param_dtype,
        "tokenizer": _tokenizer(beside),
        "files": _files(to),
    }
    return _told(to, rows | ({"adapter files": _files(adapter_to)} if adapter_to else {}))


def _check_adapters(source: Path, model: ModelConfig, adapter_to: Path | None, merge: bool) -> None:
    if merge and adapter_to is not None:
        raise InputError("--merge and --adapter-to: the adapters go into the weights or apart")
    if not model.lora and (merge or adapter_to is not None):
        raise InputError(f"{source}: has no adapters; leave out --merge and --adapter-to")
    if model.lora and not merge and adapter_to is None:
        raise InputError(
            f"{source}: has adapters; fold them into the weights with --merge, or write them apart "
            "with --adapter-to DIR"
        )


def _lazily(
    store: checkpoint.Checkpoints, model: ModelConfig, *, merge: bool
) -> dict[str, _Stored]:
    """All parameters, none of them read yet; with `merge`, weights as they are with adapters."""
    like, there = _abstract(model), store.shapes()
    wanted = {name: tuple(leaf.shape) for name, leaf in like.items()}
    both = there.keys() | wanted.keys()
    if wrong := sorted(name for name in both if there.get(name) != wanted.get(name)):
        raise InputError(f"{store.directory}: not the model of its config: {', '.join(wrong)}")

    def read(*names: str) -> list[jax.Array]:
        found = store.restore_params(model, mesh=None, names=names)
        return [found[name] for name in names]

    def plain(name: str) -> Callable[[], jax.Array]:
        return lambda: read(name)[0]

    def folded(name: str, module: Any) -> Callable[[], jax.Array]:
        parts = [f"{name}.{one}" for one in ("weight", "lora_a", "lora_b")]
        return lambda: lora.folded(module, *read(*parts))

    readers = {name: plain(name) for name in like}
    if merge:
        readers |= {f"{name}.weight": folded(name, one) for name, one in _maps(model).items()}
    return {
        name: _Stored(shape=wanted[name], dtype=np.dtype(leaf.dtype), read=readers[name])
        for name, leaf in like.items()
    }


def _config(source: Path, model: ModelConfig, tokenizer: Path | None) -> Mapping[str, Any]:
    """The config that came with the model, as long as it is the model's, or one made anew."""
    folder = source / HF_FILES
    if (folder / "config.json").is_file():
        kept = models.read(folder)
        if (kept.decoder, _shape_of(kept)) == (model.decoder, _shape_of(model)):
            return hf.read_config(folder)
    ids = hf_config.token_ids(model, tokenizer=tokenizer or folder)
    return hf_config.to_hf(model, ids=ids)


def _shape_of(model: ModelConfig) -> dict[str, Any]:
    """What a config says of a tower: not how it is computed, nor how pixels are normalised."""
    free = {"remat", "queries", "mean", "std"}
    tower = {} if model.tower is None else dataclasses.asdict(model.tower)
    return {key: value for key, value in tower.items() if key not in free}


# ---------------------------------------------------------------------------------- both


def _beside(folder: Path, tokenizer: Path | None) -> dict[str, Path]:
    """Files that go with a model, by name."""
    own = tokenizer or folder
    found = _matching(folder, _OTHERS) | _matching(own, _TOKENIZER)
    if tokenizer is not None and not found.keys() & {"tokenizer.json", "tokenizer.model"}:
        raise InputError(f"{tokenizer}: no tokenizer there (tokenizer.json)")
    return found


def _matching(folder: Path, patterns: Iterable[str]) -> dict[str, Path]:
    found = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    return {path.name: path for path in sorted(found)}


def _architecture(folder: Path) -> str:
    config = hf.read_config(folder)
    classes = config.get("architectures") or ["of no class"]
    return f"{classes[0]} ({config['model_type']})"


def _sizes(params: Mapping[str, Any]) -> dict[str, str]:
    own = {name: value for name, value in params.items() if lora.is_adapter(name)}
    rows = {}
    if base := sum(math.prod(value.shape) for value in lora.without(params).values()):
        rows["parameters"] = f"{base:,}"
    if own:
        count = sum(math.prod(value.shape) for value in own.values())
        rows["adapters"] = f"{count:,} on {_and({name.rsplit('.', 1)[0] for name in own})}"
    return rows


def _tokenizer(beside: Mapping[str, Path]) -> str:
    names = [name for name in beside if name.startswith("tokenizer")]
    return ", ".join(names) or "none; --tokenizer DIR brings one"


def _files(folder: Path) -> str:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{len(sizes)}, {sum(sizes):,} bytes"


def _and(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _told(folder: Path, rows: Mapping[str, str], *, then: str = "") -> str:
    wide = max(map(len, rows)) + 2
    lines = [f"{folder}:", *(f"  {name:<{wide}}{text}" for name, text in rows.items())]
    return "\n".join([*lines, *([f"now: {then}"] if then else [])])
