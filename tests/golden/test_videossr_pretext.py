"""VideoSSR: the pretext generators, from a seed to a plan to pixels."""

LANDS_WITH = "the VideoSSR pretext tasks"


def test_recorded_outputs(suite):
    raise NotImplementedError(f"compare with the files in {suite.name}")
