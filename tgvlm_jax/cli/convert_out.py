"""Checkpoints of ours into Hugging Face and PEFT folders, one parameter in memory at a time."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from tgvlm_jax.cli.convert_files import (
    architecture,
    beside_files,
    size_on_disk,
    sizes,
    tokenizer_row,
    told,
)
from tgvlm_jax.models import lora, parameters
from tgvlm_jax.models.parameters import Params
from tgvlm_jax.models.vlm import VideoLanguageModel
from tgvlm_jax.schema import FrameEncoderConfig, ModelConfig
from tgvlm_jax.train import checkpoint
from tgvlm_jax.train.model_folder import HF_FILES
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import hf, hf_config, models, peft


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stored:
    """A parameter that is read when it is asked for its values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], jax.Array]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read())


def write(
    source: Path,
    to: Path | None,
    *,
    dtype: str | None,
    tokenizer: Path | None,
    adapter_to: Path | None,
    merge: bool,
) -> str:
    """Writes the newest checkpoint of `source`; the arguments are those of `convert`.

    Raises:
        InputError: it is damaged or of a model without a Hugging Face form, a target has no room,
            or what is to become of adapters does not follow.
    """
    model = checkpoint.load_experiment(source).model
    model = dataclasses.replace(model, param_dtype=dtype or model.param_dtype)
    base = dataclasses.replace(model, lora=(), critic=None)
    _check_adapters(source, model, adapter_to, merge)
    try:
        if not isinstance(base.tower, FrameEncoderConfig):  # whose config.json came with it
            hf_config.family(base)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    tensors = models.tensors(base)
    with contextlib.closing(checkpoint.Checkpoints(source, read_only=True)) as store:
        every = _lazily(store, model, merge=merge)
        # A critic has no Hugging Face form, and is of no use there.
        params = {name: one for name, one in every.items() if not parameters.is_critic(name)}
        weights, adapters = lora.without(params), {}
        if to is not None:
            print(f"writing {to}", flush=True)
            beside = beside_files(source / HF_FILES, tokenizer)
            beside.pop("config.json", None)
            config = _config(source, base, tokenizer)
            hf.save(to, tensors, weights, config=config, beside=[*beside.values()])
        if adapter_to is not None:
            print(f"writing {adapter_to}", flush=True)
            adapters = {name: one for name, one in params.items() if lora.is_adapter(name)}
            name = {"base_model": str(to)} if to else {}
            peft.save(adapter_to, tensors, adapters, table=model.lora, **name)
    if to is None:
        assert adapter_to is not None
        return told(adapter_to, {**sizes(adapters), "files": size_on_disk(adapter_to)})
    rows = {
        "architecture": architecture(to),
        **sizes(weights | adapters),
        "dtype": base.param_dtype,
        "tokenizer": tokenizer_row(beside),
        "files": size_on_disk(to),
    }
    return told(to, rows | ({"adapter files": size_on_disk(adapter_to)} if adapter_to else {}))


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
    like, there = abstract(model), store.shapes()
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
        readers |= {
            f"{name}.weight": folded(name, one) for name, one in adapted_maps(model).items()
        }
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


def abstract(model: ModelConfig) -> Params:
    """What the parameters of a model look like."""
    return jax.eval_shape(lambda: parameters.init(model, jax.random.key(0)))


def adapted_maps(model: ModelConfig) -> dict[str, Any]:
    """The linear maps of a model that have adapters, nothing allocated."""
    return lora.adapted(nnx.eval_shape(lambda: VideoLanguageModel(model, rngs=nnx.Rngs(0))))
