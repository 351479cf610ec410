"""E.T. Bench metrics on answers with evidence spans, in the four published variants."""

LANDS_WITH = "evaluation of E.T. Bench, evidence variants"


def test_recorded_outputs(suite):
    raise NotImplementedError(f"compare with the files in {suite.name}")
