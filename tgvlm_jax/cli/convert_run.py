"""What `tgvlm convert` does, and the way into checkpoints of ours."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from tgvlm_jax import files
from tgvlm_jax.cli.convert_files import (
    architecture,
    beside_files,
    listed,
    size_on_disk,
    sizes,
    tokenizer_row,
    told,
)
from tgvlm_jax.cli.convert_out import abstract, adapted_maps, write
from tgvlm_jax.models import lora
from tgvlm_jax.models.parameters import Params
from tgvlm_jax.schema import Experiment, ModelConfig
from tgvlm_jax.train import model_folder
from tgvlm_jax.train.model_folder import HF_FILES
from tgvlm_jax.types import InputError
from tgvlm_jax.weights import encoders, gguf, hf, models, peft
from tgvlm_jax.weights.published import Published

_CODES = {"bfloat16": "BF16", "float32": "F32"}


def convert(
    source: Path,
    *,
    to: Path | None,
    dtype: str | None = None,
    tokenizer: Path | None = None,
    adapter: Path | None = None,
    adapter_to: Path | None = None,
    merge: bool = False,
    vocab_size: int | None = None,
    encoder: Path | None = None,
) -> str:
    """Converts a model, in the direction that follows from the source, and says what came of it.

    Args:
        source: a folder in Hugging Face format, a GGUF file, or a checkpoint of ours.
        to: the new folder; may be missing where only adapters are written.
        dtype: of the weights, "bfloat16" or "float32"; None keeps it.
        tokenizer: folder whose tokenizer files take the place of the source's.
        adapter: PEFT folder to bring in. adapter_to: PEFT folder to write.
        merge: folds the adapters into the weights.
        vocab_size: rows that embeddings and output head grow to on the way in, for tokens that a
            chat adds, such as `<evi>`; each new row is the mean of the others, as in the released
            code of D2VLM.
        encoder: folder of a TimeSformer, which a language model is given to see with (ProfVLM).

    Raises:
        InputError: a folder is missing, damaged or of another kind, the model is unknown or does
            not fit its config, a target exists or has no room, or the settings exclude each other.
    """
    _check_folders(
        made=(to, adapter_to),
        read=(None if _is_gguf(source) else source, tokenizer, adapter, encoder),
    )
    if (source / "experiment.json").exists():
        if vocab_size is not None:
            raise InputError(f"--vocab_size goes with a Hugging Face model; {source} is ours")
        for name, folder in (("adapter", adapter), ("encoder", encoder)):
            if folder is not None:
                raise InputError(f"--{name} goes with a Hugging Face model; {source} is ours")
        if to is None and adapter_to is None:
            raise InputError("--to is missing (see tgvlm convert --help)")
        return write(
            source, to, dtype=dtype, tokenizer=tokenizer, adapter_to=adapter_to, merge=merge
        )
    more = {"adapter": adapter, "adapter_to": adapter_to, "encoder": encoder, "merge": merge}
    more |= {"dtype": dtype, "tokenizer": tokenizer, "vocab_size": vocab_size}
    return (_from_gguf if _is_gguf(source) else _from_hf)(source, to, **more)


def _from_hf(
    source: Path,
    to: Path | None,
    *,
    vocab_size: int | None,
    adapter: Path | None,
    adapter_to: Path | None,
    merge: bool,
    **more: Any,
) -> str:
    if not (source / "config.json").exists():
        raise InputError(f"{source}: no model there, {_what(source)}")
    if to is None:
        raise InputError("--to is missing (see tgvlm convert --help)")
    if adapter_to is not None:
        raise InputError(f"--adapter-to goes with a checkpoint of ours, which {source} is not")
    if merge and adapter is None:
        raise InputError("--merge folds adapters into the weights; name them: --adapter DIR")
    model = models.read(source)
    rows = vocab_size or model.decoder.vocab_size
    if rows < model.decoder.vocab_size:
        raise InputError(
            f"--vocab_size {rows}: {source} has {model.decoder.vocab_size}, and none is taken away"
        )
    return _into(source, to, rows=rows, adapter=adapter, merge=merge, **more)


def _check_folders(*, made: Sequence[Path | None], read: Sequence[Path | None]) -> None:
    for folder in made:
        if folder is not None and folder.exists():
            raise InputError(f"{folder}: exists already; name another folder")
    for folder in read:
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no such folder")


def _is_gguf(source: Path) -> bool:
    return source.suffix == ".gguf" and source.is_file()


def _from_gguf(source: Path, to: Path | None, **options: Any) -> str:
    """By way of a folder in Hugging Face format, which then goes away again."""
    if to is None:
        raise InputError("--to is missing (see tgvlm convert --help)")
    with files.disk_errors(to), tempfile.TemporaryDirectory(dir=to.absolute().parent) as scratch:
        folder = Path(scratch) / source.stem
        folder.mkdir()
        print(f"unpacking {source}", flush=True)
        gguf.unpack(source, folder)
        return _from_hf(folder, to, **options)


def _what(source: Path) -> str:
    if (source / "adapter_config.json").exists():
        return f"only adapters; name the model they belong to, and --adapter {source}"
    return (
        "neither config.json (Hugging Face) nor experiment.json (ours); give the folder itself, "
        "not one above or below it"
    )


def _into(
    source: Path,
    to: Path,
    *,
    dtype: str | None,
    tokenizer: Path | None,
    adapter: Path | None,
    merge: bool,
    rows: int,
    encoder: Path | None,
) -> str:
    model = models.read(source)
    tensors, found = models.tensors(model), Published(source)
    stored = _stored_dtypes(found)
    # A type that we do not have, or several, fit into float32 without loss.
    dtype = dtype or ("bfloat16" if stored == {"BF16"} else "float32")
    model = dataclasses.replace(model, dtype=dtype, param_dtype=dtype)
    table = peft.read_table(adapter, tensors) if adapter else ()
    adapted = dataclasses.replace(model, lora=table)
    beside = beside_files(source, tokenizer)

    like = abstract(adapted)
    with files.disk_errors(to):
        files.check_room(to, sum(leaf.size * leaf.dtype.itemsize for leaf in like.values()))
    print(f"reading {len(found.names)} tensors from {source}", flush=True)
    base, ignore = lora.without(like), models.ignored(found, model)
    params = hf.load(source, tensors, like=base, ignore=ignore)
    if adapter:
        own = {name: leaf for name, leaf in like.items() if lora.is_adapter(name)}
        params |= peft.load(adapter, tensors, like=own)
    if merge:
        params = _merged(adapted, params)
        adapted = model
    params, adapted = _grown(adapted, params, rows)
    if encoder is not None:
        adapted = encoders.model(adapted, encoder)
        params |= encoders.load(adapted, encoder)
    print(f"writing {to}", flush=True)
    data = dataclasses.replace(Experiment().data, tokenizer=HF_FILES)
    experiment = Experiment(name=source.resolve().name, model=adapted, data=data)
    model_folder.save(to, experiment, params, beside=beside)
    about = {
        "architecture": architecture(source),
        **sizes(params),
        "dtype": dtype if stored == {_CODES[dtype]} else f"{dtype}, from {listed(stored)}",
        "tokenizer": tokenizer_row(beside),
        "files": size_on_disk(to),
    }
    return told(to, about, then=f"tgvlm inspect --checkpoint {to}")


def _stored_dtypes(found: Published) -> set[str]:
    return {found.dtype(name) for name in found.names if not hf.is_buffer(name)}


def _merged(model: ModelConfig, params: Params) -> Params:
    """Weights with their adapters folded in, one after another; `params` is used up."""
    for name, module in adapted_maps(model).items():
        parts = (params.pop(f"{name}.{one}") for one in ("weight", "lora_a", "lora_b"))
        params[f"{name}.weight"] = lora.folded(module, *parts)
    return params


def _grown(model: ModelConfig, params: Params, rows: int) -> tuple[Params, ModelConfig]:
    """With tables of so many rows."""
    fresh = rows - model.decoder.vocab_size
    if not fresh:
        return params, model
    tables = ("decoder.embedding.table", "decoder.untied_head.table")
    for name in filter(params.__contains__, tables):
        table = params[name]
        mean = jnp.mean(table.astype(jnp.float32), axis=0, keepdims=True).astype(table.dtype)
        params[name] = jnp.concatenate([table, jnp.repeat(mean, fresh, axis=0)])
    decoder = dataclasses.replace(model.decoder, vocab_size=rows)
    return params, dataclasses.replace(model, decoder=decoder)
