"""tgvlm cot: make traces (observe, think, answer) out of questions about videos, and keep the good.

    $ tgvlm cot --records rl.json.gz --shards runs/r1 --out runs/cot --checkpoint runs/start \\
        --judge local --judge_checkpoint runs/judge
    $ tgvlm cot --records 'rl.part*of3.json.gz' --shards runs/r1 --out runs/cot \\
        --url http://localhost:8000/v1 --model qwen2.5-vl-72b --judge http \\
        --judge_url https://HOST/v1 --judge_model NAME --cache runs/cache

Questions are records as VideoP2R releases them. A model of ours (--checkpoint) or one behind an
OpenAI-compatible endpoint (--url, --model) writes a trace to each; those in form, with an answer
that scores at least --threshold, and with an observation from which a judge can tell the right
answer, are kept in --out, as the same records with their traces: a data set for
configs/videop2r_sft.py. dropped.jsonl says why the others were not, report.json how many.

The same command goes on with a job that was stopped, and asks again where an endpoint had failed;
its status is 3 while some records are undecided. Keys are read from $OPENAI_API_KEY, or from what
--key_variable names.
"""

from pathlib import Path

from absl import flags as absl_flags

UNDECIDED_STATUS = 3


def flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of the verb."""
    required = {
        "records": "<FILE>: JSON or JSON lines, .gz or not; parts by a `*`",
        "shards": "<DIR>: what `tgvlm shard` made of the videos",
        "out": "<DIR>: of the job and its results",
    }
    for name, about in required.items():
        absl_flags.DEFINE_string(name, None, about, flag_values=flag_values, required=True)
    texts = {
        "checkpoint": "<DIR>: work folder of the model that writes",
        "url": "<URL>: of the endpoint that writes, with its /v1",
        "model": "<NAME>: of the model there",
        "judge_url": "<URL>: of the endpoint that judges",
        "judge_model": "<NAME>: of the model there",
        "judge_checkpoint": "<DIR>: work folder of the model that judges",
        "cache": "<DIR>: keeps the replies of endpoints, so that none is paid for twice",
    }
    for name, about in texts.items():
        absl_flags.DEFINE_string(name, "", about, flag_values=flag_values)
    absl_flags.DEFINE_string(
        "key_variable", "OPENAI_API_KEY", "<NAME>: holds the key", flag_values=flag_values
    )
    absl_flags.DEFINE_string("name", "cot", "<NAME>: of the results", flag_values=flag_values)
    absl_flags.DEFINE_enum(
        "judge", "words", ["words", "http", "local"], "who judges", flag_values=flag_values
    )
    numbers = {
        "parts": (1, "files of the results"),
        "batch": (8, "records written at a time"),
        "frames": (16, "most frames an endpoint is shown"),
        "max_tokens": (1024, "longest trace"),
        "concurrency": (8, "requests at a time"),
        "retries": (3, "further attempts at a request"),
        "budget": (0, "requests to each endpoint in this run; 0 sets no bound"),
        "seed": (0, "of what is drawn at a --temperature"),
    }
    for name, (default, about) in numbers.items():
        absl_flags.DEFINE_integer(name, default, about, flag_values=flag_values, lower_bound=0)
    floats = {
        "threshold": (0.6, "least score of an answer"),
        "temperature": (0.0, "of a model of ours; 0 takes the likeliest tokens"),
        "timeout": (120.0, "seconds that a reply may take"),
    }
    for name, (default, about) in floats.items():
        absl_flags.DEFINE_float(name, default, about, flag_values=flag_values, lower_bound=0.0)


def main(flags: absl_flags.FlagValues) -> int:
    """Runs the verb."""
    from tgvlm_jax.cli import cot_run

    values = flags.flag_values_dict()
    counts = cot_run.run(cot_run.Options(**{n: values[n] for n in cot_run.NAMES}))
    dropped = ", ".join(f"{reason}: {count}" for reason, count in counts.dropped.items() if count)
    print(f"{counts.records} records: {counts.kept} kept; dropped: {dropped or 'none'}")
    if counts.undecided:
        print(f"{counts.undecided} undecided ({counts.why}); the same command asks again")
        return UNDECIDED_STATUS
    print(f"look:  {Path(flags.out) / 'report.json'}")
    return 0
