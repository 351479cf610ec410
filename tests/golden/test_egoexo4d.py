"""Ego-Exo4D proficiency: accuracy by view."""

LANDS_WITH = "evaluation of Ego-Exo4D proficiency"


def test_recorded_outputs(suite):
    raise NotImplementedError(f"compare with the files in {suite.name}")
