"""Rewards: pure functions of an answer and its truth, one file a system."""
