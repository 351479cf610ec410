"""Scores of a model that looks again, on the held-out questions of its own run."""

import json
from pathlib import Path

from tgvlm_jax import files
from tgvlm_jax.cli import session
from tgvlm_jax.data.sources import open_source
from tgvlm_jax.report.rollouts import write_rollouts
from tgvlm_jax.schema import SamplingConfig
from tgvlm_jax.text.tables import Table
from tgvlm_jax.train import episodes, talks, transcript

_PAGE = 12  # conversations on the page


def run(model: session.Model, out: Path, *, about: str) -> None:
    """Prints figures and writes metrics.json and, with the frames looked at, report.html.

    Raises:
        InputError: shards or annotations cannot be read, or a file cannot be written.
    """
    config, data = model.experiment.evaluation, model.experiment.data
    source = open_source(data, "eval", size=model.experiment.model.frame_size, seed=config.seed)
    frames, played = source.bucket(0), []
    for first in range(0, config.samples, config.batch_size):
        # A last batch that is short is filled up, so that nothing compiles twice.
        samples = [source.sample(first + i, frames=frames) for i in range(config.batch_size)]
        found = talks.play(
            model.params,
            samples,
            experiment=model.experiment,
            chat=model.chat,
            sampling=SamplingConfig(),
            max_tokens=config.max_tokens,
        )
        played += found[: config.samples - first]
    scores = episodes.summary(played)
    table = Table(title=about, columns=("figure", "value"), rows=tuple(scores.items()), decimals=3)
    print(table.text())
    text = json.dumps({"questions": len(played), "scores": scores}, indent=1)
    files.write_text(out / "metrics.json", text + "\n")
    groups = [transcript.record(0, talks.told((one,), ((),))) for one in played[:_PAGE]]
    write_rollouts(out / "report.html", groups, metrics=[], title="looking again")
