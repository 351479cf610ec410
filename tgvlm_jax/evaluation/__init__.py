"""Benchmarks and metrics; all but the runner are pure functions that need no device."""
