"""`tgvlm VERB ...`: finds the verb, parses its flags, turns what goes wrong into one line.

Nothing heavy is imported before the verb is known, so that help is instant. A verb is a module of
this package with a docstring (its usage), `flags(flag_values)` and `main(flags)`.
"""

import difflib
import glob
import importlib
import inspect
import os
import sys
from collections.abc import Sequence

import tgvlm_jax

VERBS = {
    "demo": ("train on a real film, look at the report: all of it in one run", "tgvlm demo"),
    "shard": (
        "decode videos once into frame shards",
        "tgvlm shard --videos DIR --out DIR",
    ),
    "games": (
        "render little films with questions whose times are known exactly",
        "tgvlm games --out DIR --episodes 1000",
    ),
    "features": (
        "run a frozen encoder over all takes once, so that training need not",
        "tgvlm features --config configs/profvlm_sft.py --out DIR",
    ),
    "train": (
        "run an experiment",
        "tgvlm train --config configs/tiny.py:frames=48 --config.optim.lr=1e-5 --workdir DIR",
    ),
    "eval": (
        "score a checkpoint",
        "tgvlm eval --config configs/tiny.py --checkpoint DIR --workdir DIR",
    ),
    "ask": (
        "question a video: text, intervals, timeline",
        'tgvlm ask --checkpoint DIR --video clip.mp4 "When does the door open?"',
    ),
    "cot": (
        "have a model observe, think and answer, and keep the traces that hold",
        "tgvlm cot --records FILE --shards DIR --out DIR --checkpoint DIR",
    ),
    "viubench": (
        "make VIUBench's nine subsets of questions out of any videos, and score a model on them",
        "tgvlm viubench --shards DIR --out DIR --checkpoint DIR",
    ),
    "convert": (
        "Hugging Face folders into checkpoints and back, PEFT adapters too",
        "tgvlm convert --from HF_DIR --to DIR",
    ),
    "plan": (
        "compile a run for a TPU slice from any machine: does it fit?",
        "tgvlm plan --config configs/d2vlm_sft.py --topology v5e:4x4",
    ),
    "inspect": (
        "show what is in a config, shards, annotations or a checkpoint",
        "tgvlm inspect --config configs/tiny.py",
    ),
}

# Set before jax and its C++ parts load; what the person has set already stays.
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}

# Where there is no TPU, what libtpu would otherwise ask the network for and complain about.
_NO_TPU = {"TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; argv is what follows `tgvlm`, by default the process's own.

    Returns:
        The exit status: 0 done, 2 the person's input is wrong (one line on stderr), 130 Ctrl-C.
        Set TGVLM_TRACEBACK=1 to see where an input error came from.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(words)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("tgvlm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # `tgvlm inspect ... | head`: the reader has left, and Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("help", "-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"tgvlm {tgvlm_jax.__version__}")
        return 0
    verb, *rest = words
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.6)
        near = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(VERBS)}"
        return _fail(f"unknown verb {verb!r}; {near}")
    there = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/*")
    for name, value in (_QUIET if there else _QUIET | _NO_TPU).items():
        os.environ.setdefault(name, value)

    from tgvlm_jax.types import InputError  # loads jax, which help does without

    try:
        return _run(verb, rest)
    except BrokenPipeError:
        raise
    except (InputError, OSError, FloatingPointError) as error:
        if os.environ.get("TGVLM_TRACEBACK") == "1":
            raise
        return _fail(" ".join(str(error).split()))


def _run(verb: str, argv: list[str]) -> int:
    from absl.flags import FlagValues

    from tgvlm_jax.cli import flags as flags_lib

    module = importlib.import_module(f"tgvlm_jax.cli.{verb}")
    flag_values = FlagValues()
    module.flags(flag_values)
    options = argv[: argv.index("--")] if "--" in argv else argv
    if "-h" in options or "--help" in options:
        print(inspect.cleandoc(module.__doc__ or ""))
        print(f"\nFlags:\n{flags_lib.describe(flag_values)}")
        return 0
    flags_lib.parse(flag_values, argv, program=f"tgvlm {verb}")
    return module.main(flag_values) or 0


def _fail(message: str) -> int:
    print(f"tgvlm: error: {message}", file=sys.stderr)
    return 2


def _overview() -> str:
    lines = [(tgvlm_jax.__doc__ or "").strip(), "", "  tgvlm VERB --flag value ...", ""]
    for verb, (about, example) in VERBS.items():
        lines += [f"  {verb:<9}{about}", f"  {'':<9}  $ {example}"]
    lines += ["", "`tgvlm VERB --help` explains a verb. New here? Start with `tgvlm demo`."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
