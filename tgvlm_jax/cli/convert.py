"""tgvlm convert: a Hugging Face folder into a checkpoint of ours, or the other way round.

    $ tgvlm convert --from Phi-3-mini-4k-instruct/ --to runs/phi3
    $ tgvlm convert --from Qwen2.5-VL-7B-Instruct/ --to runs/qwen --dtype float32
    $ tgvlm convert --from SmolLM2-135M/ --adapter peft/ --to runs/smol           # with LoRA
    $ tgvlm convert --from Llama-3-8B/ --to runs/llama --vocab_size 128264        # rows for <evi>
    $ tgvlm convert --from SmolLM2.Q4_1.gguf --to runs/smol         # llama.cpp's
    $ tgvlm convert --from SmolLM2-135M/ --encoder timesformer-k600/ --to runs/start     # ProfVLM
    $ tgvlm convert --from runs/tuned --merge --to tuned-hf/         # adapters folded in
    $ tgvlm convert --from runs/tuned --adapter-to tuned-peft/       # adapters alone

Which way it goes is told by what --from holds. The new folder appears whole or not at all. Ours is
read by `tgvlm inspect`, by --checkpoint and by train.init_from; theirs by from_pretrained. The
config and the tokenizer come along both ways.
"""

import functools
from pathlib import Path

from absl import flags as absl_flags

DTYPES = ("bfloat16", "float32")


def flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of the verb."""
    string = functools.partial(absl_flags.DEFINE_string, flag_values=flag_values)
    string("from", None, "<PATH>: in Hugging Face format, GGUF, or of ours", required=True)
    string("to", None, "<DIR>: must not be there yet")
    absl_flags.DEFINE_enum(
        "dtype", None, DTYPES, "of the weights; without it as they are", flag_values=flag_values
    )
    string("tokenizer", None, "<DIR>: takes the tokenizer from there")
    string("adapter", None, "<DIR>: a PEFT adapter to bring in with the model")
    string("encoder", None, "<DIR>: a TimeSformer, to see views of takes with")
    string("adapter-to", None, "<DIR>: where to write the adapters, in PEFT format")
    absl_flags.DEFINE_integer(
        "vocab_size", None, "rows for tokens like <evi>, new ones the mean", flag_values=flag_values
    )
    absl_flags.DEFINE_bool(
        "merge", False, "fold the adapters into the weights", flag_values=flag_values
    )


def main(flags: absl_flags.FlagValues) -> None:
    """Runs the verb."""
    import jax

    from tgvlm_jax.cli import convert_run

    # Weights are only moved: no accelerator is needed, and none must hold the whole model.
    jax.config.update("jax_platforms", "cpu")
    values = flags.flag_values_dict()
    folders = {
        name: Path(values[name]) if values[name] else None
        for name in ("to", "tokenizer", "adapter", "adapter-to", "encoder")
    }
    done = convert_run.convert(
        Path(values["from"]),
        to=folders["to"],
        tokenizer=folders["tokenizer"],
        adapter=folders["adapter"],
        adapter_to=folders["adapter-to"],
        dtype=flags.dtype,
        merge=flags.merge,
        vocab_size=flags.vocab_size,
        encoder=folders["encoder"],
    )
    print(done)
