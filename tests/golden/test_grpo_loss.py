"""Advantages, policy losses and their gradients of three RL libraries."""

LANDS_WITH = "the policy objectives"


def test_recorded_outputs(suite):
    raise NotImplementedError(f"compare with the files in {suite.name}")
