"""Video-MTR: parsing, rewards, sampling, rollouts, turn-level advantages, PPO losses."""

LANDS_WITH = "Video-MTR"


def test_recorded_outputs(suite):
    raise NotImplementedError(f"compare with the files in {suite.name}")
