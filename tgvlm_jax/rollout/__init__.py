"""Sampling from models: one prompt pass, then one jitted loop with evidence feedback."""
