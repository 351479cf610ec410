"""D2VLM: vision states, SFT and FPO losses with gradients, generation with evidence tokens."""

LANDS_WITH = "the D2VLM model and its objectives"


def test_recorded_outputs(suite):
    raise NotImplementedError(f"compare with the files in {suite.name}")
