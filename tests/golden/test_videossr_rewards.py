"""VideoSSR: rewards of grounding, counting and jigsaw answers."""

LANDS_WITH = "the VideoSSR rewards"


def test_recorded_outputs(suite):
    raise NotImplementedError(f"compare with the files in {suite.name}")
