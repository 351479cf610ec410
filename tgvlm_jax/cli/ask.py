"""tgvlm ask: put a question to a model about any video; it answers with intervals in seconds.

    $ tgvlm ask --checkpoint runs/demo/seed0 --video clip.mp4 "When is the picture upside down?"
    $ tgvlm ask --checkpoint DIR --video clip.mp4 --spans 12-20 "What happens in <evi>?"
    $ tgvlm ask --checkpoint DIR --video film.mp4 --start 60 --end 90 --out answer.html "When ...?"

Writes a page with the film strip, the intervals and the model's belief in every frame. A video
longer than what the model was trained on is asked about window by window, and the surest answer
wins. A model knows what it was trained for: the demo's model knows the questions that the demo's
report shows.
"""

from pathlib import Path

from absl import flags as absl_flags

from tgvlm_jax.cli.flags import define_positional


def flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of the verb."""
    define_positional(flag_values, "question", about="what to ask, in quotes")
    absl_flags.DEFINE_string(
        "checkpoint", None, "<DIR>: work folder of a run", flag_values=flag_values, required=True
    )
    absl_flags.DEFINE_string(
        "video", None, "<FILE>: any film", flag_values=flag_values, required=True
    )
    absl_flags.DEFINE_float("start", 0.0, "seconds to begin at", flag_values=flag_values)
    absl_flags.DEFINE_float(
        "end", None, "seconds to stop at; the end of the film if none", flag_values=flag_values
    )
    absl_flags.DEFINE_list(
        "spans",
        [],
        "<A-B,...>: seconds that each <evi> of the question means",
        flag_values=flag_values,
    )
    absl_flags.DEFINE_string(
        "out", "timeline.html", "<FILE>: page to write", flag_values=flag_values
    )


def main(flags: absl_flags.FlagValues) -> None:
    """Runs the verb."""
    from tgvlm_jax.cli import ask_run
    from tgvlm_jax.cli.session import prepare_jax

    prepare_jax()
    ask_run.run(
        Path(flags.checkpoint),
        Path(flags.video),
        question=flags.question,
        start=flags.start,
        end=flags.end,
        spans=ask_run.parse_spans(flags.spans),
        out=Path(flags.out),
    )
