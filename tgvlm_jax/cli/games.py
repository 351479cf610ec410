"""tgvlm games: render little films with questions whose times are known exactly.

    $ tgvlm games --out runs/games
    $ tgvlm games --out runs/games --episodes 300 --seed 1 --kinds carry,open

A bot walks through a MiniGrid room, carries things, holds doors open, waits (needs the extra:
pip install "tgvlm_jax[games]"). Writes videos/, train.json and val.json (E.T. Instruct records:
grounding, dense captioning, referring), episodes.json (every event and mission) and a tokenizer,
and prints what answers earn that never look. The same seed gives the same set; training and
validation share no room.
"""

from pathlib import Path

from absl import flags as absl_flags


def flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of the verb."""
    absl_flags.DEFINE_string(
        "out", None, "<DIR>: a new folder, for all of it", flag_values=flag_values, required=True
    )
    absl_flags.DEFINE_integer(
        "episodes", 1000, "films to train on", flag_values=flag_values, lower_bound=1
    )
    absl_flags.DEFINE_integer(
        "validation", 100, "films held out", flag_values=flag_values, lower_bound=1
    )
    absl_flags.DEFINE_integer("seed", 0, "of everything", flag_values=flag_values, lower_bound=0)
    absl_flags.DEFINE_list(
        "kinds", "carry,open,wait", "<A,B>: events asked about", flag_values=flag_values
    )


def main(flags: absl_flags.FlagValues) -> None:
    """Runs the verb."""
    from tgvlm_jax.cli import games_run

    games_run.run(
        Path(flags.out),
        episodes=flags.episodes,
        validation=flags.validation,
        seed=flags.seed,
        kinds=tuple(flags.kinds),
    )
